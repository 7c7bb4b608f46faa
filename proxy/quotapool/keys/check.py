"""Checks with upstream whether keys are valid: `GET /v1/models`, many at once, at most so many a second.

The call proves that a key is valid; it proves nothing about its credit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from quotapool.domain.verdict import Kind, Verdict
from quotapool.keys.keyring import credentials_of
from quotapool.observe.redaction import Redactor
from quotapool.openai.classify import classify
from quotapool.settings import Settings, UpstreamKey
from quotapool.upstream.interface import Answer, Timeouts, Upstream, UpstreamFailure, read_body
from quotapool.upstream.origins import Origins
from quotapool.upstream.routes import Route

AT_ONCE: Final = 64
PER_SECOND: Final = 200.0
NO_ANSWER: Final = "no answer"
NOT_THE_API: Final = "cannot tell: this is not OpenAI's API"
_TIMEOUTS: Final = Timeouts(connect=5.0, first_byte=15.0, between_bytes=15.0)
_LARGEST: Final = 2**22  # bytes of a list; what other servers offer may be a thousand models
_TRIES: Final = 3
_PAUSE_S: Final = 0.5
_GIVE_UP_AFTER: Final = 200  # keys in a row without an answer: the fault is not the keys'

# A key that gets one of these was recognised: a restricted one may list no models, a busy one may have to wait.
_RECOGNISED: Final = frozenset({Kind.OK, Kind.MODEL, Kind.MONEY, Kind.WAIT, Kind.SLOW_DOWN})
_SAYS_NOTHING: Final = frozenset({"", Kind.SERVICE, Kind.EGRESS, Kind.REQUEST})  # about the key; the last: a wrong path
_TEMPORARY: Final = frozenset({Kind.WAIT, Kind.SLOW_DOWN, Kind.SERVICE})

T = TypeVar("T")


class _Model(msgspec.Struct):
    id: str


class _Listed(msgspec.Struct):
    data: list[_Model]


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """What upstream answered. `answer` is a stable text ("valid", NO_ANSWER, NOT_THE_API, "dead: invalid_api_key"),
    `reason` a word for it; `detail` is for people, without secrets."""

    ok: bool
    answer: str
    detail: str = ""
    kind: str = ""
    reason: str = ""

    @property
    def is_known(self) -> bool:
        """Whether it says anything about the key."""
        return self.kind not in _SAYS_NOTHING

    @classmethod
    def of(cls, verdict: Verdict) -> KeyCheck:
        """A verdict in an operator's words."""
        text = f"{verdict.kind}: {verdict.reason}" if verdict.reason else verdict.kind.value
        answer = "valid" if verdict.kind is Kind.OK else text
        return cls(verdict.kind in _RECOGNISED, answer, verdict.message, verdict.kind, verdict.reason)


class KeyChecker:
    """To be closed. `settings` and `upstreams` have every upstream that a checked key may have; `redactor` cleans what
    it answers."""

    def __init__(
        self, settings: Settings, redactor: Redactor, *, per_second: float = PER_SECOND, upstreams: Iterable[str] = ()
    ) -> None:
        self._base = settings.upstream
        self._origins = Origins(settings, credentials_of(settings), _TIMEOUTS, also=upstreams)
        self._redactor = redactor
        self._interval_s = 1.0 / per_second
        self._next = 0.0
        self._unanswered = 0

    async def aclose(self) -> None:
        await self._origins.close()

    async def check(self, key: UpstreamKey) -> KeyCheck:
        """One key; a temporary answer, or none, makes it try again, twice."""
        found = KeyCheck(False, NO_ANSWER, "upstream did not answer for the keys before it")
        for trial in range(_TRIES):
            if self._unanswered >= _GIVE_UP_AFTER:
                return found
            await self._wait_for_turn()
            found = await self._call(key)
            if found.kind and found.kind not in _TEMPORARY:
                break
            await asyncio.sleep(_PAUSE_S * 2**trial if trial + 1 < _TRIES else 0)
        self._unanswered = self._unanswered + 1 if not found.kind else 0
        return found

    async def _wait_for_turn(self) -> None:
        loop = asyncio.get_running_loop()
        at = max(loop.time(), self._next)
        self._next = at + self._interval_s
        await asyncio.sleep(at - loop.time())

    async def models(self, key: UpstreamKey) -> list[str] | None:
        """The models that upstream lists for this key; None: it lists none, or does not answer as it should."""
        await self._wait_for_turn()
        try:
            answer, body = await self._ask(key)
        except UpstreamFailure:
            return None
        return _models_in(body) if answer.status == 200 else None

    async def _call(self, key: UpstreamKey) -> KeyCheck:
        try:
            answer, body = await self._ask(key)
        except UpstreamFailure as failure:
            return KeyCheck(False, NO_ANSWER, str(failure), reason=NO_ANSWER)
        verdict = classify(answer.status, answer.headers, body)
        if verdict.kind is Kind.OK and (answer.status != 200 or _models_in(body) is None):  # a login page, say
            detail = f"it answers {answer.status} without a list of models"
            return KeyCheck(False, NOT_THE_API, detail, Kind.EGRESS, f"http_{answer.status}")
        return KeyCheck.of(verdict)

    async def _ask(self, key: UpstreamKey) -> tuple[Answer, bytes]:
        """`GET /v1/models`: the closed answer, and its body without secrets. Raises UpstreamFailure."""
        secret, own = key.secret.get_secret_value(), key.upstream
        route = Route(self._base) if own is None else Route(own.url, own.header, own.query)
        upstream: Upstream = self._origins.main if own is None else self._origins.others[own.url]
        headers = [route.credential(secret), (b"Accept-Encoding", b"identity")]
        answer = await upstream.send("GET", route.target("/v1/models"), headers, None)
        try:
            body = await read_body(answer, _LARGEST)
            return answer, self._redactor.clean_bytes(body.replace(secret.encode(), b"..."))
        finally:
            answer.close()


def _models_in(body: bytes) -> list[str] | None:
    """Their names in OpenAI's list (API reference, "List models"); None: it is none."""
    try:
        return [model.id for model in msgspec.json.decode(body, type=_Listed).data]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


async def check_all(
    checker: KeyChecker,
    items: Iterable[T] | AsyncIterator[T],
    key_of: Callable[[T], UpstreamKey],
    *,
    at_once: int = AT_ONCE,
) -> AsyncIterator[tuple[T, KeyCheck]]:
    """Each item with the check of its key, in the order of the answers; holds at most `at_once` items in memory."""
    waiting = items if isinstance(items, AsyncIterator) else _one_by_one(items)
    running: dict[asyncio.Task[KeyCheck], T] = {}

    async def fill() -> None:
        async for item in waiting:
            running[asyncio.create_task(checker.check(key_of(item)))] = item
            if len(running) >= at_once:
                return

    try:
        await fill()
        while running:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield running.pop(task), task.result()
            await fill()
    finally:
        for task in running:
            task.cancel()


async def _one_by_one(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item
