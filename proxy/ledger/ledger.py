"""The ledger: reserve a budget, settle it, change a state. What every replica agrees on.

Reserves and settles that come up while a batch is under way go out together as the next one (at most 64), so the
store sees few large calls under load and one small call when idle. A batch that was not answered is sent again with
the same id until the store answers or the callers' patience ends; the store does each batch once. A batch given up on
stays in doubt: it is sent again when the store is back, and what it may have reserved is then given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from proxy.domain.bucket import DIMENSIONS, UNKNOWN, Bucket
from proxy.domain.quantities import Cost, Dimension, Limits
from proxy.domain.states import OBSERVED, Record, State
from proxy.ledger.connection import Script, Store, StoreLost, StoreRefused

MOST_IN_BATCH: Final = 64
_UNBOUNDED: Final = -1e18
_SETTLED_IN_VAIN: Final = 50_000  # settles kept while the store is away; the oldest go first

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode

Written = tuple[float, float, float, float, float]


class StoreUnavailable(Exception):
    """The store did not answer within the caller's patience."""


class StoreObserver(Protocol):
    """Who wants to know how the store does: the metrics."""

    def store_answered(self, seconds: float, items: int) -> None: ...

    def store_failed(self, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key that may serve a request. `written` are the limits somebody wrote, UNKNOWN where nobody did."""

    account: str
    key: str
    account_fingerprint: str
    key_fingerprint: str
    written: Written


@dataclass(slots=True)
class Granted:
    """A reservation. `level` and `charged` are the account's bucket right after it; `at` is the store's time."""

    id: str
    group: str
    cost: Cost
    candidate: Candidate
    at: float
    level: list[float]
    charged: list[float]
    is_trial: bool
    headroom: float
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """No candidate has room. `wait_s` None: no waiting helps; `dead`: candidates the store knows as not usable."""

    wait_s: float | None
    dimension: Dimension | None
    hints: tuple[str, ...] = ()
    dead: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """What upstream's headers said of one dimension, at the moment it admitted the request."""

    dimension: Dimension
    limit: float
    remaining: float


@dataclass(slots=True)
class _Item:
    payload: list[Any]
    future: asyncio.Future[Any] | None = None
    reservation: tuple[str, str, Cost, Sequence[Candidate]] | None = None


@dataclass(slots=True)
class _Batch:
    id: str
    items: list[_Item]
    body: bytes = b""


def written_limits(limits: Limits) -> Written:
    """`limits` as the script wants them."""
    values = [float(v) if (v := limits.of(d)) is not None else UNKNOWN for d in DIMENSIONS]
    return (values[0], values[1], values[2], values[3], values[4])


class Ledger:
    """One process's way to the shared ledger. `name` makes its batch ids unique among all replicas."""

    def __init__(
        self,
        store: Store,
        pool: str,
        *,
        patience_s: float,
        observer: StoreObserver,
        on_version: Callable[[], None] = lambda: None,
        rng: random.Random | None = None,
    ) -> None:
        self.store = store
        self.prefix = f"qp:{{{pool}}}"
        self.epoch = ""
        self.version = -1
        self._patience_s = patience_s
        self._observer = observer
        self._on_version = on_version
        self._rng = rng or random.Random()
        self._name = secrets.token_hex(6)
        self._serial = 0
        self._queue: deque[_Item] = deque()
        self._doubtful: deque[_Batch] = deque()
        self._task: asyncio.Task[None] | None = None
        self._script = Script("ledger")
        self._state_script = Script("state")

    def __repr__(self) -> str:
        return f"<Ledger {self.prefix} queued={len(self._queue)} doubtful={len(self._doubtful)}>"

    # ---- budgets

    async def reserve(
        self, group: str, cost: Cost, candidates: Sequence[Candidate], *, may_try_resting: bool = False
    ) -> Granted | Refused:
        """Take `cost` from the first candidate that has room, in one atomic step. Raises StoreUnavailable.

        If the caller is cancelled meanwhile, what may have been reserved is given back.
        """
        self._serial += 1
        payload = [
            1,
            group,
            cost.requests,
            cost.tokens,
            cost.images,
            may_try_resting,
            self._rng.random(),
            [(c.account, c.key, c.account_fingerprint, c.key_fingerprint, *c.written) for c in candidates],
        ]
        future: asyncio.Future[Granted | Refused] = asyncio.get_running_loop().create_future()
        self._put(_Item(payload, future, (f"{self._name}-{self._serial}", group, cost, candidates)))
        try:
            return await future
        except asyncio.CancelledError:
            # Granted in the very turn in which the caller left: nobody else would give it back.
            if future.done() and not future.cancelled() and isinstance(granted := future.result(), Granted):
                self.give_back(granted)
            raise

    def give_back(self, granted: Granted) -> None:
        """Settle a reservation that upstream never heard of."""
        self.settle(granted, (granted.cost.requests, granted.cost.tokens, 0, granted.cost.tokens, granted.cost.images))

    def settle(
        self,
        granted: Granted,
        give: Sequence[float] = (0, 0, 0, 0, 0),
        *,
        cool_s: float = 0.0,
        observed: Iterable[Observed] = (),
        headerless: bool = False,
    ) -> None:
        """Correct a reservation, once: `give` per dimension, positive gives back. Returns at once; the correction
        goes out with the next batch and is not lost while this process lives. A second call does nothing."""
        if granted.settled:
            return
        granted.settled = True
        self._put(
            _Item(
                [
                    2,
                    granted.group,
                    granted.candidate.account,
                    *granted.candidate.written,
                    list(give),
                    cool_s,
                    [(DIMENSIONS.index(o.dimension) + 1, o.limit, o.remaining) for o in observed],
                    (granted.level, granted.charged),
                    headerless,
                ]
            )
        )

    async def flush(self) -> None:
        """Wait until everything queued has been answered or given up on."""
        while self._task is not None:
            await asyncio.wait({self._task})

    # ---- states

    async def change_state(
        self, field_name: str, record: Record | None, *, rest_s: float = 0.0, by: str = OBSERVED, fingerprint: str
    ) -> bool:
        """Ask for a state change by the rules of `domain/states.py`; True if it took place. Raises StoreUnavailable.

        `record.since` and `.until` are set by the store's clock.
        """
        body = b""
        if record is not None:
            body = _pack(
                {
                    "state": record.state.value,
                    "reason": record.reason,
                    "tries": record.tries,
                    "status": record.status,
                    "message": record.message,
                    "request_id": record.request_id,
                    "by": record.by,
                    "fingerprint": record.fingerprint,
                }
            )
        args = (field_name, body, rest_s, record.by if record else by, fingerprint)
        changed, version, _ = await self._patiently(lambda: self.store.evalsha(self._state_script, [self.prefix], args))
        self._heard(int(version))
        return bool(changed)

    async def records(self) -> dict[str, Record]:
        """All keys and accounts that are not active, by field name. Raises StoreUnavailable."""
        raw = await self._patiently(lambda: self.store.client.hgetall(f"{self.prefix}:states"))
        return {_text(name): _record(value) for name, value in raw.items()}

    async def begin_epoch(self, *, reseeded: bool) -> str:
        """Mark the store as one that remembers, unless it is marked. A reseeded one starts new buckets low for two
        minutes. Returns the epoch in force. Raises StoreUnavailable."""
        seconds, _ = await self._patiently(self.store.client.time)
        key, value = f"{self.prefix}:epoch", f"{'r' if reseeded else 'f'}:{seconds}"
        await self._patiently(lambda: self.store.client.set(key, value, nx=True))
        self.epoch = (await self._patiently(lambda: self.store.client.get(key))).decode()
        return self.epoch

    async def buckets(self) -> tuple[float, dict[tuple[str, str], Bucket]]:
        """The store's time and every bucket by (account, model group), for those who look at the pool from above.

        Costs what there are buckets: never call it on the request path. Raises StoreUnavailable.
        """
        client, index = self.store.client, f"{self.prefix}:buckets"
        seconds, micros = await self._patiently(client.time)
        members = sorted(await self._patiently(lambda: client.smembers(index)))
        names = [(_unpack(m)[0], _unpack(m)[1]) for m in members]
        found: dict[tuple[str, str], Bucket] = {}
        for start in range(0, len(names), 500):
            part = names[start : start + 500]
            keys = [f"{self.prefix}:b:{account}:{group}" for account, group in part]
            values = await self._patiently(partial(client.mget, keys))
            for member, name, raw in zip(members[start : start + 500], part, values, strict=True):
                if raw is not None:
                    found[name] = _bucket(raw)
                else:  # it expired
                    await self._patiently(partial(client.srem, index, member))
        return seconds + micros / 1e6, found

    async def look(self) -> None:
        """Hear of changes while no batch brings them. A store that is away is nothing to report here."""
        version, epoch = f"{self.prefix}:version", f"{self.prefix}:epoch"
        with contextlib.suppress(StoreLost):
            seen, since = await self.store.guard(self.store.client.mget(version, epoch))
            self._heard(int(seen or 0), _text(since or b""))

    # ---- the loop

    def _put(self, item: _Item) -> None:
        self._queue.append(item)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._queue or self._doubtful:
                if self._queue:
                    items = [self._queue.popleft() for _ in range(min(len(self._queue), MOST_IN_BATCH))]
                    # Whoever left before this batch was sent takes nothing.
                    items = [i for i in items if i.future is None or not i.future.done()]
                    if not items:
                        continue
                    self._serial += 1
                    batch = _Batch(f"{self._name}.{self._serial}", items, _pack([i.payload for i in items]))
                else:
                    batch = self._doubtful.popleft()
                if not await self._deliver(batch) and not self._queue:
                    await asyncio.sleep(0.2)
        finally:
            self._task = None

    async def _deliver(self, batch: _Batch) -> bool:
        deadline = time.monotonic() + self._patience_s
        pause = 0.02
        while True:
            started = time.monotonic()
            try:
                answer = await self.store.evalsha_batch(self._script, self.prefix, batch.id, batch.body)
            except StoreLost as lost:
                self._observer.store_failed(lost.reason)
                if time.monotonic() + pause > deadline:
                    self._give_up(batch)
                    return False
                await asyncio.sleep(pause * (0.5 + self._rng.random() / 2))
                pause = min(pause * 2, 0.2)
                continue
            except StoreRefused as bug:
                self._observer.store_failed("script")
                self._fail(batch.items, f"the store rejected a batch: {bug}")
                return True
            self._observer.store_answered(time.monotonic() - started, len(batch.items))
            version, epoch, _, results = _unpack(answer)
            for item, result in zip(batch.items, results, strict=True):
                if item.reservation is not None:
                    self._answer(item, result)
            self._heard(version, epoch.decode() if isinstance(epoch, bytes) else epoch)
            return True

    def _answer(self, item: _Item, result: list[Any]) -> None:
        assert item.reservation is not None  # noqa: S101 - narrows the type; reserves always carry one
        name, group, cost, candidates = item.reservation
        answer: Granted | Refused
        if result[0] == 1:
            _, index, at, level, charged, is_trial, headroom = result
            answer = Granted(name, group, cost, candidates[index - 1], at, level, charged, bool(is_trial), headroom)
        else:
            _, wait, dimension, hints, dead = result
            answer = Refused(
                wait if wait >= 0 else None,
                DIMENSIONS[dimension - 1] if dimension else None,
                tuple(hints),
                tuple(candidates[n - 1] for n in dead),
            )
        if item.future is not None and not item.future.done():
            item.future.set_result(answer)
        elif isinstance(answer, Granted):
            self.give_back(answer)  # its caller has left

    def _give_up(self, batch: _Batch) -> None:
        self._doubtful.append(batch)
        while sum(len(b.items) for b in self._doubtful) > _SETTLED_IN_VAIN:
            self._doubtful.popleft()
        self._fail((*batch.items, *self._queue), "the store does not answer")

    @staticmethod
    def _fail(items: Iterable[_Item], why: str) -> None:
        for item in items:
            if item.future is not None and not item.future.done():
                item.future.set_exception(StoreUnavailable(why))

    def _heard(self, version: int, epoch: str | None = None) -> None:
        changed = version != self.version or (epoch is not None and epoch != self.epoch)
        self.version = version
        if epoch is not None:
            self.epoch = epoch
        if changed:
            self._on_version()

    async def _patiently(self, call: Callable[[], Any]) -> Any:
        """Repeat an idempotent call until the store answers. Raises StoreUnavailable when patience ends."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return await self.store.guard(call())
            except StoreLost as lost:
                self._observer.store_failed(lost.reason)
                if time.monotonic() > deadline:
                    raise StoreUnavailable(str(lost)) from lost
                await asyncio.sleep(0.05)


def _bucket(raw: bytes) -> Bucket:
    value: Mapping[str, Any] = _unpack(raw)
    return Bucket(
        at=value["at"],
        cool_until=value["cool"],
        level=[None if level <= _UNBOUNDED else level for level in value["level"]],
        learned=[math.inf if limit >= -_UNBOUNDED else limit for limit in value["learned"]],
        charged=list(value["charged"]),
    )


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else raw.decode()


def _record(raw: bytes) -> Record:
    value: Mapping[str, Any] = _unpack(raw)
    return Record(
        state=State(value["state"]),
        reason=value["reason"],
        since=value["since"],
        until=value["until"],
        tries=int(value["tries"]),
        status=int(value["status"]),
        message=value["message"],
        request_id=value["request_id"],
        by=value["by"],
        fingerprint=value["fingerprint"],
    )
