"""What a client's own budgets pay for an answer that upstream was not asked for (`cache.client_pays`)."""

from __future__ import annotations

from quotapool.domain.request_record import Saved
from quotapool.ledger.budgets import Ledger, StoreUnavailable
from quotapool.ledger.grants import Blocked, Hold
from quotapool.openai import replies
from quotapool.openai.refusal import Refusal
from quotapool.request.charging import Charging
from quotapool.request.client_request import ClientRequest
from quotapool.request.refusals import refusal_of


class PartPayment:
    """For one process's clients."""

    def __init__(self, charging: Charging, ledger: Ledger) -> None:
        self._charging = charging
        self._ledger = ledger

    async def hold(self, client: str, request: ClientRequest, part: float, saved: Saved | None) -> Hold | None:
        """Hold this `part` of what is `saved`, or of the most that it may be (None: not known yet). None: there is
        nothing to pay, and the store is not asked. Raises Refusal (403, 429, 503)."""
        charge = self._charging.charge_part(client, request, part, saved) if part > 0 else None
        if charge is None:
            return None
        try:
            answer = await self._ledger.holds.take(charge)
        except StoreUnavailable as gone:
            raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from gone
        if isinstance(answer, Blocked):
            raise refusal_of(answer)
        return answer

    def settle(self, hold: Hold | None, part: float, saved: Saved | None) -> None:
        """Pay for what was `saved` in the end; None: nothing was delivered."""
        if hold is None:
            return
        if saved is None:
            self._ledger.holds.let_go(hold)
        else:
            self._ledger.holds.settle(hold, self._charging.used_part(hold.charge, part, saved))
