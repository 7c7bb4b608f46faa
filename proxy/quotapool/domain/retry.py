"""After a verdict: give the answer to the client, move to another key, or try again after a pause.

Refusals (rate limit, money, death, wrong model) did no work upstream, so any request whose body we still hold may
move on. Failures (5xx, a broken connection) may have done work: only operations marked replayable are tried again,
unless nothing was written yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from quotapool.domain.verdict import Kind, Verdict


class Step(Enum):
    ANSWER = auto()  # this answer is the client's
    NEXT = auto()  # another account, at once
    AGAIN = auto()  # any account, after a pause


# How often one request may be refused in this way; beyond that something else is wrong. What takes a key out of the
# pool (money, death) never meets the same key again, so those may be many: else the next request would meet them.
_MOST_REFUSALS: Final = {
    Kind.WAIT: 24,
    Kind.SLOW_DOWN: 24,
    Kind.TOO_LARGE: 24,
    Kind.HEADER: 24,
    Kind.SUSPECT: 24,
    Kind.MONEY: 100,
    Kind.DEAD: 100,
    Kind.MODEL: 8,  # then it counts as the caller's mistake
    Kind.EGRESS: 1,  # an allow-list may be one organisation's: one other account may get through
}
_MOST_UNEXPLAINED: Final = 2  # rate limits that name neither a time nor a dimension

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 4.0


@dataclass(slots=True)
class RetrySlots:
    """Retries as a share of requests under way, so that an outage upstream is not answered with a storm.

    `share` of the active requests, and always at least `floor`, may be retries at the same time.
    """

    share: float = 0.2
    floor: int = 3
    active: int = 0
    retrying: int = 0

    def allows(self) -> bool:
        return self.retrying < max(self.floor, self.active * self.share)


@dataclass(slots=True)
class Tried:
    """What one request has been through: attempts that upstream refused, and attempts that failed."""

    refusals: dict[Kind, int] = field(default_factory=dict)  # by kind of verdict
    failures: int = 0
    idle: int = 0  # connections that were found closed before anything was sent

    @property
    def anything(self) -> bool:
        return bool(self.refusals or self.failures or self.idle)

    def refused(self, kind: Kind) -> None:
        self.refusals[kind] = self.refusals.get(kind, 0) + 1


def next_step(
    verdict: Verdict,
    tried: Tried,
    *,
    resendable: bool,
    replayable: bool,
    slots: RetrySlots,
    most_failures: int,
) -> Step:
    """`resendable`: we still hold the body; `replayable`: doing it twice is harmless."""
    if not resendable:
        return Step.ANSWER
    most = _MOST_REFUSALS.get(verdict.kind)
    if most is not None:
        if verdict.kind is Kind.WAIT and verdict.retry_after_s is None and not verdict.dimension:
            most = _MOST_UNEXPLAINED
        return Step.NEXT if tried.refusals.get(verdict.kind, 0) < most else Step.ANSWER
    if verdict.kind is Kind.SERVICE:
        again = replayable and tried.failures < most_failures and slots.allows()
        return Step.AGAIN if again else Step.ANSWER
    return Step.ANSWER


def may_resend(*, sent: bool, resendable: bool, replayable: bool, tried: Tried, slots: RetrySlots, most: int) -> bool:
    """After a network failure. `sent`: at least one byte of the request may have reached upstream."""
    if not resendable or tried.failures >= most:
        return False
    return (replayable or not sent) and slots.allows()


def pause_s(failures: int, retry_after_s: float | None, jitter: float) -> float:
    """Seconds before trying again: doubling, spread over the upper half by `jitter` in [0, 1); never before what
    upstream asks for, if that is short, and spread over a quarter beyond it."""
    pause: float = min(FIRST_PAUSE_S * 2.0 ** min(max(0, failures - 1), 16), LONGEST_PAUSE_S) * (0.5 + 0.5 * jitter)
    if retry_after_s is not None and retry_after_s <= LONGEST_PAUSE_S:
        pause = max(pause, retry_after_s * (1.0 + 0.25 * jitter))
    return pause
