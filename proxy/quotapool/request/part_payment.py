"""What a client's own budgets pay for an answer that upstream was not asked for (`cache.client_pays`).

An answer from the cache pays what is known of it. One that is shared while it is on its way holds the most it may be
until its end is known, so that those who wait for it together cannot overrun a budget.
"""

from __future__ import annotations

from quotapool.domain.request_record import RequestRecord, Saved
from quotapool.ledger.budgets import StoreUnavailable
from quotapool.ledger.grants import Blocked, Hold
from quotapool.ledger.holds import Holds
from quotapool.openai import replies
from quotapool.openai.refusal import Refusal
from quotapool.pool.waits import waited_for_rules
from quotapool.request.charging import Charging
from quotapool.request.client_request import ClientRequest
from quotapool.request.refusals import refusal_of


class PartPayment:
    """For one process's clients."""

    def __init__(self, charging: Charging, holds: Holds) -> None:
        self._charging = charging
        self._holds = holds

    async def hold(
        self, request: ClientRequest, record: RequestRecord, part: float, saved: Saved | None
    ) -> Hold | None:
        """Hold this `part` of what is `saved`, or of the most that it may be (None: not known yet), before the first
        byte. None: there is nothing to pay, and the store is not asked. Each hold is to be settled.

        Raises Refusal: 429, its budgets have no room; 403, 503, as `Charging.charge`; 503, the store is away. Nobody
        waits for room here, since the call upstream that would bring it is not theirs.
        """
        charge = self._charging.charge_part(record.client, request, part, saved)
        if charge is None:
            return None
        try:
            answer = await self._holds.take(charge)
        except StoreUnavailable as gone:
            raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from gone
        if isinstance(answer, Blocked):
            record.waited_for = waited_for_rules(request.group, answer)
            raise refusal_of(answer)
        if not charge.rules.hard:
            record.beyond = tuple(standing.rule.id for standing in charge.exceeded)
        return answer

    def settle(self, hold: Hold | None, part: float, saved: Saved | None) -> None:
        """Pay for what was `saved` in the end; None: nothing was delivered, and nothing is paid. Returns at once; a
        second call does nothing."""
        if hold is None:
            return
        if saved is None:
            self._holds.let_go(hold)
        else:
            self._holds.settle(hold, self._charging.used_part(hold.charge, part, saved))
