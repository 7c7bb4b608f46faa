"""`cache.client_pays`: what a client's own budgets pay for an answer that upstream was not asked for.

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
from quotapool.pool.configuration import Configuration
from quotapool.pool.waits import waited_for_rules
from quotapool.request.charging import Charging
from quotapool.request.client_request import ClientRequest
from quotapool.request.refusals import refusal_of


class ClientPays:
    """Of one process. With `client_pays: 0`, or without budgets, nothing here asks the store for anything."""

    def __init__(self, configuration: Configuration, charging: Charging, holds: Holds) -> None:
        self._configuration = configuration
        self._charging = charging
        self._holds = holds

    @property
    def any(self) -> bool:
        """Whether such answers cost a client anything."""
        return self._configuration.now.settings.cache.client_pays > 0

    async def begin(self, request: ClientRequest, record: RequestRecord, saved: Saved | None) -> Hold | None:
        """Hold what the answer will be charged, before its first byte. `saved`: what the client is served for without a
        call upstream; None: not known yet. None is returned if it pays nothing. Each hold is to be ended.

        Raises Refusal: 429, its budgets have no room; 403, 503, as `Charging.charge`; 503, the store is away. Nobody
        waits for room here, since the call upstream that would bring it is not theirs.
        """
        part = self._configuration.now.settings.cache.client_pays
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

    def end(self, hold: Hold | None, saved: Saved | None) -> None:
        """Charge what was `saved` in the place of what is held; None: the client was not served, and pays nothing.
        Returns at once; a second call does nothing."""
        if hold is None:
            return
        if saved is None:
            self._holds.let_go(hold)
        else:
            part = self._configuration.now.settings.cache.client_pays
            self._holds.settle(hold, self._charging.used_part(hold.charge, part, saved))
