"""Many clients that ask the same at the same time, each on a connection of its own, and try again as OpenAI's SDKs do.

    async with Crowd() as crowd:
        asked = [crowd.ask(url, body) for url in urls]     # tasks
        answers = await asyncio.gather(*asked)

A client that tries again opens a new connection, which may be another process's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp

RETRIES: Final = 2  # openai.DEFAULT_MAX_RETRIES
_FIRST_PAUSE_S: Final = 0.5  # openai._constants.INITIAL_RETRY_DELAY, doubled each time, less up to a quarter
_MOST_OPEN: Final = 1_500
_LONGEST_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got in the end. `status` 0: nothing whole, and `detail` says why. `result`: how it came about."""

    status: int
    body: bytes
    result: str = ""
    tries: int = 1
    detail: str = ""


class Crowd:
    """The clients' side. At most 1,500 connections at once. `key`: theirs, if they need one."""

    def __init__(self, key: str = "") -> None:
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._rng = random.Random(7)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_MOST_OPEN, force_close=True),
            timeout=aiohttp.ClientTimeout(total=_LONGEST_S),
            headers=self._headers,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def ask(self, base_url: str, body: Mapping[str, Any], path: str = "/chat/completions") -> asyncio.Task[Answer]:
        """One client's request."""
        return asyncio.create_task(self._ask(base_url + path, body))

    async def _ask(self, url: str, body: Mapping[str, Any]) -> Answer:
        for tried in range(RETRIES + 1):
            answer = await self._once(url, body, tried + 1)
            # Once an answer has begun, the SDK's caller has it, and what comes then is final.
            if answer.status == 200 or answer.detail == "cut" or not _is_retried(answer.status) or tried == RETRIES:
                return answer
            await asyncio.sleep(_FIRST_PAUSE_S * 2**tried * (1 - 0.25 * self._rng.random()))
        raise AssertionError("not reached")

    async def _once(self, url: str, body: Mapping[str, Any], tries: int) -> Answer:
        begun = False
        try:
            async with self._session.post(url, json=body) as answer:
                begun = bool(body.get("stream"))  # a plain answer is read within the try that may be made again
                result = answer.headers.get("x-quotapool-cache", "")
                return Answer(answer.status, await answer.read(), result, tries)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return Answer(0, b"", tries=tries, detail="cut" if begun else repr(error))


def _is_retried(status: int) -> bool:
    """By openai._base_client._should_retry; 0: the connection failed."""
    return status in {0, 408, 409, 429} or status >= 500
