"""Judges the tallies of all replicas, and says where outside use begins and ends. One replica at a time; no I/O.

While fewer processes serve the pool than a while ago, nothing is judged: one that does not reach the store may still
serve from its share, and what it takes then is in no book that we see (`ledger/local.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from quotapool.domain.outside_use import UNSEEN_S, Judgement, Slices, is_named
from quotapool.outside.shared_tallies import Stored
from quotapool.outside.tallies import Name

FEWER_S: Final = 900.0
_MOST: Final = 50_000  # (account, model group)s that are judged; 100 MB


class OutsideWatch:
    """What this process knows. `named`: what is named now."""

    def __init__(self, named: Mapping[Name, Stored] | None = None) -> None:
        self.named: dict[Name, Stored] = dict(named or {})
        self._judged: dict[Name, Judgement] = {name: stored.judged for name, stored in self.named.items()}
        self._most_replicas = 0
        self._most_at = 0.0

    def may_judge(self, replicas: int, now: float) -> bool:
        """False: fewer processes serve than in the last quarter of an hour. To be called with each slice."""
        if replicas >= self._most_replicas or now - self._most_at > FEWER_S:
            self._most_replicas, self._most_at = replicas, now
        return replicas >= self._most_replicas

    def take(self, sums: Mapping[Name, Slices]) -> None:
        """A slice."""
        for name, slices in sums.items():
            judged = self._judged.get(name)
            if judged is None:
                if len(self._judged) >= _MOST:
                    continue
                judged = self._judged[name] = Judgement()
            judged.take(slices)

    def begun(self, ignored: Collection[str], now: float) -> Iterator[tuple[Name, Judgement]]:
        """What is to be named that was not. `ignored`: accounts that are known to be used by others."""
        for name, judged in self._judged.items():
            if name not in self.named and name[0] not in ignored and is_named(judged, before=False, now=now):
                yield name, judged

    def ended(self, ignored: Collection[str], now: float) -> Iterator[Name]:
        """What was named and is over, or can no longer be seen."""
        for name in self.named:
            judged = self._judged.get(name)
            if judged is None or name[0] in ignored or not is_named(judged, before=True, now=now):
                yield name

    def tidy(self, now: float) -> None:
        """Forget what has not been used for long."""
        old = [name for name, judged in self._judged.items() if now - judged.seen > UNSEEN_S]
        for name in old:
            if name not in self.named:
                del self._judged[name]

    def judged(self, name: Name) -> Judgement | None:
        return self._judged.get(name)
