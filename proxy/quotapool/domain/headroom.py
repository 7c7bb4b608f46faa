"""Headroom as this process last saw it: how full the emptiest bucket of each account was, by model group.

Arrays indexed by the account's place instead of one object each: a request looks at random accounts, and in a large
pool each object that was not used lately is a cache miss. Two accounts' figures are two short waits, not twelve.
"""

from __future__ import annotations

from array import array
from typing import Final

_REFILL_S: Final = 60.0  # most budgets are per minute; for a daily one this errs briefly, and the store decides
_MOST_FIGURES: Final = 4_000_000  # all groups together: 32 MB
_MOST_GROUPS: Final = 1_000
_FULL: Final = 1.0  # of an account never used


class Levels:
    """The known levels of one model group: a share (0..1) of each account's bucket, and when it was observed."""

    __slots__ = ("at", "shares")

    def __init__(self, places: int) -> None:
        self.shares = array("f", (_FULL,)) * places
        self.at = array("d", (0.0,)) * places

    def grow(self, places: int) -> None:
        more = places - len(self.at)
        if more > 0:
            self.shares.extend(array("f", (_FULL,)) * more)
            self.at.extend(array("d", (0.0,)) * more)

    def expected(self, place: int, now: float) -> float:
        """Headroom now: the last observation, and what a budget per minute has refilled since. Otherwise an account
        that was nearly empty when it was last used would be passed over forever."""
        return min(1.0, self.shares[place] + max(0.0, now - self.at[place]) / _REFILL_S)

    def rank(self, place: int, weight: float, now: float) -> tuple[int, float]:
        """The lowest is chosen first: by headroom in tenths, and among equals the one observed longest ago. (An
        observation is some calls old; by exact figures a single account would get all requests.)"""
        at = self.at[place]
        return -round(10 * weight * min(1.0, self.shares[place] + max(0.0, now - at) / _REFILL_S)), at


class Headroom:
    """The levels of all model groups seen so far. Bounded, since clients can invent model names."""

    def __init__(self) -> None:
        self._places = 0
        self._groups: dict[str, Levels] = {}
        self._unseen = Levels(0)

    def __len__(self) -> int:
        return len(self._groups)

    def grow(self, places: int) -> None:
        """Make room for accounts at places below `places`; never shrinks."""
        self._places = max(self._places, places)
        for levels in (self._unseen, *self._groups.values()):
            levels.grow(self._places)

    def of(self, group: str) -> Levels:
        """For reading only: all groups never seen share one set of levels."""
        return self._groups.get(group, self._unseen)

    def update(self, group: str, place: int, share: float, now: float) -> None:
        levels = self._groups.get(group)
        if levels is None:
            most = min(_MOST_GROUPS, _MOST_FIGURES // (2 * self._places))
            if len(self._groups) >= max(1, most):
                self._groups.clear()
            levels = self._groups[group] = Levels(self._places)
        levels.shares[place] = share
        levels.at[place] = now
