"""Raises alerts: reads the pool's events and checks its condition, in one replica at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from quotapool.alerts import rules
from quotapool.alerts.shared_state import SharedAlertState
from quotapool.domain.alert import Alert
from quotapool.domain.bucket import DIMENSIONS, Bucket
from quotapool.domain.pool import Pool
from quotapool.domain.wallet import PICO, Wallet
from quotapool.ledger.stored_rules import Level
from quotapool.settings import Settings

_HEADROOM_LASTS_S = 300.0
_CLIENTS_WITHIN = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Condition:
    """The pool at one moment, as the supervisor knows it. Money in picodollars, expiry of keys in Unix seconds."""

    now: datetime
    wallets: Mapping[str, Wallet] = field(default_factory=dict)
    spent_today: int = 0
    closed_until: float = 0.0
    hours: Mapping[datetime, int] = field(default_factory=dict)
    headroom: Mapping[tuple[str, str], float] = field(default_factory=dict)  # (model group, dimension) -> 0..1 left
    key_expiries: Mapping[str, float] = field(default_factory=dict)
    client_rules: Mapping[str, Sequence[Level]] = field(default_factory=dict)  # by `client app` or `team search`
    client_expiries: Mapping[str, float] = field(default_factory=dict)


class AlertWatch:
    """`put` queues an alert for delivery. `settings` may be replaced at any time."""

    def __init__(self, settings: Settings, state: SharedAlertState, pool: Pool, put: Callable[[Alert], None]) -> None:
        self.settings = settings
        self.put = put
        self._state = state
        self._pool = pool
        self._empty = rules.Lasting(_HEADROOM_LASTS_S)

    async def read_events(self) -> int:
        """Raise alerts about the events since the last call; how many events there were. Raises StoreLost."""
        events = await self._state.new_events()
        await self._raise(alert for event in events if (alert := rules.of_event(event)) is not None)
        return len(events)

    async def check(self, condition: Condition) -> None:
        """Raise alerts about the present condition. Raises StoreLost."""
        await self._raise(self._of(condition))

    def _of(self, seen: Condition) -> Iterable[Alert]:
        wanted, at = self.settings.alerts, seen.now.timestamp()
        within = timedelta(seconds=wanted.expires_within)
        usable = sum(len(account.usable) for account in self._pool.accounts.values())
        few = rules.too_few_keys(usable, len(self._pool.keys), wanted.min_usable_keys, at)
        fast = rules.spends_fast(seen.hours, self.settings.spend.hour_alert_factor, seen.now)
        spent = rules.day_is_spent(seen.spent_today, seen.closed_until, seen.now)
        yield from (alert for alert in (few, fast, spent) if alert is not None)
        empty = [name for name, share in seen.headroom.items() if share < wanted.min_headroom]
        for model, dimension in self._empty.of(empty, at):
            yield rules.headroom_low(model, dimension, seen.headroom[model, dimension], at)
        below = None if wanted.credit_below_usd is None else round(wanted.credit_below_usd * PICO)
        yield from rules.of_wallets(seen.wallets, below=below, within=within, now=seen.now)
        yield from rules.of_expiring_keys(seen.key_expiries, within=within, now=seen.now)
        yield from rules.of_expiring_clients(seen.client_expiries, within=_CLIENTS_WITHIN, now=seen.now)
        for subject, levels in seen.client_rules.items():
            yield from rules.of_client_budgets(subject, levels, at)

    async def _raise(self, alerts: Iterable[Alert]) -> None:
        """Each once in `repeat_after`, whichever replica noticed."""
        for alert in alerts:
            if self._wanted(alert) and await self._state.claim(alert, self.settings.alerts.repeat_after):
                self.put(alert)

    def _wanted(self, alert: Alert) -> bool:
        return any(target.wants(alert) for target in self.settings.alerts.targets)


def pool_headroom(
    pool: Pool, settings: Settings, buckets: Mapping[tuple[str, str], Bucket], now: float
) -> dict[tuple[str, str], float]:
    """By (model group, dimension): the share of all usable accounts' budgets that is left, if limits are known."""
    left: dict[tuple[str, str], float] = {}
    full: dict[tuple[str, str], float] = {}
    for (name, group), bucket in buckets.items():
        account = pool.accounts.get(name)
        if account is None or not account.usable or max(bucket.learned) < 0:
            continue
        written = settings.limits_for(name, group)
        bucket.refill(now, written)
        for i, dimension in enumerate(DIMENSIONS):
            level = bucket.level(i)
            if level is not None:
                budget = group, dimension.value
                left[budget] = left.get(budget, 0.0) + level
                full[budget] = full.get(budget, 0.0) + bucket.limit(i, written)
    return {budget: left[budget] / limit for budget, limit in full.items() if limit > 0}
