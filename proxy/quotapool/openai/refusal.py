"""An error that the proxy itself answers with: one of the catalogue, with the details of this case."""

from __future__ import annotations

import math

from quotapool.openai import replies
from quotapool.openai.head import Header
from quotapool.openai.replies import ProxyError


class Refusal(Exception):
    """Ends a request with one of `replies.ALL`. `retry_after_s`: when the same request can succeed; None: unknown.

    `final`: the proxy has already retried; a client's own retries would multiply that. `about`, for the log, is the
    kind of id that led to it and where it was read, never the id.
    """

    def __init__(
        self,
        error: ProxyError,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        param: str | None = None,
        final: bool = False,
        about: str = "",
    ) -> None:
        super().__init__(message or error.message)
        self.error = error
        self.status = error.status
        self.about = about
        self._message = message
        self._retry_after_s = retry_after_s
        self._param = param
        self._final = final
        self.rules: tuple[str, ...] = ()  # of its client's own rules, those that refuse it
        self.also: list[Header] = []  # the pool's rate headers, if they are known

    def body(self) -> bytes:
        """OpenAI's error JSON."""
        return self.error.body(self._message, param=self._param)

    def headers(self) -> list[Header]:
        retry = self.error.headers
        if self._final:
            retry = [(b"x-should-retry", b"false")]
        elif self._retry_after_s is not None and math.isfinite(self._retry_after_s):
            retry = replies.retry_headers(self._retry_after_s)
        return [(b"content-type", b"application/json"), (b"x-quotapool-source", b"proxy"), *retry, *self.also]


class UnknownKey(Refusal):
    """Of a key that no client has, as far as this process knows: it may have been made a moment ago."""
