"""When refused clients should come back: each of those refused together gets a time of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LONGEST_S: Final = 60.0  # no SDK waits longer


@dataclass(slots=True)
class ReturnTimes:
    """The return times given to refused requests of one model group. They reserve nothing: a client that does not come
    back only makes the times of those refused soon after it later, until that time has passed."""

    until: float = 0.0  # the next return time is no earlier
    pace_s: float = 0.0  # between two return times

    def slot(self, wait_s: float, pace_s: float, now: float) -> float:
        """Seconds after which a refused request should come back, if there is room for it in `wait_s` seconds should
        no other request come; `pace_s` 0: as before."""
        if wait_s > LONGEST_S:
            return wait_s
        self.pace_s = pace_s or self.pace_s
        slot_s = max(wait_s, self.until - now)
        if slot_s > LONGEST_S:  # more than fit into a minute: the slots of its second half are given out again
            slot_s = min(LONGEST_S, max(wait_s, slot_s - LONGEST_S / 2))
        self.until = now + slot_s + self.pace_s
        return slot_s
