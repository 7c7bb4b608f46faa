"""Notes what a worker's requests need of the pool: sums in memory, sent to the store every few seconds.

`note` is called for each request that was answered, so it only adds. What waits is bounded; what a worker had not sent
when it was killed, and what was on its way when the store failed, is in no advice.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Protocol

import structlog

from quotapool.advice.beginnings import FIRST, Beginnings
from quotapool.advice.bursts import Bursts
from quotapool.advice.digests import Digests
from quotapool.advice.note_store import Name, NoteStore
from quotapool.advice.sums import Sums
from quotapool.domain.quantities import Certainty, Cost, Usage
from quotapool.domain.request_record import RequestRecord
from quotapool.money.price_list import STANDARD, standard_or
from quotapool.openai.cacheable import canonical
from quotapool.openai.endpoints import Endpoint
from quotapool.openai.facts import Canonical
from quotapool.openai.prompt_text import is_single_input, prompt_text
from quotapool.settings import Settings
from quotapool.store.store import StoreError

_log = structlog.get_logger()
BATCH: Final = -1  # the priority of clients that can wait
LARGEST: Final = 2**18  # bytes of a body of which more than sums is noted
_EVERY_S: Final = 5.0
_LAST_S: Final = 2.0  # at the end, for a store that does not answer
_MOST_NAMES: Final = 1000
_MOST_ASKED: Final = 20_000  # digests that wait, 3 MB
_DIGESTS_A_CALL: Final = 100  # a third of a millisecond, for which the store serves no reserve
_ROWS_A_CALL: Final = 20
_CACHED_FROM: Final = 1024  # prompt tokens (prompt caching guide)
_CACHE_KEY: Final = b'"prompt_cache_key"'
_TOOLS: Final = b'"tools"'


class Asked(Protocol):
    """What is looked at of a request; `ClientRequest` is one."""

    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def text(self) -> bytes: ...
    @property
    def cost(self) -> Cost: ...
    @property
    def output(self) -> int: ...
    @property
    def choices(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...


_Waiting = tuple[bytes, Name, int, int]  # digest, whose, tokens, picodollars


class Notes:
    """One worker's. `key`: of `digest_key`; `team_of`: a client's team, "" without one.

    `configure` with each new configuration, `run` beside everything else, `close` at the end.
    """

    def __init__(
        self, store: NoteStore, settings: Settings, key: bytes, *, team_of: Callable[[str], str] = lambda _: ""
    ) -> None:
        self._store = store
        self._team_of = team_of
        self._sums: dict[Name, Sums] = {}
        self._asked: deque[_Waiting] = deque()
        self._beginnings = Beginnings()
        self._bursts = Bursts()
        self._away = False
        self._sending = asyncio.Lock()
        self.configure(settings, key)

    def configure(self, settings: Settings, key: bytes) -> None:
        self._enabled = settings.advice.enabled
        self._keep_s = settings.advice.keep
        self._cache = settings.cache
        self._digests = Digests(key, settings.pool) if key else None

    def note(self, asked: Asked, record: RequestRecord, target: str, priority: int) -> None:
        """A request was answered. `target`: path and query as they came; `priority`: as it was admitted."""
        if not self._enabled or not 200 <= record.status < 300 or record.cut or not record.attempts:
            return
        attempt, kind = record.attempts[-1], asked.endpoint.estimate
        usage = attempt.usage
        if usage is None or usage.certainty is not Certainty.EXACT or kind is None:
            return
        name = record.client, record.model
        row = self._row(name)
        if row is None:
            return
        prompt, cached, completion, pico = usage.prompt, usage.cached_prompt, usage.completion, record.pico or 0
        row.requests += 1
        row.prompt += prompt
        row.cached += cached
        row.completion += completion
        row.reserved += asked.cost.tokens
        row.pico += pico
        if asked.output and asked.choices == 1:
            row.limit(asked.output, asked.prompt_tokens, asked.cost.tokens, completion)
        if priority == BATCH and standard_or(attempt.tier) == STANDARD:
            row.patient += 1
            row.patient_prompt += prompt
            row.patient_cached += cached
            row.patient_completion += completion
            row.patient_pico += pico
        if len(asked.text) > LARGEST:
            return
        if kind == "embeddings":
            self._note_single(row, name, asked.text)
        elif prompt >= _CACHED_FROM and len(asked.text) >= FIRST and _CACHE_KEY not in asked.text:
            self._note_beginning(row, name, usage, prompt_text(kind, asked.text))
        if self._digests is not None and not record.cache:
            self._note_digest(self._digests, name, asked, record, target, prompt + completion, pico)

    def _row(self, name: Name) -> Sums | None:
        row = self._sums.get(name)
        if row is None and len(self._sums) < _MOST_NAMES:
            row = self._sums[name] = Sums()
        return row

    def _note_single(self, row: Sums, name: Name, text: bytes) -> None:
        if is_single_input(text):
            row.singles += 1
            requests, bursts = self._bursts.add(name, time.monotonic())
            row.in_bursts += requests
            row.bursts += bursts

    def _note_beginning(self, row: Sums, name: Name, usage: Usage, prompt: bytes) -> None:
        if len(prompt) < FIRST:
            return
        row.long += 1
        common = self._beginnings.common("\0".join(name), prompt, time.monotonic())
        if common:
            tokens = usage.prompt * common // len(prompt)
            row.alike += 1
            row.alike_tokens += tokens
            row.alike_uncached += max(0, tokens - usage.cached_prompt)

    def _note_digest(
        self, digests: Digests, name: Name, asked: Asked, record: RequestRecord, target: str, tokens: int, pico: int
    ) -> None:
        """For the store to tell whether it was asked before: a request whose answer a cache could keep."""
        cache = self._cache
        if len(self._asked) >= _MOST_ASKED or (_TOOLS in asked.text and not cache.tools):
            return
        found = canonical(asked.endpoint, record.method, target, asked.text)
        if isinstance(found, Canonical) and found.temperature <= cache.max_temperature:
            scope = cache.scope_of(record.client, self._team_of(record.client))
            digest = digests.digest(scope, asked.endpoint.name, found.text)
            self._asked.append((digest, name, tokens, pico))

    # ---- to the store

    async def run(self) -> None:
        """Send every few seconds, forever."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 - whatever it is, the next seconds' notes must be sent
                _log.exception("notes for advice cannot be stored")

    async def flush(self) -> bool:
        """Send what was noted; False if the store did not take it."""
        async with self._sending:
            left = len(self._asked)  # what comes meanwhile is for the next time
            sums, self._sums = self._sums, {}
            while left or sums:
                asked = [self._asked.popleft() for _ in range(min(left, _DIGESTS_A_CALL))]
                left -= len(asked)
                some = {name: sums.pop(name) for name in list(islice(sums, _ROWS_A_CALL))}
                if not await self._send(asked, some):
                    self._take_back(sums)
                    return False
            self._away = False
            return True

    async def _send(self, asked: list[_Waiting], sums: dict[Name, Sums]) -> bool:
        digests = b"".join([one[0] for one in asked])
        try:
            now = datetime.fromtimestamp(time.time(), UTC)
            hits = await self._store.add(digests, sums, now, kept_s=self._cache.ttl, days_kept_s=self._keep_s)
        except StoreError as lost:
            if not self._away:
                self._away = True
                _log.warning("notes for advice cannot be stored", problem=str(lost))
            return False
        for (_, name, tokens, pico), hit in zip(asked, hits, strict=True):
            if hit == ord("1") and (row := self._row(name)) is not None:  # it goes with the next call
                row.repeats += 1
                row.repeated_tokens += tokens
                row.repeated_pico += pico
        return True

    def _take_back(self, sums: dict[Name, Sums]) -> None:
        """What was not sent waits with what came meanwhile."""
        for name, waiting in sums.items():
            row = self._row(name)
            if row is not None:
                row.add(waiting)

    async def close(self) -> None:
        """Send what is left, also what the store says about it; 2 seconds at most."""
        deadline = time.monotonic() + _LAST_S
        while self._asked or self._sums:
            if not await self.flush():
                if time.monotonic() > deadline:
                    return
                await asyncio.sleep(0.1)
