"""A session and the rules of its client: a slot for as long as it is open, and what its responses use.

Responses that are asked for with the whole request hold the most they may use, like requests. Realtime's do not say
beforehand what they will use: they are charged when they are over, none is begun at the client's word when nothing is
left, and a session whose client has used up a hard budget ends.
"""

from __future__ import annotations

from typing import Final

from quotapool.domain.quantities import Cost
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.domain.rules import Kind, Measure, Mode
from quotapool.ledger.budgets import Blocked, Candidate, Granted, Ledger, StoreUnavailable
from quotapool.ledger.rules import Charge, RuleSet, Standing
from quotapool.openai import replies
from quotapool.openai.refusal import Refusal
from quotapool.request.charging import Charging
from quotapool.request.client_request import ClientRequest
from quotapool.request.refusals import refusal_of

_NO_COST: Final = Cost(0)


class SessionRules:
    """Of one session. Without rules of its client, nothing here does anything."""

    def __init__(self, charging: Charging, ledger: Ledger, client: str) -> None:
        self._charging = charging
        self._ledger = ledger
        self._client = client
        self._slot: tuple[Charge, float] | None = None

    @property
    def any(self) -> bool:
        """Whether its client has any; that may change while it is open."""
        return bool(self._charging.standings(self._client))

    def opening(self) -> Charge | None:
        """What its handshake takes: a slot of those that may be in use at the same time."""
        slots = [s for s in self._charging.standings(self._client) if s.rule.kind is Kind.SLOTS]
        return Charge(RuleSet(slots), [1.0] * len(slots)) if slots else None

    def opened(self, charge: Charge | None, granted: Granted) -> None:
        """It is open, and keeps what its handshake took."""
        if charge is not None:
            self._slot = charge, 0.0 if granted.local else granted.at

    def close(self) -> None:
        """Give the slot back."""
        if self._slot is not None:
            charge, held_at = self._slot
            self._slot = None
            self._ledger.charge(charge, charge.nothing(), held_at=held_at)

    def charge(self, request: ClientRequest) -> Charge | None:
        """The most that a response may use. Raises Refusal: as `Charging.charge`."""
        return self._charging.charge(self._client, request, slots=False)

    async def check(self, group: str, model: str, candidate: Candidate) -> None:
        """Whether anything is left for a response that does not say what it will use. Raises Refusal (429, 503)."""
        rules = self._charging.rules_of_response(self._client, model)
        if rules is None:
            return
        least = Charge(rules, [1.0] * len(rules.standings))
        try:
            answer = await self._ledger.reserve(group, _NO_COST, [candidate], charge=least)
        except StoreUnavailable as gone:
            raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from gone
        if isinstance(answer, Blocked):
            raise refusal_of(answer)
        if isinstance(answer, Granted):
            self._ledger.give_back(answer)

    def settle(
        self, held: Charge | None, attempt: AttemptRecord, record: RequestRecord, *, is_answer: bool
    ) -> list[float] | None:
        """What a response used of what it held, for the settling; what held nothing is charged here."""
        if held is not None:
            return self._charging.used(held, attempt, record, is_answer=is_answer)
        rules = self._charging.rules_of_response(self._client, record.model)
        if rules is not None:
            charge = Charge(rules, [1.0 if s.rule.measure is Measure.REQUESTS else 0.0 for s in rules.standings])
            self._ledger.charge(charge, self._charging.used(charge, attempt, record, is_answer=is_answer))
        return None

    @property
    def used_up(self) -> str:
        """The id of a hard budget, about all models, of which nothing is left, as far as this process has seen; "":
        there is none."""
        now = self._ledger.now()
        return next((s.rule.id for s in self._charging.standings(self._client) if _is_used_up(s, now)), "")


def _is_used_up(standing: Standing, now: float) -> bool:
    rule = standing.rule
    if rule.kind is not Kind.BUDGET or rule.mode is not Mode.HARD or rule.models:
        return False
    return standing.used >= rule.limit and now < standing.ends[0]
