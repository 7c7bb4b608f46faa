"""Batches: how reserves and settles reach the store, together and each once.

Items that are put while a batch is under way go out as the next one (at most 64 items), so the store gets few large
calls under load and one small call when idle. Nobody waits for a settle, so it goes with the next reserve, or alone
after some milliseconds. A batch that was not answered is sent again with the same id until the store answers or
patience ends; the store does each batch once. One that was given up on stays in doubt and is sent again, unchanged,
when the store is back: nothing of it is lost and nothing is done twice. A batch that the store rejects is given up.

While the store is away this module alone looks for it: with the batches in doubt, or with an empty one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from quotapool.domain.observer import Observer
from quotapool.ledger.declared_keys import keys_of_batch
from quotapool.ledger.items import Item
from quotapool.store.store import Script, Store, StoreLost, StoreRefused

_log = structlog.get_logger()
MOST_IN_BATCH: Final = 64
MOST_IN_DOUBT: Final = 50_000  # items kept while the store is away; the oldest go first
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.2
_UNHURRIED_S: Final = 0.004  # how long a settle waits for a reserve to go with

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


def ledger_script() -> Script:
    """The script that does a batch."""
    return Script.of(__package__, "ledger", ("batch", "buckets", "rules", "reserve", "settle"))


@dataclass(slots=True)
class _Batch:
    id: str
    items: list[Item]
    body: bytes
    was_sent: bool = False


class Batches:
    """One process's queue for the script. `name`: of this process, without a dot. `expected_clock` gives the script's
    third and fourth argument.

    `on_answer(version, epoch, now)` is called with every answer; `now` is None if that may be from an earlier time.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        name: str,
        patience_s: float,
        observer: Observer,
        expected_clock: Callable[[], tuple[bytes, bytes]],
        on_answer: Callable[[int, str, float | None], None],
    ) -> None:
        self.away = False  # the store was given up on and has not answered since
        self._store = store
        self._prefix = prefix
        self._patience_s = patience_s
        self._observer = observer
        self._expected_clock = expected_clock
        self._on_answer = on_answer
        self._script = ledger_script()
        self._name = name
        self._serial = 0
        self._answered = ""  # the id of the last batch whose answer has come
        self._queue: deque[Item] = deque()
        self._doubtful: deque[_Batch] = deque()
        self._task: asyncio.Task[None] | None = None
        self._urgent = False  # a caller waits for a queued item
        self._known_loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None  # until items that no caller waits for are sent alone

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Kept: to ask for it costs a system call in Python 3.11."""
        if self._known_loop is None:
            self._known_loop = asyncio.get_running_loop()
        return self._known_loop

    def put(self, item: Item, *, urgent: bool = True) -> None:
        """Send `item` with the next batch. Not `urgent`: it may wait some milliseconds for one."""
        self._queue.append(item)
        if urgent:
            self._urgent = True
            if self._task is None:
                self._task = self.loop.create_task(self._run())
        elif self._task is None and self._timer is None:
            self._timer = self.loop.call_later(_UNHURRIED_S, self._send_now)

    async def check(self) -> None:
        """Let the script run and write, with nothing to do. Raises StoreLost, StoreRefused."""
        self._serial += 1  # a batch that was done before would write nothing
        batch_id = f"{self._name}.{self._serial}"
        await self._call(_Batch(batch_id, [], _pack([])), answered="")

    def _send_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._urgent = True
        if self._task is None:
            self._task = self.loop.create_task(self._run())

    async def flush(self, seconds: float) -> None:
        """Wait until everything was answered, for at most `seconds`."""
        deadline = time.monotonic() + seconds
        while (self._queue or self._task is not None) and time.monotonic() < deadline:
            if self._queue:
                self._send_now()
            if self._task is not None:
                await asyncio.wait({self._task}, timeout=deadline - time.monotonic())

    async def _run(self) -> None:
        try:
            while (self._queue and self._urgent) or self._doubtful or self.away:
                self._urgent = len(self._queue) > MOST_IN_BATCH
                # While the store is away, the oldest batch is sent to find out whether it is back.
                batch = self._doubtful.popleft() if self.away and self._doubtful else self._next()
                if batch is not None:
                    await self._deliver(batch)
        finally:
            self._task = None
        if self._queue and self._timer is None:
            self._timer = self.loop.call_later(_UNHURRIED_S, self._send_now)

    def _next(self) -> _Batch | None:
        if not self._queue and self._doubtful:
            return self._doubtful.popleft()
        items = [self._queue.popleft() for _ in range(min(len(self._queue), MOST_IN_BATCH))]
        items = [item for item in items if item.wanted()]
        if not items and not self.away:
            return None
        self._serial += 1
        return _Batch(f"{self._name}.{self._serial}", items, _pack([item.payload for item in items]))

    async def _deliver(self, batch: _Batch) -> None:
        """Send until answered or out of patience; then the batch is in doubt, and its items fail."""
        deadline = time.monotonic() + (0.0 if self.away else self._patience_s)
        pause = _LONGEST_PAUSE_S if self.away else _FIRST_PAUSE_S
        while True:
            started = time.monotonic()
            may_be_old, batch.was_sent = batch.was_sent, True
            try:
                version, epoch, now, results = _unpack(await self._call(batch, self._answered))
                if len(results) != len(batch.items):
                    raise ValueError("the script's answer is another batch's")
            except StoreLost as lost:
                self._observer.store_failed(lost.reason)
                await asyncio.sleep(pause * (0.5 + random.random() / 2))
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                if time.monotonic() > deadline:
                    self._give_up(batch, str(lost))
                    return
            except (StoreRefused, ValueError, TypeError) as refused:  # the latter two: nothing that the script answers
                self._observer.store_failed("script")
                self._leave(str(refused))
                _fail(batch.items)
                await asyncio.sleep(_LONGEST_PAUSE_S)  # before the next look
                return
            else:
                self._answered = batch.id
                self._observer.store_answered(time.monotonic() - started, len(batch.items))
                if self.away:
                    self.away = False
                    self._observer.store_away(away=False)
                for item, result in zip(batch.items, results, strict=True):
                    try:
                        item.done(result, now)
                    except Exception:  # noqa: BLE001 - one caller's bug must not leave all others waiting
                        _log.exception("an answer of the ledger could not be processed")
                        item.failed()
                self._on_answer(version, epoch, None if may_be_old else now)
                return

    async def _call(self, batch: _Batch, answered: str) -> bytes:
        return await self._store.evalsha_batch(
            self._script,
            self._prefix,
            *(batch.id, batch.body, *self._expected_clock(), answered),
            further_keys=lambda: keys_of_batch(self._prefix, batch.id, answered, batch.items),
        )

    def _leave(self, why: str) -> None:
        if not self.away:
            self.away = True
            self._observer.store_away(away=True, why=why)

    def _give_up(self, batch: _Batch, why: str) -> None:
        self._leave(why)
        self._doubtful.appendleft(batch)
        while sum(len(b.items) for b in self._doubtful) > MOST_IN_DOUBT:
            self._doubtful.pop()
        _fail((*batch.items, *self._queue))
        self._queue = deque(
            item for item in self._queue if item.wanted()
        )  # an outage may last: do not keep failed ones


def _fail(items: Iterable[Item]) -> None:
    for item in items:
        item.failed()
