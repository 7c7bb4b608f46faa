"""Head-room as this process last heard it: how full the emptiest bucket of each account was, by model group.

Arrays by the account's place instead of an object each: a request looks at random accounts, and in a large pool each
object that nobody looked at lately is a wait for memory. Two accounts' figures are two short waits, not twelve.
"""

from __future__ import annotations

from array import array
from typing import Final

_REFILL_S: Final = 60.0  # most budgets are per minute; for a daily one this errs for a moment, and the store decides
_MOST_FIGURES: Final = 4_000_000  # all groups together: 32 MB
_MOST_GROUPS: Final = 1_000
_FULL: Final = 1.0  # what was never asked


class Levels:
    """What was heard of one model group: a share (0..1) of each account's bucket, and when that was heard."""

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
        """Head-room now: what was heard, and what a minute's budget has refilled since. Else an account that was
        nearly empty when it was last used would be passed over for ever."""
        return min(1.0, self.shares[place] + max(0.0, now - self.at[place]) / _REFILL_S)

    def rank(self, place: int, weight: float, now: float) -> tuple[int, float]:
        """The lower, the sooner it is asked: by its head-room in tenths, and among equals the one unheard of for the
        longest. (What we last heard is some calls old; by exact figures one favourite would get them all.)"""
        at = self.at[place]
        return -round(10 * weight * min(1.0, self.shares[place] + max(0.0, now - at) / _REFILL_S)), at


class Headroom:
    """The levels of all model groups that were asked for. Bounded: names of models are the clients' to invent."""

    def __init__(self) -> None:
        self._places = 0
        self._groups: dict[str, Levels] = {}
        self._unheard = Levels(0)

    def __len__(self) -> int:
        return len(self._groups)

    def __repr__(self) -> str:
        return f"<Headroom groups={len(self._groups)} places={self._places}>"

    def grow(self, places: int) -> None:
        """Have room for accounts at places below `places`; never less than before."""
        self._places = max(self._places, places)
        for levels in (self._unheard, *self._groups.values()):
            levels.grow(self._places)

    def of(self, group: str) -> Levels:
        """To be read only: a group that was never heard of shares its levels with all such."""
        return self._groups.get(group, self._unheard)

    def update(self, group: str, place: int, share: float, now: float) -> None:
        levels = self._groups.get(group)
        if levels is None:
            most = min(_MOST_GROUPS, _MOST_FIGURES // (2 * self._places))
            if len(self._groups) >= max(1, most):
                self._groups.clear()
            levels = self._groups[group] = Levels(self._places)
        levels.shares[place] = share
        levels.at[place] = now
