"""Streams that use up their client's budget, where the operator wants them cut instead of finished.

Only an answer without a named maximum can use more than was held for it. From there on it may go on for as long as the
client's hard budgets have something left, as far as this process has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from quotapool.domain.rule_words import words
from quotapool.domain.rules import Kind, Measure, Mode
from quotapool.ledger.rules import Charge, Standing
from quotapool.openai import replies
from quotapool.openai.sse import Dialect, StreamRelay
from quotapool.request.rule_words import subject_words

_STEP: Final = 64  # tokens: the budgets are looked at again
_MESSAGE: Final = "This answer was cut: the {subject} may use {rule}, and that is used up."


class StreamOverrun(Exception):
    """The stream goes on no further."""


class StreamBound:
    """Of one stream. `held`: tokens of its answer that are paid for; `price_of`: picodollars of so many more; `now`:
    the store's second."""

    def __init__(self, charge: Charge, held: int, price_of: Callable[[int], float], now: Callable[[], float]) -> None:
        self._budgets = [s for s in charge.standings if s.rule.kind is Kind.BUDGET and s.rule.mode is Mode.HARD]
        self._held = held
        self._price_of = price_of
        self._now = now
        self._look_from = held
        self.used_up: Standing | None = None

    def check(self, watch: StreamRelay) -> None:
        """Raises StreamOverrun once a budget is used up."""
        seen = watch.seen
        if seen <= self._look_from:
            return
        self._look_from = seen + _STEP
        more, now = seen - self._held, self._now()
        for standing in self._budgets:
            measure = standing.rule.measure
            needs = more if measure is Measure.TOKENS else self._price_of(more) if measure is Measure.USD else 0
            if needs > standing.left_at(now):
                self.used_up = standing
                raise StreamOverrun

    def event(self, dialect: Dialect) -> bytes:
        """What the client is told in the stream, as OpenAI tells errors there."""
        error, standing = replies.CLIENT_BUDGET_EXHAUSTED, self.used_up
        message = error.message
        if standing is not None:
            message = _MESSAGE.format(subject=subject_words(standing), rule=words(standing.rule))
        if dialect == "chat":
            return b"data: " + error.body(message) + b"\n\n"
        told = {"type": "error", "code": error.code, "message": message, "param": None}
        return b"event: error\ndata: " + msgspec.json.encode(told) + b"\n\n"
