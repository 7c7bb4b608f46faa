"""Reads JSON from OpenAI for the supervisor and the commands: with retries and bounds, without leaking its secret."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from quotapool.observe.redaction import Redactor

T = TypeVar("T")
Query = Sequence[tuple[str, str | int]]

_TRIES: Final = 4
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 30.0
_LARGEST_ANSWER: Final = 32 * 2**20
_TIMEOUT: Final = aiohttp.ClientTimeout(total=60, connect=10)


class NoAnswer(Exception):
    """Why OpenAI did not answer, without secrets. `final`: trying again with this key does not help.

    `found` False: there is no such object.
    """

    def __init__(self, message: str, *, final: bool, found: bool = True) -> None:
        super().__init__(message)
        self.final = final
        self.found = found


class JsonReader:
    """GETs JSON from OpenAI with one secret: retries 429 and 5xx, follows no redirect, which would get the secret.

    `explain` returns what a 401 or 403 means, given the status and OpenAI's own message.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base: str,
        secret: str,
        explain: Callable[[int, str], str],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        *,
        proxy: str | None = None,
    ) -> None:
        self._session = session
        self._base = base
        self._clean = Redactor([secret]).clean
        self._headers = {"Authorization": f"Bearer {secret}", "Accept": "application/json"}
        self._explain = explain
        self._sleep = sleep
        self._proxy = proxy

    async def get(self, path: str, shape: type[T], query: Query = ()) -> T:
        """The answer of `/v1{path}` as `shape`. Raises NoAnswer."""
        for attempt in range(_TRIES):
            last = attempt == _TRIES - 1
            try:
                status, headers, body = await self._once(path, query)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if last:
                    raise NoAnswer(f"OpenAI's {path} cannot be reached: {self._reason(error)}", final=False) from None
                wait_s = _backoff(attempt)
            else:
                if status == 200:
                    return self._decoded(path, body, shape)
                if last or not (status in {408, 409, 429} or status >= 500):
                    raise self._refusal(path, status, body)
                wait_s = _retry_after(headers.get("Retry-After"), _backoff(attempt))
            await self._sleep(wait_s)
        raise AssertionError  # the last try returned or raised

    async def _once(self, path: str, query: Query) -> tuple[int, Any, bytes]:
        url = f"{self._base}/v1{path}"
        parameters = [(name, str(value)) for name, value in query]
        async with self._session.get(
            url,
            params=parameters,
            headers=self._headers,
            allow_redirects=False,
            timeout=_TIMEOUT,
            proxy=self._proxy,
        ) as answer:
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > _LARGEST_ANSWER:
                    raise NoAnswer(f"OpenAI's {path} answers more than {_LARGEST_ANSWER >> 20} MiB", final=True)
            return answer.status, answer.headers, bytes(body)

    def _refusal(self, path: str, status: int, body: bytes) -> NoAnswer:
        message = self._message(body)
        if status in {401, 403}:
            return NoAnswer(self._explain(status, message), final=True)
        if status == 404:
            return NoAnswer(f"OpenAI knows no {path}: {message}", final=True, found=False)
        final = 400 <= status < 500 and status != 429
        return NoAnswer(f"OpenAI's {path} answers {status}: {message}", final=final)

    def _decoded(self, path: str, body: bytes, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            reason = self._clean(str(error))
            raise NoAnswer(f"OpenAI's {path} answers in an unknown shape: {reason}", final=False) from None

    def _message(self, body: bytes) -> str:
        """OpenAI's own message, shortened and without secrets."""
        try:
            document = msgspec.json.decode(body)
            error = document["error"]
            text = error["message"] if isinstance(error, dict) else error
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            return "(no JSON error)"
        return self._clean(str(text))[:300]

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return "no answer in time"
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return f"the forward proxy answers {error.status}"
        return self._clean(str(error))


def _backoff(attempt: int) -> float:
    return _FIRST_WAIT_S * 2.0**attempt * random.uniform(0.75, 1.25)


def _retry_after(header: str | None, default: float) -> float:
    """`Retry-After` in seconds, if it is a number."""
    try:
        seconds = float(header or "")
    except ValueError:
        return default
    return min(_LONGEST_WAIT_S, seconds) if seconds >= 0 else default
