"""Looks for outside use, in one replica at a time: judges the tallies of all, announces what it finds, and drains.

What was found is in the store, for all replicas' metrics, `now` and the page. `domain/outside_use.py` has the reasons.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import UTC, datetime
from typing import Final

import structlog

from quotapool.domain.outside_use import SLICE_S, Judgement
from quotapool.domain.states import OBSERVED, Record, State
from quotapool.domain.subject import Subject
from quotapool.money.spend_store import SpendStore
from quotapool.operators.outside_use import costs_per_request, event_fields, subject_of
from quotapool.operators.overview import Overview
from quotapool.outside.outside_store import OutsideStore, Stored
from quotapool.outside.tallies import Name
from quotapool.outside.watch import OutsideWatch
from quotapool.store.store import StoreError

_log = structlog.get_logger()
KIND: Final = "outside_use"
_TOLD_S: Final = 30 * 86_400  # told once, until it is over
_PRICED_MINUTES: Final = 15


class OutsideWatching:
    """`run` forever, `stop` at the end."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        pool = overview.settings.pool
        self._store = OutsideStore(overview.ledger.store, pool, secrets.token_hex(8))
        self._spend = SpendStore(overview.ledger.store, pool)
        self._watch: OutsideWatch | None = None  # None: another replica judges
        self._place = ""
        self._left_alone: set[Name] = set()  # not drained, since no other account could serve

    async def run(self) -> None:
        """Forever. What fails is logged once and tried again."""
        failed = False
        while True:
            try:
                if self._overview.settings.outside_use.enabled:
                    await self.tick()
                failed = False
            except StoreError:
                pass  # that is reported elsewhere
            except Exception:  # noqa: BLE001 - whatever it is, no request depends on it; the next slice may succeed
                if not failed:
                    _log.exception("outside use cannot be looked for")
                failed = True
            await asyncio.sleep(SLICE_S)

    async def tick(self) -> None:
        """Judge a slice, if it is this replica's turn. Raises StoreError."""
        if not await self._store.acquire():
            self._watch = None
            return
        now = await self._overview.follow()
        if self._watch is None:
            self._watch, self._place = OutsideWatch(await self._store.named()), await self._store.end()
        watch, shared = self._watch, self._overview.settings.outside_use.accounts_shared
        sums, self._place = await self._store.since(self._place)
        accounts = self._overview.roster.pool.accounts
        if not watch.may_judge(await self._store.replicas(), now):
            return
        watch.take({name: slices for name, slices in sums.items() if name[0] in accounts})
        gone = [*shared, *(name[0] for name in watch.named if name[0] not in accounts)]
        for name in list(watch.ended(gone, now)):
            await self._end(watch, name)
        begun = list(watch.begun(gone, now))
        concerned = {name[0] for name in watch.named} | {name[0] for name, _ in begun}
        costs = await costs_per_request(self._spend, datetime.fromtimestamp(now, UTC), _PRICED_MINUTES, concerned)
        for name, judged in begun:
            await self._name(watch, name, judged, now, costs.get(name[0]))
        for name in list(watch.named):
            if name in sums:
                await self._renew(watch, name, now, costs.get(name[0]))
        watch.tidy(now)

    async def _name(self, watch: OutsideWatch, name: Name, judged: Judgement, now: float, cost: float | None) -> None:
        found = watch.named[name] = Stored.of(judged, now, cost)
        await self._store.put(name, found)
        fields = event_fields(self._overview.roster.pool, name, found)
        _log.warning("an account is used by others too", account=name[0], model=name[1], **_numbers(found))
        await self._overview.ledger.registry.announce(KIND, subject_of(name), fields, every_s=_TOLD_S)

    async def _renew(self, watch: OutsideWatch, name: Name, now: float, cost: float | None) -> None:
        judged, before = watch.judged(name), watch.named[name]
        if judged is None:
            return
        found = Stored.of(judged, now, cost)
        found.since, found.drained, found.named = before.since, before.drained, before.named
        watch.named[name] = found
        options = self._overview.settings.outside_use
        if options.drain and not found.drained and now - found.named >= options.drain_after:
            found.drained = await self._drain(name, found)
        await self._store.put(name, found)

    async def _drain(self, name: Name, found: Stored) -> bool:
        """Give no more requests to the account. False: no other one could serve."""
        pool = self._overview.roster.pool
        keys = list(pool.accounts[name[0]].usable) if await self._has_other(name) else []
        if not keys:
            if name not in self._left_alone:
                _log.error("not drained for outside use: no other account can serve", account=name[0], model=name[1])
            self._left_alone.add(name)
            return False
        fields = event_fields(pool, name, found)
        for key in keys:
            record = Record(
                State.DRAINING, KIND, 0.0, message=fields["message"], by=OBSERVED, fingerprint=key.fingerprint
            )
            await self._overview.ledger.registry.change_state(
                Subject.of_key(key.id), record, fingerprint=key.fingerprint
            )
        _log.warning("drained for outside use", account=name[0], keys=[key.id for key in keys])
        await self._overview.sync.refresh()
        return True

    async def _has_other(self, name: Name) -> bool:
        """Whether another account that can be used now has served the model before."""
        account, model = name
        others = [one.id for one in self._overview.roster.pool.accounts.values() if one.usable and one.id != account]
        async for _, bucket in self._overview.ledger.stored.of(model, others):
            if max(bucket.learned) >= 0:
                return True
        return False

    async def _end(self, watch: OutsideWatch, name: Name) -> None:
        found = watch.named.pop(name)
        self._left_alone.discard(name)
        await self._store.forget(name)
        _log.info("outside use is over", account=name[0], model=name[1])
        if any(account == name[0] for account, _ in watch.named):
            return  # it goes on with another model
        fields = event_fields(self._overview.roster.pool, name, found, is_over=True)
        await self._overview.ledger.registry.announce_end(KIND, subject_of(name), fields)

    async def stop(self) -> None:
        """Let another replica judge at once."""
        if self._watch is not None:
            with contextlib.suppress(StoreError):
                await self._store.release()


def _numbers(found: Stored) -> dict[str, float]:
    return {"requests_per_minute": found.requests_per_minute, "tokens_per_minute": found.tokens_per_minute}
