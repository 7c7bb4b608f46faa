"""Asks upstream whether secrets are valid: `GET /v1/models`, many at once, never more than so many a second.

The call proves that a key is valid and says nothing about its credit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from quotapool.domain.verdict import Kind, Verdict
from quotapool.observe.redaction import Redactor
from quotapool.openai.classify import classify
from quotapool.settings import Settings, UpstreamKey
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts, UpstreamFailure, read_body
from quotapool.upstream.routes import Route
from quotapool.upstream.tls_sessions import client_context

AT_ONCE: Final = 64
PER_SECOND: Final = 200.0
NO_ANSWER: Final = "no answer"
_PATIENCE: Final = Timeouts(connect=5.0, first_byte=15.0, between_bytes=15.0)
_TRIES: Final = 3
_PAUSE_S: Final = 0.5
_GIVE_UP_AFTER: Final = 200  # secrets in a row without an answer: it is not the secrets

# Whoever is told one of these was recognised: a restricted key may list no models, a busy one may have to wait.
_RECOGNISED: Final = frozenset({Kind.OK, Kind.MODEL, Kind.MONEY, Kind.WAIT, Kind.SLOW_DOWN})
_PASSING: Final = frozenset({Kind.WAIT, Kind.SLOW_DOWN, Kind.SERVICE})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """What upstream said. `word` is stable ("valid", "no answer", "dead: invalid_api_key"), `reason` its last part;
    `detail` is for people, without secrets."""

    ok: bool
    word: str
    detail: str = ""
    kind: str = ""
    reason: str = ""


class KeyChecker:
    """Asks one upstream; to be closed. `redactor` cleans what upstream says."""

    def __init__(self, settings: Settings, redactor: Redactor, *, per_second: float = PER_SECOND) -> None:
        self._tls = client_context(settings.ca_file)
        self._proxy_for = settings.proxy_for
        self._pools = settings.upstream
        self._upstreams: dict[str, UpstreamClient] = {}
        self._redactor = redactor
        self._pause_s = 1.0 / per_second
        self._next = 0.0
        self._silent = 0

    async def close(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.close()

    async def ask(self, key: UpstreamKey) -> KeyCheck:
        """One key; what passes by itself is asked again, twice."""
        asked = KeyCheck(False, NO_ANSWER, "upstream did not answer the ones before")
        for trial in range(_TRIES):
            if self._silent >= _GIVE_UP_AFTER:
                return asked
            await self._turn()
            asked = await self._ask(key)
            if asked.kind and asked.kind not in _PASSING:
                break
            await asyncio.sleep(_PAUSE_S * 2**trial if trial + 1 < _TRIES else 0)
        self._silent = self._silent + 1 if not asked.kind else 0
        return asked

    async def _turn(self) -> None:
        """No more than so many a second."""
        loop = asyncio.get_running_loop()
        at = max(loop.time(), self._next)
        self._next = at + self._pause_s
        await asyncio.sleep(at - loop.time())

    async def _ask(self, key: UpstreamKey) -> KeyCheck:
        secret, own = key.secret.get_secret_value(), key.upstream
        route = Route(own.url, own.header, own.query) if own is not None else Route(self._pools)
        upstream = self._upstreams.get(route.base)
        if upstream is None:
            upstream = self._upstreams[route.base] = UpstreamClient(
                route.base, _PATIENCE, tls=self._tls, proxy=self._proxy_for(route.base)
            )
        headers = [route.credential(secret), ("Accept-Encoding", "identity")]
        try:
            answer = await upstream.send("GET", route.target("/v1/models"), headers, None)
            try:
                body = self._redactor.clean_bytes((await read_body(answer, 2**20)).replace(secret.encode(), b"..."))
            finally:
                answer.close()
        except UpstreamFailure as failure:
            return KeyCheck(False, NO_ANSWER, str(failure), reason=NO_ANSWER)
        return said(classify(answer.status, answer.headers, body))


def said(verdict: Verdict) -> KeyCheck:
    """A verdict in an operator's words."""
    ok = verdict.kind in _RECOGNISED
    plain = f"{verdict.kind}: {verdict.reason}" if verdict.reason else verdict.kind.value
    return KeyCheck(ok, "valid" if verdict.kind is Kind.OK else plain, verdict.message, verdict.kind, verdict.reason)


async def ask_all(
    asker: KeyChecker, items: Iterable[T], key_of: Callable[[T], UpstreamKey], *, at_once: int = AT_ONCE
) -> AsyncIterator[tuple[T, KeyCheck]]:
    """Each item with what was said of it, as answers come; holds `at_once` of them in memory and no more."""
    waiting = iter(items)
    under_way: dict[asyncio.Task[KeyCheck], T] = {}

    def more() -> None:
        for item in waiting:
            under_way[asyncio.create_task(asker.ask(key_of(item)))] = item
            if len(under_way) >= at_once:
                return

    try:
        more()
        while under_way:
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield under_way.pop(task), task.result()
            more()
    finally:
        for task in under_way:
            task.cancel()
