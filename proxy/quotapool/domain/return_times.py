"""When to come back: each of those who were refused together is told a moment of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LONGEST_S: Final = 60.0  # what is told beyond, no SDK waits for


@dataclass(slots=True)
class ReturnTimes:
    """The times told to those who were refused, of one model group. A promise keeps no room: who does not come back
    costs nothing but a later time for those refused soon after, and that passes with the time itself."""

    until: float = 0.0  # the next one refused is told no earlier moment
    pace_s: float = 0.0  # between two of them

    def slot(self, wait_s: float, pace_s: float, now: float) -> float:
        """Seconds to tell one for whom there is room in `wait_s` if nobody else comes; `pace_s` 0: as before."""
        if wait_s > LONGEST_S:
            return wait_s
        self.pace_s = pace_s or self.pace_s
        told = max(wait_s, self.until - now)
        if told > LONGEST_S:  # more than a minute has room for: its second half is told once more
            told = min(LONGEST_S, max(wait_s, told - LONGEST_S / 2))
        self.until = now + told + self.pace_s
        return told
