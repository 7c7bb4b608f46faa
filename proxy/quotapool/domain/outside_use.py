"""Outside use: use of an account that none of our books explain, found by comparing what upstream has left with them.

Each answer's `remaining` shows what a bucket upstream lacked when our request was admitted. Our own bucket says what it
should have lacked by our use alone, of all replicas: a full bucket less the level right after that reservation. Used
by us alone, the two differ only by the network: a request that arrives earlier or later than it was reserved, or
overtakes another. That changes neither of them more often than the other, since in every such pair one is read too high
and one too low. Somebody else's use changes only one: upstream lacks more.

So each answer is one of three: upstream lacks more than our books explain, less, or the same (`Tally`). How often it
lacks *less* is what the network does to this account, measured on itself, and how often it would lack *more* without
anybody else. Where the level has followed upstream downwards meanwhile (`taught` of domain/bucket.py), that is outside
use too, and exact. `Watch` adds up the evidence as a cumulative sum of log-likelihood ratios (Page, 1954): what speaks
for a share of SHARE more, less what speaks for none, never below zero, and bounded for every ten seconds, so that one
pause of the network or of this process is never enough. Requests are counted exactly by both sides. Tokens are an
estimate, and their comparison leaves SLACK for it; it does not count where our estimates turned out too low.

Tallies are sums: those of all workers and replicas are added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from quotapool.domain.bucket import BREATH_S

SLICE_S: Final = 10.0  # tallies are judged in slices of about so many seconds

SHARE: Final = 0.08  # of our answers, by which upstream lacks more often than without anybody else
LEAST_NOISE: Final = 0.01  # of our answers
MORE_NOISE: Final = 1.3  # the noise upwards is at most so many times that downwards
NAMED: Final = 12.0  # log-likelihood: one false alarm in e^12 chances
MOST_A_SLICE: Final = 3.0  # so that at least four slices must agree
TAUGHT_SHARE: Final = 0.05  # of the refill: a level that is corrected downwards by more is somebody's use
TAUGHT_WEIGHT: Final = 40.0
SLACK: Final = 1.5  # upstream may count that many times the tokens that we do
OVERRUN: Final = 0.05  # of our answers may have used more than was reserved for them, else tokens prove nothing
NOISE_ANSWERS: Final = 2000.0  # how many answers the noise is the average of
RATE_S: Final = 300.0  # the rates are averages of about that time
QUIET_S: Final = 600.0  # without evidence, until it is said to have ended
SILENT_S: Final = 3600.0  # without answers of ours, until nobody can say any more
MINUTE_S: Final = 60.0
REFUTED: Final = -6.0  # so strongly do requests say that nobody else is there, whatever tokens say
REQUESTS_SHARE: Final = 0.02  # of our answers; at least so often must requests show who uses so many tokens


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
        self.requests.note_whole(at, limit, remaining, full - kept, taught)
        if at > self.at:
            self.at = at

    def note_day(self, at: float, limit: float, remaining: float, full: float, kept: float, taught: float) -> None:
        """The same of a day's requests."""
        self.day.note_whole(at, limit, remaining, full - kept, taught)
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


ROW: Final = 2 + 4 * 8


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

    def note_whole(self, at: float, limit: float, remaining: float, ours: float, taught: float) -> None:
        """`remaining` is rounded down, so a bucket that lacks 1.2 requests shows 2. `ours`: what it lacks by our books."""
        self.answers += 1
        shown, expected = limit - remaining, math.ceil(ours - 1e-4)
        if shown > expected:
            self.more += 1
        elif shown < expected:
            self.less += 1
        if shown > 1:
            self.lacked += 1
        if expected > 1:
            self.explained += 1
        self._newest(at, limit, taught)

    def note(self, at: float, limit: float, remaining: float, cost: float, ours: float, taught: float) -> None:
        self.answers += 1
        shown = limit - remaining
        if shown > SLACK * ours + 1:
            self.more += 1
        elif ours > SLACK * shown + 1:
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
