"""Credit control: computes each account's wallet from its spend, stops accounts at their limits, sets their urgency.

Runs in every replica's supervisor, from the same store to the same result; its changes are idempotent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from quotapool.domain.forecast import error_days
from quotapool.domain.pool import Account, Pool
from quotapool.domain.states import WALLET, Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.wallet import BURN_DAYS, PICO, Grant, Wallet, wallet
from quotapool.ledger.budgets import Ledger
from quotapool.money.spend_store import SpendStore
from quotapool.money.topups import Topups
from quotapool.settings import Settings

_MONTHS_KEPT: Final = timedelta(days=400)  # daily totals are kept for 13 months
_LATE: Final = timedelta(days=8)  # workers that were cut off from the store may spend so much later
_LATE_AGAIN: Final = timedelta(hours=1)
_STALE: Final = timedelta(seconds=60)  # an account that spends nothing is assessed this often: its credit expires too
_AT_ONCE: Final = 100  # accounts looked at before others get their turn
_ALL: Final = timedelta(seconds=15)  # for accounts without credit or limit: they are only shown
_FEW: Final = 1_000  # accounts that are cheaper to read by name than with all others
_NOTHING: Final[Mapping[date, int]] = {}


@dataclass(frozen=True, slots=True)
class CreditStatus:
    """The pool's credit at one moment. `closed_until`: Unix second until which the daily limit refuses requests; 0: it
    does not."""

    at: datetime
    wallets: Mapping[str, Wallet] = field(default_factory=dict)
    spent_today: int = 0  # picodollars since midnight in spend.time_zone
    closed_until: float = 0.0

    @property
    def urgency(self) -> dict[str, float]:
        """Factors for the weights of accounts whose credit would expire unused."""
        return {name: w.urgency for name, w in self.wallets.items() if w.urgency > 1.0}


@dataclass(slots=True)
class _CachedWallet:
    wallet: Wallet
    of: tuple[object, ...]
    at: datetime


class CreditControl:
    """The credit of a pool's accounts. `settings` may be replaced at any time."""

    def __init__(self, settings: Settings, ledger: Ledger, spend: SpendStore, pool: Pool) -> None:
        self.settings = settings
        self.topups = Topups(ledger.store, settings.pool)
        self._ledger = ledger
        self._spend = spend
        self._pool = pool
        self._spent_by_day: dict[str, dict[date, int]] = {}
        self._first: date | None = None  # the oldest day that was read
        self._late_read_at = self._yesterday_read_at = self._all_read_at = datetime.min.replace(tzinfo=UTC)
        self._wallets: dict[str, Wallet] = {}
        self._wallets_under: Settings | None = None  # a removed limit must free its account at once
        self._cache: dict[str, _CachedWallet] = {}
        self._records: Mapping[Subject, Record] = {}
        self._records_of: object = None

    async def tick(self, now: datetime) -> CreditStatus:
        """Assess, and stop or free accounts. Raises StoreError."""
        status = await self.assess(now, all_accounts=False)
        await self._act(status)
        return status

    async def topup(self, account: str, usd: float, granted_on: date, expires_on: date | None, now: datetime) -> None:
        """Record credit that was bought. It does not pay for what its first day cost before. Raises StoreError."""
        day = await self._spend.totals("account", granted_on, granted_on) if granted_on == now.date() else {}
        spent = day.get(granted_on, {}).get(account)
        before = spent.total if spent is not None else 0
        await self.topups.add(account, usd, granted_on, expires_on, spent_before=before)

    async def assess(self, now: datetime, *, all_accounts: bool = True) -> CreditStatus:
        """The wallets of all accounts of which anything is known. Unless `all_accounts`, those of accounts without
        credit or limit may be some seconds old. Raises StoreError."""
        recorded = await self.topups.all()
        watched = self._watched(recorded)
        if all_read := all_accounts or self._reads_all(now, recorded, watched):
            await self._read_spent(now, recorded)
            self._all_read_at, self._wallets_under = now, self.settings
        else:
            for name, spent in (await self._spend.day_of("account", now.date(), watched)).items():
                self._spent_by_day.setdefault(name, {})[now.date()] = spent
        wallets = {} if all_read else {name: w for name, w in self._wallets.items() if name in self._pool.accounts}
        for n, name in enumerate(list(self._pool.accounts) if all_read else watched):
            known = self._wallet(name, recorded.get(name, ()), now)
            if known is not None:
                wallets[name] = known
            else:
                wallets.pop(name, None)
            if n % _AT_ONCE == 0:
                await asyncio.sleep(0)
        self._wallets = wallets
        start, end = day_around(now, self.settings.spend.time_zone)
        today = sum((await self._spend.hours(start, now)).values())
        limit = self.settings.spend.daily_limit_usd
        is_spent = limit is not None and today >= round(limit * PICO)
        return CreditStatus(now, wallets, today, end.timestamp() if is_spent else 0.0)

    def whole_days(self, account: str, today: date) -> list[int]:
        """What an account cost on the last seven days before `today`, as far as it was in use: picodollars, the oldest
        first. As of the last assessment."""
        spent = self._spent_by_day.get(account, _NOTHING)
        first = min((day for day, amount in spent.items() if amount), default=today)
        days = (today - timedelta(ago) for ago in range(BURN_DAYS, 0, -1))
        return [spent.get(day, 0) for day in days if day >= first]

    def error_days(self, account: str, wallet: Wallet, today: date) -> float | None:
        """How many days `wallet.empty_at` may be off, from how the last days' spend varied; None: not known."""
        if not wallet.remaining or wallet.empty_at is None:
            return None
        found = error_days(wallet.remaining, self.whole_days(account, today))
        return None if found is None else round(found, 2)

    def _reads_all(self, now: datetime, recorded: Mapping[str, Sequence[Grant]], watched: Sequence[str]) -> bool:
        """Whether all accounts are due, or no dearer to read; else only those that are watched are assessed."""
        if self._first is None or self._first_day(now.date(), recorded) < self._first or len(watched) > _FEW:
            return True
        if self._wallets_under is not self.settings:
            return True
        return self._all_read_at.date() != now.date() or now - self._all_read_at > _ALL

    def _watched(self, recorded: Mapping[str, Sequence[Grant]]) -> list[str]:
        """The accounts whose spending decides something: those with credit or a limit."""
        written = {
            name for name, account in self.settings.accounts.items() if account.grants or account.monthly_limit_usd
        }
        return [name for name in written | recorded.keys() if name in self._pool.accounts]

    def _wallet(self, name: str, recorded: Sequence[Grant], now: datetime) -> Wallet | None:
        account = self.settings.accounts.get(name)
        limit = account.monthly_limit_usd if account is not None else None
        spent = self._spent_by_day.get(name, _NOTHING)
        if not (recorded or spent or limit or (account is not None and account.grants)):
            return None
        today = now.date()
        of = (account, tuple(recorded), today, spent.get(today), self._yesterday_read_at)
        known = self._cache.get(name)
        if known is None or known.of != of or now - known.at > _STALE:
            written = account.grants if account is not None else ()
            grants = [Grant(round(grant.usd * PICO), grant.granted_on, grant.expires_on) for grant in written]
            month_limit = None if limit is None else round(limit * PICO)
            found = wallet([*grants, *recorded], spent, now, month_limit=month_limit)
            known = self._cache[name] = _CachedWallet(found, of, now)
        return known.wallet

    async def _read_spent(self, now: datetime, recorded: Mapping[str, Sequence[Grant]]) -> None:
        """Read every day for which some grant may have paid, once; then today, and less often the days whose entries
        may come late: a day of thousands of accounts takes a while to read."""
        today = now.date()
        first = self._first_day(today, recorded)
        whole = self._first is None or first < self._first
        since = today
        if whole:
            since = first
        elif now - self._late_read_at > _LATE_AGAIN:
            since = today - _LATE
        elif now - self._yesterday_read_at > _STALE:
            since = today - timedelta(1)
        days = await self._spend.totals("account", since, today)
        if whole:
            self._spent_by_day, self._first = {}, first
        if since < today:
            self._yesterday_read_at = now
        if today - since >= _LATE:
            self._late_read_at = now
        for day, accounts in days.items():
            for name, spent in accounts.items():
                self._spent_by_day.setdefault(name, {})[day] = spent.total

    def _first_day(self, today: date, recorded: Mapping[str, Sequence[Grant]]) -> date:
        """The first day that matters: of the oldest grant, of the month, of the spending rate."""
        oldest = today - _MONTHS_KEPT
        written = (grant.granted_on for account in self.settings.accounts.values() for grant in account.grants)
        added = (grant.granted_on for grants in recorded.values() for grant in grants)
        days = [today.replace(day=1), today - _LATE, *(day or oldest for day in (*written, *added))]
        return max(oldest, min(days))

    # ---- stopping accounts

    async def _act(self, status: CreditStatus) -> None:
        records = await self._states()
        for n, account in enumerate(list(self._pool.accounts.values())):
            if n % _AT_ONCE == 0:
                await asyncio.sleep(0)
            known = status.wallets.get(account.id)
            reason = "" if known is None else known.stop_reason(self._stop_at(account.id))
            record = records.get(Subject.of_account(account.id))
            if reason or record is not None:
                await self._stop_or_free(account, reason, record)

    def _stop_at(self, name: str) -> float | None:
        account = self.settings.accounts.get(name)
        return self.settings.spend.stop_at if account is None or account.stop_at is None else account.stop_at

    async def _stop_or_free(self, account: Account, reason: str, record: Record | None) -> None:
        subject, fingerprint = Subject.of_account(account.id), account.fingerprint
        if record is not None and record.fingerprint not in {"", fingerprint}:
            record = None  # seen with other secrets than the present ones
        ours = record is not None and record.by == WALLET
        if reason and (record is None or record.state is State.SUSPECT or (ours and record.reason != reason)):
            # No fingerprint: other keys of the account have the same credit.
            stop = Record(State.QUARANTINED, reason, 0.0, message=_WORDS[reason], by=WALLET)
            await self._ledger.registry.change_state(subject, stop, by=WALLET, fingerprint=fingerprint)
        elif ours and not reason:
            await self._ledger.registry.change_state(subject, None, by=WALLET, fingerprint=fingerprint)

    async def _states(self) -> Mapping[Subject, Record]:
        """All records, read again only when the pool's version has changed."""
        store = self._ledger.store
        version = await store.guard(store.client.get(f"{self._ledger.prefix}:version"))
        if self._records_of is None or version != self._records_of:
            self._records = await self._ledger.registry.records()
            self._records_of = version
        return self._records


_WORDS: Final = {
    "credit_stop_at": "stopped by the proxy: its credit is used up to stop_at",
    "monthly_stop_at": "stopped by the proxy: its monthly limit is used up to stop_at",
}


def day_around(now: datetime, zone: str) -> tuple[datetime, datetime]:
    """Midnight before and after `now` in `zone`, as UTC."""
    tz = UTC if zone == "UTC" else ZoneInfo(zone)
    day = now.astimezone(tz).date()
    start, end = (datetime.combine(day + timedelta(n), time(), tz).astimezone(UTC) for n in (0, 1))
    return start, end
