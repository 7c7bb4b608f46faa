"""How the pool stands now: gathered from the latest sample, states of keys, credit, queues and the last minutes' usage.

A reading costs what has changed since the one before: buckets are read by whoever samples (`app/sampling.py`), the
states of keys only when the pool's version has moved, clients' budgets every ten seconds. Without a running proxy, as
on the command line, the buckets are read here. While the store is away, all stays as it was last known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from quotapool import __version__
from quotapool.domain.outside import KIND, OutsideUse
from quotapool.domain.states import Record, State
from quotapool.domain.subject import Subject, SubjectKind
from quotapool.domain.waiting import Waiting
from quotapool.domain.wallet import PICO, Wallet, usd
from quotapool.ledger.stored_rules import Level
from quotapool.money.credit_control import CreditStatus
from quotapool.money.rollups import MINUTE, Table
from quotapool.money.spend_store import SpendStore
from quotapool.observe.samples import KEPT_MINUTES, Chunk, History, Reading, SampleStore
from quotapool.operators.keys import LOCKED, KeyOperations
from quotapool.reports import attention, sentence
from quotapool.reports.attention import Concern
from quotapool.reports.forecasts import as_it_is_felt, room_row
from quotapool.reports.room import RoomReader
from quotapool.shapes.general import OutsideUseRow
from quotapool.shapes.now import Attention, CreditRow, Now, RoomRow, WaitingRow
from quotapool.store.store import StoreError

MOST_CREDIT: Final = 50
_SHARED_S: Final = 1.0  # who asks again within this time gets the same answer
_STALE_S: Final = 30.0  # without a sample, after which the buckets are read here
_PAUSE_FACTOR: Final = 20  # reading them here takes at most a twentieth of our time
_CLIENTS_S: Final = 10.0
_KEYS_AT_ONCE: Final = 500
_CLIENTS_AT_ONCE: Final = 200
_WALLETS_AT_ONCE: Final = 200
_SERIES_AT_ONCE: Final = 20

StatusOf = Callable[[], Awaitable[CreditStatus]]


class NowReader:
    """Of one pool. `status`: the latest credit status; it may raise StoreError."""

    def __init__(self, keys: KeyOperations, samples: SampleStore, status: StatusOf) -> None:
        self._keys = keys
        self._overview = keys.overview
        self._samples = samples
        self._status = status
        self._spend = SpendStore(self._overview.ledger.store, keys.settings.pool)
        self._room_reader = RoomReader(self._overview)
        self._one_at_a_time = asyncio.Lock()
        self._last: Now | None = None
        self._last_at = 0.0
        # What was read last.
        self._reading: Reading | None = None
        self._read_here_at = self._took_s = 0.0
        self._chunks: dict[int, Chunk] = {}
        self._room: list[RoomRow] = []
        self._room_of: float | None = None  # the reading that `_room` was made of
        self._waiting: list[Waiting] = []
        self._outside: list[OutsideUse] = []
        self._rates = 0.0, 0.0
        self._credit_status = CreditStatus(datetime.fromtimestamp(0, UTC))
        self._credit: list[CreditRow] = []
        self._credit_concerns: list[Concern] = []
        self._client_concerns: list[Concern] = []
        self._clients_at = 0.0
        self._counted_of: tuple[object, object, Mapping[str, str]] | None = None
        self._counts: dict[str, int] = {}
        self._state_concerns: list[Concern] = []

    async def read(self) -> Now:
        """All of it. Does not fail while the store is away: then it says so."""
        async with self._one_at_a_time:
            if self._last is None or time.monotonic() - self._last_at >= _SHARED_S:
                self._last = await self._gathered()
                self._last_at = time.monotonic()
            return self._last

    async def _gathered(self) -> Now:
        away = False
        try:
            await self._refresh()
        except StoreError:
            away = True
        await self._count_keys()
        at, settings = time.time(), self._keys.settings
        waiting = [] if away else [WaitingRow(*_fields(row)) for row in self._waiting]
        room = as_it_is_felt(self._room, waiting)
        usable = self._counts.get(State.ACTIVE.value, 0)
        facts = sentence.facts_of(
            usable=usable,
            keys=sum(self._counts.values()),
            room=room,
            waiting=waiting,
            credit=self._credit,
            store_away=away,
        )
        return Now(
            at=at,
            pool=settings.pool,
            version=__version__,
            sentence=sentence.sentence(facts, at),
            facts=facts,
            keys=dict(self._counts),
            usable_keys=usable,
            accounts=len(self._overview.roster.pool.accounts),
            attention=self._attention(room, waiting, at, away=away),
            room=room,
            waiting=waiting,
            credit=self._credit,
            outside_use=[OutsideUseRow.of(one) for one in self._outside],
            requests_per_minute=self._rates[0],
            errors_per_minute=self._rates[1],
            spent_today_usd=usd(self._credit_status.spent_today),
            daily_limit_usd=settings.spend.daily_limit_usd,
        )

    def _attention(self, room: list[RoomRow], waiting: list[WaitingRow], at: float, *, away: bool) -> list[Attention]:
        now, status = datetime.fromtimestamp(at, UTC), self._credit_status
        concerns = [attention.of_store_away()] if away else []
        if not away and not any(self._counts.values()):  # an absent store may hold keys
            concerns.append(attention.of_empty_pool())
        concerns += self._state_concerns
        concerns += attention.of_room(room)
        concerns += attention.of_queues(waiting)
        concerns += attention.of_outside_use([one for one in self._outside if not self._is_out_for(one)])
        concerns += self._credit_concerns
        concerns += self._client_concerns
        concerns += attention.of_daily_limit(status.spent_today, status.closed_until, now)
        return attention.grouped(concerns)

    # ---- reading

    async def _refresh(self) -> None:
        """Raises StoreError."""
        now = await self._overview.follow()
        self._waiting = await self._samples.waiting()
        self._outside = await self._overview.outside.named()
        await self._read_room(now)
        await self._read_rates(datetime.fromtimestamp(now, UTC))
        status = await self._status()
        if status is not self._credit_status:
            await self._take_credit(status)
        if time.monotonic() - self._clients_at > _CLIENTS_S or not self._clients_at:
            await self._read_clients(datetime.fromtimestamp(now, UTC))
            self._clients_at = time.monotonic()

    async def _read_clients(self, now: datetime) -> None:
        rules = self._overview.client_rules
        concerns = list(attention.of_clients({}, rules.expiries(), now))
        levels: dict[str, list[Level]] = {}
        for one in await rules.levels():
            levels.setdefault(one.subject, []).append(one.level)
        for number, (subject, of_subject) in enumerate(levels.items(), 1):
            concerns += attention.of_clients({subject: of_subject}, {}, now)
            if number % _CLIENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._client_concerns = concerns

    async def _read_room(self, now: float) -> None:
        latest = await self._samples.latest()
        if latest is None or now - latest.at > max(_STALE_S, 4 * latest.spans_s):
            since_s = time.monotonic() - self._read_here_at
            if self._read_here_at and since_s < max(_STALE_S / 6, _PAUSE_FACTOR * self._took_s):
                return
            began = time.monotonic()
            latest = await self._room_reader.read()
            self._read_here_at = time.monotonic()
            self._took_s = self._read_here_at - began
        if latest.at == self._room_of:
            return
        history = await self._history(now)
        rows: list[RoomRow] = []
        for number, room in enumerate(latest.room, 1):
            rows.append(room_row(room, history))
            if number % _SERIES_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._reading, self._room, self._room_of = latest, rows, latest.at

    async def _history(self, now: float) -> History:
        """The last hour; minutes that are over are read once."""
        this = int(now // 60)
        missing = [minute for minute in range(this - KEPT_MINUTES, this - 1) if minute not in self._chunks]
        minutes = KEPT_MINUTES if missing else 2
        for minute, chunk in await self._samples.by_minute(now, minutes):
            self._chunks[minute] = chunk
        self._chunks = {minute: self._chunks.get(minute, _EMPTY) for minute in range(this - KEPT_MINUTES, this + 1)}
        history = History()
        for number, chunk in enumerate(self._chunks.values()):
            history.add(chunk)
            if number % 10 == 0:
                await asyncio.sleep(0)
        return history

    async def _read_rates(self, now: datetime) -> None:
        """Requests that used something or were refused, in the last full minute and the present one."""
        this = MINUTE.start(now)
        slots = [(MINUTE, this - MINUTE.size), (MINUTE, this)]
        minutes = 1 + (now - this) / MINUTE.size
        sums: dict[Table, int] = {"client": 0, "refusal": 0}
        for table in sums:
            async for _, rows in self._spend.used(table, slots):
                sums[table] += sum(spent.requests for spent in rows.values())
        self._rates = (sums["client"] + sums["refusal"]) / minutes, sums["refusal"] / minutes

    # ---- credit

    async def _take_credit(self, status: CreditStatus) -> None:
        wanted = self._keys.settings.alerts
        below = None if wanted.credit_below_usd is None else round(wanted.credit_below_usd * PICO)
        within = timedelta(seconds=wanted.expires_within)
        known: list[tuple[str, Wallet]] = []
        concerns: list[Concern] = []
        wallets = list(status.wallets.items())
        for start in range(0, len(wallets), _WALLETS_AT_ONCE):
            part = wallets[start : start + _WALLETS_AT_ONCE]
            concerns += attention.of_wallets(dict(part), below=below, within=within, now=status.at)
            known += [(n, w) for n, w in part if w.remaining is not None or w.month_limit is not None]
            await asyncio.sleep(0)
        known.sort(key=_runs_out)
        self._credit = [self._credit_row(name, wallet, status.at) for name, wallet in known[:MOST_CREDIT]]
        self._credit_concerns = concerns
        self._credit_status = status

    def _credit_row(self, account: str, wallet: Wallet, now: datetime) -> CreditRow:
        return CreditRow(
            account=account,
            remaining_usd=None if wallet.remaining is None else usd(wallet.remaining),
            per_day_usd=usd(wallet.burn_per_day),
            month_spent_usd=usd(wallet.month_spent),
            month_limit_usd=None if wallet.month_limit is None else usd(wallet.month_limit),
            empty_at=None if wallet.empty_at is None else f"{wallet.empty_at:%Y-%m-%dT%H:%M:%SZ}",
            error_days=self._overview.credit.error_days(account, wallet, now.date()),
            next_expiry=None if wallet.next_expiry is None else wallet.next_expiry.isoformat(),
            expiring_unused_usd=None if wallet.remaining is None else usd(wallet.expiring_unused),
        )

    # ---- states of keys

    async def _count_keys(self) -> None:
        """Keys by state, and what is wrong with those that are out; only if something has changed."""
        pool, missing = self._overview.roster.pool, self._keys.sources.missing
        of = pool.records, pool.keys, dict(missing)
        before = self._counted_of
        if before is not None and of[0] is before[0] and of[1] is before[1] and of[2] == before[2]:
            return
        counts = {state.value: 0 for state in State}
        for number, account in enumerate(list(pool.accounts.values()), 1):
            counts[State.ACTIVE.value] += len(account.usable)
            if len(account.usable) < len(account.keys):
                usable = set(account.usable)
                for key in account.keys:
                    if key not in usable and key.account in pool.accounts:
                        counts[pool.state_of(key).value] += 1
            if number % _KEYS_AT_ONCE == 0:
                await asyncio.sleep(0)
        if missing:
            counts[LOCKED] = len(missing)
        concerns: list[Concern] = []
        for number, (subject, record) in enumerate(list(pool.records.items()), 1):
            if self._holds(subject, record):
                one = attention.of_record(subject, record)
                concerns += [] if one is None else [one]
            if number % _KEYS_AT_ONCE == 0:
                await asyncio.sleep(0)
        concerns += attention.of_locked(missing)
        self._counts, self._state_concerns, self._counted_of = counts, concerns, of

    def _is_out_for(self, one: OutsideUse) -> bool:
        """Whether its account is out of service for it: the state says so by itself."""
        record = self._overview.roster.pool.records.get(Subject.of_account(one.account))
        return record is not None and record.reason == KIND

    def _holds(self, subject: Subject, record: Record) -> bool:
        """Whether the record is about something that is in the pool, with the secret that it has today."""
        pool = self._overview.roster.pool
        if subject.kind is SubjectKind.ORGANIZATION:
            return subject.id in pool.organizations
        holder = pool.accounts.get(subject.id) if subject.kind is SubjectKind.ACCOUNT else pool.keys.get(subject.id)
        return holder is not None and record.fingerprint in {"", holder.fingerprint}


_EMPTY: Final = Chunk()


def _fields(row: Waiting) -> tuple[str, str, str, str, int, float]:
    return row.model, row.dimension, row.client, row.rule, row.waiting, round(row.longest_s, 1)


def _runs_out(item: tuple[str, Wallet]) -> tuple[bool, float, str]:
    """For sorting: what runs out first comes first, then by name."""
    name, wallet = item
    return wallet.empty_at is None, 0.0 if wallet.empty_at is None else wallet.empty_at.timestamp(), name
