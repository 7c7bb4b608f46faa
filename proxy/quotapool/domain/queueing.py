"""How a queue for room is served: figures and arithmetic that the pool's queues and a replay of them have in common.

Times in seconds.
"""

from __future__ import annotations

from typing import Final

LONGEST_NAP_S: Final = 1.0  # a state change or another replica's settle may bring room earlier than was expected
SHORTEST_NAP_S: Final = 0.002
HEADS: Final = 4  # how many of the queue may ask while the first has long to wait
LONG_S: Final = 0.25
SETTLES_AGAIN_S: Final = 0.05  # while others hold what it needs
MOST_AT_ONCE: Final = 32

ROUNDS: Final = 4  # how often the ledger is asked in one look
PRECEDENCE_S: Final = 86_400.0  # across replicas, a higher priority counts as having come a day earlier
TIGHT_S: Final = 5.0  # after a refusal, more accounts are named at once
UNKNOWN_WAIT_S: Final = 1.0  # if it is unknown when there will be room

_PACE: Final = 0.2  # weight of the newest gap between two grants


def next_pace_s(pace_s: float, gap_s: float) -> float:
    """Seconds between grants lately, after another one that came `gap_s` behind the last."""
    return pace_s + _PACE * (gap_s - pace_s)


def expected_wait_s(least_s: float, pace_s: float, ahead: int) -> float:
    """Of a newcomer behind `ahead` others; `least_s`: until the budgets have room."""
    return max(least_s, pace_s * (ahead + 1))


def has_place(free: int, of_client: int, client: str) -> bool:
    """A client may fill the queue up to four times what it leaves free, so that a flood cannot shut others out.
    `of_client`: how many of its requests wait already."""
    return free > 0 and (not client or of_client < max(1, 4 * free))
