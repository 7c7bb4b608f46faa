"""What is taken from a client's rules beside any account's budget: held first, then put right by what was used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from quotapool.ledger.batches import Batches
from quotapool.ledger.grants import Blocked, Hold
from quotapool.ledger.items import ChargeItem, HoldItem
from quotapool.ledger.local import LocalBudgets
from quotapool.ledger.rules import Charge


class Holds:
    """One process's holds. `local`: its share while the store is away, begun by `begin_alone`, which raises
    StoreUnavailable if it has none; None: it never has one. `now`: the store's second."""

    def __init__(
        self,
        batches: Batches,
        local: LocalBudgets | None,
        *,
        is_away: Callable[[], bool],
        begin_alone: Callable[[], LocalBudgets],
        now: Callable[[], float],
    ) -> None:
        self._batches = batches
        self._local = local
        self._is_away = is_away
        self._begin_alone = begin_alone
        self._now = now

    async def take(self, charge: Charge) -> Hold | Blocked:
        """Hold a charge's amounts of its rules, all or none. Raises StoreUnavailable.

        If the caller is cancelled meanwhile, what may be held is let go.
        """
        if self._local is not None and self._is_away():
            return self._take_locally(charge)
        answer: asyncio.Future[Hold | Blocked] = self._batches.loop.create_future()
        fallback = partial(self._take_locally, charge)
        self._batches.put(HoldItem(charge, self._now(), answer, let_go=self.let_go, fallback=fallback))
        try:
            return await answer
        except asyncio.CancelledError:
            # Answered in the same turn of the loop in which the caller was cancelled: nobody else would let it go.
            held = answer.result() if answer.done() and not answer.cancelled() and not answer.exception() else None
            if isinstance(held, Hold):
                self.let_go(held)
            raise

    def let_go(self, hold: Hold) -> None:
        """Settle a hold of which nothing was used."""
        self.settle(hold, hold.charge.nothing())

    def settle(self, hold: Hold, used: Sequence[float]) -> None:
        """Put what was used in the place of what is held, once. Returns at once; a second call does nothing."""
        if hold.settled:
            return
        hold.settled = True
        if hold.local and self._local is not None and self._local.active:
            self._local.rules.settle(hold.charge, used)
            return
        held_at = 0.0 if hold.local else hold.at
        self._batches.put(ChargeItem(hold.charge, held_at, used, self._now()), urgent=False)

    def _take_locally(self, charge: Charge) -> Hold | Blocked:
        rules, now = self._begin_alone().rules, self._now()
        if (blocked := rules.blocked(charge, now)) is not None:
            return blocked
        rules.take(charge, now)
        return Hold(charge, now, local=True)
