"""Tells operators of outside use: in events, from which alerts are made, in the store for all who show it, in the log;
and takes an account out of service for it, if the settings say so. `domain/outside_use.py` finds it.

Events are put before the store says what is named, and each is put once (`Registry.announce`): whoever is killed in
between, the next one that judges goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from msgspec.structs import replace

from quotapool.domain.outside import KIND, OutsideUse, Usual, bounded, changes, to_drain, usd_per_hour
from quotapool.domain.states import Record, State
from quotapool.domain.subject import Subject
from quotapool.money.rollups import HOUR
from quotapool.money.spend_store import SpendStore
from quotapool.observe.outside_events import begin_of, end_of, moment
from quotapool.observe.outside_store import KEPT_S
from quotapool.operators.overview import Overview
from quotapool.pool.roster import Roster

_log = structlog.get_logger()
_HOURS: Final = 24  # of our own use, of which others' is thought to be alike
_PRICES_S: Final = 600.0
# That it was told is remembered for longer than rows stay in the store: who finds none there does not tell it again.
_TOLD_S: Final = 4 * KEPT_S
_RENEWED_S: Final = 600.0


class OutsideReports:
    """Of one pool. Only the replica that judges calls `take`; it needs nothing of the one before."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._store = overview.outside
        self._spend = SpendStore(overview.ledger.store, overview.settings.pool)
        self._usual: dict[str, Usual] = {}
        self._usual_at = 0.0
        self._renewed_at = 0.0
        self._spared: set[str] = set()  # accounts of which the log says why they are not drained

    async def take(self, named: Sequence[OutsideUse], now: float) -> None:
        """All that is named now, every ten seconds or so, also if it is nothing. `now`: Unix seconds of the store.

        Of each, `account`, `group`, `since` and the rates are needed; the rest is filled in here. Raises StoreError;
        then the next call does what this one has not done.
        """
        options = self._overview.settings.outside_use
        before = await self._store.named()
        if not before and not (named and options.enabled):
            return
        await self._overview.follow()
        rows = await self._completed(named if options.enabled else (), before, now)
        found = changes(before, rows)
        for one in found.ended:
            await self._tell_end(one)
        for one in found.began:
            await self._tell(one)
        await self._keep_told(rows, now)
        if options.drain_after is not None:
            rows = await self._drain(rows, now, options.drain_after)
        await self._store.put(rows)

    async def _completed(
        self, named: Sequence[OutsideUse], before: Sequence[OutsideUse], now: float
    ) -> list[OutsideUse]:
        known = {one.name: one for one in before}
        if named and now - self._usual_at >= _PRICES_S:
            self._usual = await usual_use(self._spend, self._overview.roster, now)
            self._usual_at = now
        rows: list[OutsideUse] = []
        for one in named:
            earlier = known.get(one.name)
            account = self._overview.roster.pool.accounts.get(one.account)
            keys = account.keys if account is not None else []
            usual = self._usual.get(one.group.removesuffix(":long"), Usual())
            row = replace(
                one,
                key=keys[0].id if len(keys) == 1 else "",
                usd_per_hour=usd_per_hour(one.requests_per_minute, one.tokens_per_minute, usual),
                named=earlier.named if earlier is not None else 0.0,
                drained=earlier is not None and earlier.drained,
            )
            rows.append(row)
        return [one if one.named else replace(one, named=now) for one in bounded(rows)]

    async def _tell(self, one: OutsideUse) -> None:
        if await self._overview.ledger.registry.announce(KIND, _lock_of(one), begin_of(one), every_s=_TOLD_S):
            _log.warning("somebody else uses an account", **_logged(one))

    async def _tell_end(self, one: OutsideUse) -> None:
        if await self._overview.ledger.registry.announce_end(KIND, _lock_of(one), end_of(one)):
            _log.info("nobody else uses the account any more", account=one.account, model=one.group)

    async def _keep_told(self, rows: Sequence[OutsideUse], now: float) -> None:
        if now - self._renewed_at >= _RENEWED_S:
            for one in rows:
                await self._overview.ledger.registry.still(KIND, _lock_of(one), every_s=_TOLD_S)
            self._renewed_at = now

    # ---- draining

    async def _drain(self, rows: list[OutsideUse], now: float, after_s: float) -> list[OutsideUse]:
        pool, settings = self._overview.roster.pool, self._overview.settings
        out = sum(
            record.state is State.DRAINING and record.reason == KIND and subject.id in pool.accounts
            for subject, record in pool.records.items()
        )
        usable = [account.id for account in pool.accounts.values() if account.usable]
        due = to_drain(rows, now, after_s=after_s, usable=usable, drained=out, most=settings.max_removals)
        for name, why in due.spared.items():
            if name not in self._spared:
                _log.warning("an account that others use stays in service", account=name, why=why)
        self._spared = set(due.spared)
        drained: set[str] = set()
        for name in due.accounts:
            words = next(one.words for one in rows if one.account == name)
            print_ = pool.accounts[name].fingerprint
            record = Record(State.DRAINING, KIND, 0.0, message=words, fingerprint=print_)
            if await self._overview.ledger.registry.change_state(Subject.of_account(name), record, fingerprint=print_):
                drained.add(name)
                _log.warning("an account that others use was taken out of service", account=name, use=words)
        return [replace(one, drained=True) if one.account in drained else one for one in rows]


async def usual_use(spend: SpendStore, roster: Roster, now: float) -> dict[str, Usual]:
    """By model group: what the pool's own priced calls of the last day used. `now`: Unix seconds. Raises StoreLost."""
    this = HOUR.start(datetime.fromtimestamp(now, UTC))
    slots = [(HOUR, this - n * timedelta(hours=1)) for n in range(_HOURS)]
    found: dict[str, Usual] = {}
    async for _, rows in spend.used("key", slots):
        for (_, _, model), spent in rows.items():
            pico = spent.exact + spent.estimated
            if pico:
                usual = found.setdefault(roster.group_of(model.partition(" (")[0]), Usual())
                usual.pico += pico
                usual.requests += spent.requests - spent.unpriced_requests
                usual.tokens += spent.prompt_tokens + spent.completion_tokens
    return found


def _lock_of(one: OutsideUse) -> str:
    return f"{one.account} {one.group}"


def _logged(one: OutsideUse) -> dict[str, str | float | None]:
    return {
        "account": one.account,
        "key": one.key or None,
        "model": one.group,
        "requests_per_minute": round(one.requests_per_minute, 1),
        "tokens_per_minute": round(one.tokens_per_minute),
        "usd_per_hour": None if one.usd_per_hour is None else round(one.usd_per_hour, 2),
        "since": moment(one.since),
    }
