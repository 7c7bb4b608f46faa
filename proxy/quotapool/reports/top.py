"""What `quotapool top` shows, read again and again: cheap in a busy pool, and in one of 30,000 keys.

A reading costs what has changed: the pool as `now` has it, the requests that ended since the reading before (at most
`_MOST_REQUESTS`; the rest is only counted), and the keys that are out. Budgets are read account by account only so
often that it takes a twentieth of our time.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, TypeVar

from quotapool.domain.pool import Key
from quotapool.domain.states import State
from quotapool.money.credit_control import CreditStatus
from quotapool.observe.kept_request import KeptRequest
from quotapool.observe.request_store import RequestStore
from quotapool.observe.samples import SampleStore
from quotapool.operators.keys import COOLING, LOCKED, KeyOperations, natural_order
from quotapool.reports.key_lines import Emptiest
from quotapool.reports.now import NowReader
from quotapool.reports.recent import Recent
from quotapool.settings import Settings
from quotapool.shapes.now import Now
from quotapool.shapes.top import ClientUse, KeyUse, Top, Traffic
from quotapool.store.store import StoreError

_FIRST_REQUESTS: Final = 10_000  # that the last minute and the last errors are looked for in at the start
_MOST_REQUESTS: Final = 4_000  # that are read at a time, 20 ms
_MOST_OUT: Final = 500  # keys that are out
_MOST_LEAST: Final = 200  # accounts with least left
_MOST_MATCHES: Final = 1_000
_MOST_ROWS: Final = 200  # of each order
_BUCKETS_S: Final = 10.0
_PAUSE_FACTOR: Final = 20
_CREDIT_S: Final = 15.0
_CONFIGURATION_S: Final = 5.0

_RANK: Final = {
    State.REMOVED.value: 0,
    LOCKED: 1,
    State.QUARANTINED.value: 2,
    State.SUSPECT.value: 3,
    COOLING: 5,
    State.DRAINING.value: 8,
    State.DISABLED.value: 9,
}
_FAILING, _NEARLY_EMPTY, _WELL = 4, 6, 10
_NEARLY: Final = 0.1
Row = TypeVar("Row")
Order = Callable[[Any], Any]


def _worst(row: KeyUse) -> tuple[Any, ...]:
    left = 1.0 if row.left is None else row.left
    rank = _RANK.get(row.state, _WELL)
    if row.state == State.ACTIVE.value:
        rank = _FAILING if row.failed_per_minute else _NEARLY_EMPTY if left < _NEARLY else _WELL
    return rank, -row.failed_per_minute, left, -(row.since or 0.0), natural_order(row.id)


# By name, how the rows of each list can be sorted: the first is how they are at first.
KEY_ORDERS: Final[dict[str, Order]] = {
    "worst first": _worst,
    "most calls": lambda row: (-row.attempts_per_minute, natural_order(row.id)),
    "least left": lambda row: (1.0 if row.left is None else row.left, natural_order(row.id)),
    "name": lambda row: natural_order(row.id),
}
CLIENT_ORDERS: Final[dict[str, Order]] = {
    "most requests": lambda row: (-row.requests_per_minute, -row.waiting, row.client),
    "most refused": lambda row: (-row.refused_per_minute - row.failed_per_minute, -row.waiting, row.client),
    "most tokens": lambda row: (-row.tokens_per_minute, row.client),
    "most dollars": lambda row: (-row.usd_per_hour, row.client),
    "name": lambda row: natural_order(row.client),
}


class TopReader:
    """Of one pool. `changed`: its configuration if that is another since the last call; it may block."""

    def __init__(self, keys: KeyOperations, changed: Callable[[], Settings | None] = lambda: None) -> None:
        self._keys = keys
        self._changed = changed
        self._in_force = keys.sources.configured
        self._overview = overview = keys.overview
        store, pool = overview.ledger.store, keys.settings.pool
        self._now = NowReader(keys, SampleStore(store, pool), self._credit_status)
        self._requests = RequestStore(store, pool)
        self._recent: Recent | None = None
        self._place = 0  # how many requests had ever ended, at the last reading
        self._credit: CreditStatus | None = None
        self._credit_at = self._configuration_at = self._buckets_began = self._took_s = 0.0
        self._emptiest: dict[str, Emptiest] = {}
        self._least: list[str] = []  # accounts
        self._buckets_at = 0.0  # by the store's clock
        self._buckets_task: asyncio.Task[None] | None = None
        self._out: list[Key] = []
        self._out_of: tuple[object, object] | None = None

    async def read(self, match: str = "") -> Top:
        """As it is now; `match`: also keys whose id or account has this in it. While the store is away, what was known
        before, and `now` says so."""
        now = await self._now.read()
        with contextlib.suppress(StoreError):  # `now` says so, or will
            await self._follow_configuration()
            await self._read_requests()
            await self._follow_buckets()
        recent, at = self._recent or Recent(), time.time()
        return Top(
            now=now,
            traffic=recent.traffic(at) if self._place else _by_the_minute(now),
            keys=self._key_rows(recent.keys(at), match.lower(), at),
            clients=_client_rows(recent.clients(at), now),
            troubles=recent.troubles(),
            buckets_at=self._buckets_at,
        )

    async def close(self) -> None:
        """Reads no further."""
        if self._buckets_task is not None:
            self._buckets_task.cancel()
            await asyncio.gather(self._buckets_task, return_exceptions=True)

    # ---- reading

    async def _credit_status(self) -> CreditStatus:
        """Raises StoreError."""
        if self._credit is None or time.monotonic() - self._credit_at > _CREDIT_S:
            self._credit = await self._overview.credit.assess(datetime.now(UTC), all_accounts=False)
            self._credit_at = time.monotonic()
        return self._credit

    async def _follow_configuration(self) -> None:
        """A reload, and keys that were added or forgotten meanwhile. Raises StoreError."""
        if time.monotonic() - self._configuration_at < _CONFIGURATION_S:
            return
        self._configuration_at = time.monotonic()
        sources, new = self._keys.sources, await asyncio.to_thread(self._changed)
        if new is not None:
            sources.configured = new
        if sources.configured is not self._in_force or await sources.vault.version() != sources.contents.version:
            configured = sources.configured
            await sources.read()
            await self._overview.reload(sources.merged())
            await self._overview.sync.refresh()
            self._in_force = configured

    async def _read_requests(self) -> None:
        """Raises StoreLost."""
        ended, at = await self._requests.count(), time.time()
        if self._recent is None or ended < self._place:  # a store that was emptied counts from 0 again
            first = max(0, ended - _FIRST_REQUESTS)
            found = await self._from(first)
            self._recent = Recent()
            self._recent.begin(found, at, is_all=not first or not found or found[0].ended < at - 60)
        else:
            first = max(self._place, ended - _MOST_REQUESTS)
            self._recent.add(await self._from(first), at, ended - self._place)
        self._place = ended

    async def _from(self, place: int) -> list[KeptRequest]:
        """Those after the first `place` that ever ended, as far as they are kept. Raises StoreLost."""
        found: list[KeptRequest] = []
        after = f"{place}-0"
        while len(found) < _FIRST_REQUESTS:
            some, after = await self._requests.since(after)
            if not some:
                break
            found += some
        found.sort(key=lambda request: request.ended)
        return found

    async def _follow_buckets(self) -> None:
        """The first time they are waited for. Raises StoreUnavailable."""
        if time.monotonic() - self._buckets_began < max(_BUCKETS_S, _PAUSE_FACTOR * self._took_s):
            return
        if not self._buckets_at:
            await self._read_buckets()
        elif self._buckets_task is None or self._buckets_task.done():
            self._buckets_task = asyncio.create_task(self._read_buckets_again())

    async def _read_buckets_again(self) -> None:
        with contextlib.suppress(StoreError):
            await self._read_buckets()

    async def _read_buckets(self) -> None:
        """Raises StoreUnavailable."""
        self._buckets_began = time.monotonic()
        overview = self._overview
        at = await overview.ledger.registry.time()
        found: dict[str, Emptiest] = {}
        async for (account, group), bucket in overview.ledger.stored.each():
            if max(bucket.learned) >= 0:  # callers can invent models
                one = found.get(account)
                if one is None:
                    one = found[account] = Emptiest()
                one.add(group, bucket, overview.settings.limits_for(account, group), at)
        self._emptiest, self._buckets_at = found, at
        known = ((one.left, name) for name, one in found.items() if one.left is not None)
        self._least = [name for _, name in heapq.nsmallest(_MOST_LEAST, known)]
        self._took_s = time.monotonic() - self._buckets_began

    # ---- rows

    def _key_rows(self, used: dict[str, tuple[float, float]], match: str, at: float) -> list[KeyUse]:
        pool = self._overview.roster.pool
        chosen: dict[str, Key] = {key.id: key for key in self._keys_out()}
        for name in self._least:
            if name in pool.accounts:
                chosen.update((key.id, key) for key in islice(pool.accounts[name].keys, _MOST_LEAST))
        chosen.update((name, pool.keys[name]) for name in used if name in pool.keys)
        if len(pool.keys) <= _MOST_ROWS:
            chosen.update(pool.keys)
        rows = [self._key_row(key, used, at) for key in chosen.values() if key.account in pool.accounts]
        missing = islice(self._keys.sources.missing.items(), _MOST_OUT)
        rows += [_locked(name, account) for name, account in missing]
        best = _best(rows, KEY_ORDERS.values(), lambda row: row.id)
        return best + self._fitting(match, {row.id for row in best}, used, at) if match else best

    def _fitting(self, match: str, known: set[str], used: dict[str, tuple[float, float]], at: float) -> list[KeyUse]:
        """Further keys that somebody looks for."""
        keys = (
            key
            for key in self._overview.roster.pool.keys.values()
            if key.id not in known and (match in key.id.lower() or match in key.account.lower())
        )
        return [self._key_row(key, used, at) for key in islice(keys, _MOST_MATCHES)]

    def _keys_out(self) -> list[Key]:
        """Those that cannot serve, the worst first; looked for only if states have changed."""
        pool = self._overview.roster.pool
        of = pool.records, pool.keys
        if self._out_of is None or of[0] is not self._out_of[0] or of[1] is not self._out_of[1]:
            out: list[tuple[int, float, str, Key]] = []
            for account in pool.accounts.values():
                if len(account.usable) < len(account.keys):
                    for key in account.keys:
                        record = pool.record_of(key)
                        if record is not None:
                            out.append((_RANK.get(record.state.value, _WELL), -record.since, key.id, key))
            self._out = [row[3] for row in heapq.nsmallest(_MOST_OUT, out, key=lambda row: row[:3])]
            self._out_of = of
        return self._out

    def _key_row(self, key: Key, used: dict[str, tuple[float, float]], at: float) -> KeyUse:
        record = self._overview.roster.pool.record_of(key)
        budget = self._emptiest.get(key.account, _NOTHING)
        state = State.ACTIVE.value if record is None else record.state.value
        cooling_s = max(0.0, (budget.cooling_s or 0.0) - (at - self._buckets_at)) if budget.cooling_s else 0.0
        if state == State.ACTIVE.value and cooling_s:
            state = COOLING
        attempts, failed = used.get(key.id, (0.0, 0.0))
        return KeyUse(
            id=key.id,
            account=key.account,
            state=state,
            reason="" if record is None else record.reason,
            since=None if record is None else record.since,
            next_try=None if record is None else record.until or None,
            cooling_s=round(cooling_s, 1),
            left=budget.left,
            emptiest=budget.name,
            attempts_per_minute=attempts,
            failed_per_minute=failed,
        )


_NOTHING: Final = Emptiest()


def _locked(name: str, account: str) -> KeyUse:
    return KeyUse(name, account, LOCKED, "master_key", None, None, 0.0, None, "", 0.0, 0.0)


def _by_the_minute(now: Now) -> Traffic:
    """Where no requests are kept (`requests_kept: 0`): what is counted by the minute."""
    return Traffic(now.requests_per_minute / 60, now.errors_per_minute / 60, 0.0, None, None, None, None)


def _client_rows(rows: list[ClientUse], now: Now) -> list[ClientUse]:
    by_name = {row.client: row for row in rows}
    for one in now.waiting:
        name = one.client
        if name not in by_name:
            by_name[name] = ClientUse(name, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
        by_name[name].waiting += one.waiting
    return _best(list(by_name.values()), CLIENT_ORDERS.values(), lambda row: row.client)


def _best(rows: Sequence[Row], orders: Iterable[Order], name_of: Callable[[Row], str]) -> list[Row]:
    """The first `_MOST_ROWS` by each order."""
    if len(rows) <= _MOST_ROWS:
        return list(rows)
    kept = {name_of(row): row for order in orders for row in heapq.nsmallest(_MOST_ROWS, rows, key=order)}
    return list(kept.values())
