"""What the proxy itself answers instead of upstream: a catalogued error, with what this case adds to it."""

from __future__ import annotations

import math

from quotapool.openai import replies
from quotapool.openai.replies import ProxyError


class Refusal(Exception):
    """Ends a request with one of `replies.ALL`. `retry_after_s`: when the same request can succeed, None: unknown.

    `final`: the proxy has retried already; a client's own retries would multiply that.
    """

    def __init__(
        self,
        error: ProxyError,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        param: str | None = None,
        final: bool = False,
    ) -> None:
        super().__init__(message or error.message)
        self.error = error
        self.status = error.status
        self._message = message
        self._retry_after_s = retry_after_s
        self._param = param
        self._final = final
        self.also: list[tuple[str, str]] = []  # the pool's rate headers, where they are known

    def body(self) -> bytes:
        """OpenAI's error JSON."""
        return self.error.body(self._message, param=self._param)

    def headers(self) -> list[tuple[str, str]]:
        steer = self.error.headers
        if self._final:
            steer = [("x-should-retry", "false")]
        elif self._retry_after_s is not None and math.isfinite(self._retry_after_s):
            steer = replies.retry_headers(self._retry_after_s)
        return [("content-type", "application/json"), ("x-quotapool-source", "proxy"), *steer, *self.also]
