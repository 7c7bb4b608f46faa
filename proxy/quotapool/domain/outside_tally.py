"""What answers show of outside use, counted where they come in: sums of one process, to be judged by `outside_use.py`.

Called for each answer, so it only compares and adds. Tallies are sums: those of all workers and replicas can be added.
"""

from __future__ import annotations

import math
from typing import Final

SLACK: Final = 1.3  # upstream may count that many times the tokens that we do
# While we use a bucket without a pause, what the network delayed at first stays missing. So where our books explain
# more than one request before this one, so many seconds of refill are no surprise.
DELAY_S: Final = 1.5


class Tally:
    """What the answers of some seconds show of one (account, model group), in one process.

    `requests`, `tokens_kept`, `tokens_corrected`: of the minute's limits; of tokens by both predictions, since only one of
    them is upstream's way of charging. `day`: of the day's requests. `overruns`: answers that used more than reserved.
    """

    __slots__ = ("at", "day", "overruns", "requests", "tokens_corrected", "tokens_kept")

    def __init__(self) -> None:
        self.at = 0.0
        self.requests = Counts()
        self.tokens_kept = Counts()
        self.tokens_corrected = Counts()
        self.day = Counts()
        self.overruns = 0.0

    def note_requests(self, at: float, limit: float, remaining: float, full: float, kept: float, taught: float) -> None:
        """One answer's `remaining` requests of a minute, for the reservation at `at`: `full` is what our bucket holds,
        `kept` its level then, `taught` how much evidence has moved it so far."""
        self.requests.note_whole(at, limit, remaining, full - kept, taught, 60.0)
        if at > self.at:
            self.at = at

    def note_day(self, at: float, limit: float, remaining: float, full: float, kept: float, taught: float) -> None:
        """The same of a day's requests."""
        self.day.note_whole(at, limit, remaining, full - kept, taught, 86_400.0)
        if at > self.at:
            self.at = at

    def note_tokens(
        self,
        at: float,
        limit: float,
        remaining: float,
        full: float,
        cost: float,
        kept: float,
        corrected: float,
        taught_kept: float,
        taught_corrected: float,
    ) -> None:
        """The same of a minute's tokens, of which this request took `cost`."""
        self.tokens_kept.note(at, limit, remaining, cost, full - kept, taught_kept)
        self.tokens_corrected.note(at, limit, remaining, cost, full - corrected, taught_corrected)
        if at > self.at:
            self.at = at

    def row(self) -> list[float]:
        """As numbers, for the store."""
        numbers = [self.at, self.overruns]
        for counts in (self.requests, self.tokens_kept, self.tokens_corrected, self.day):
            numbers += counts.row()
        return numbers


class Counts:
    """Of one dimension: answers, those by which upstream lacked `more` or `less` than our books explain, and those that
    found the bucket less than full, by upstream (`lacked`) and by our books (`explained`). `taught` and `limit` are of
    the newest answer, reserved at `at`."""

    __slots__ = ("answers", "at", "explained", "lacked", "less", "limit", "more", "taught")

    def __init__(self) -> None:
        self.answers = 0.0
        self.more = 0.0
        self.less = 0.0
        self.lacked = 0.0
        self.explained = 0.0
        self.limit = 0.0
        self.at = 0.0
        self.taught = 0.0

    def note_whole(self, at: float, limit: float, remaining: float, ours: float, taught: float, period_s: float) -> None:
        """`remaining` is rounded down, so a bucket that lacks 1.2 requests shows 2. `ours`: what it lacks by our books."""
        self.answers += 1
        shown = limit - remaining
        margin = min(limit / period_s * DELAY_S, max(0.0, min(ours, shown) - 2))
        if shown > math.ceil(ours + margin - 1e-4):
            self.more += 1
        elif shown < math.ceil(ours - margin - 1e-4):
            self.less += 1
        if shown > 1:
            self.lacked += 1
        if ours > 1 + 1e-4:
            self.explained += 1
        self._newest(at, limit, taught)

    def note(self, at: float, limit: float, remaining: float, cost: float, ours: float, taught: float) -> None:
        self.answers += 1
        shown = limit - remaining
        margin = min(limit / 60 * DELAY_S, max(0.0, min(ours, shown) - 2 * cost)) + 1
        if shown > SLACK * ours + margin:
            self.more += 1
        elif ours > SLACK * shown + margin:
            self.less += 1
        if shown > cost + 1:
            self.lacked += 1
        if ours > cost + 1:
            self.explained += 1
        self._newest(at, limit, taught)

    def _newest(self, at: float, limit: float, taught: float) -> None:
        if at >= self.at:
            self.at, self.limit, self.taught = at, limit, taught

    def row(self) -> list[float]:
        """As numbers; `counts_of` reads them."""
        counts = [self.answers, self.more, self.less, self.lacked, self.explained]
        return [*counts, self.limit, self.at, self.taught]
