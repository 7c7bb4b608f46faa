"""What the pool's last requests show that sums do not: how sizes are spread, and how arrivals come in bursts. Pure."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from quotapool.plan.demand import Demand

_MOST_OF_A_KIND: Final = 2_000
_FEWEST: Final = 20  # requests of a kind that show how they are spread
_SHORTEST_S: Final = 600.0  # of a record that shows how a client's requests follow each other
_MINUTE_S: Final = 60.0
_JITTER_S: Final = 0.5


class Samples:
    """Made of requests in order of time."""

    def __init__(self, demand: Sequence[Demand], rng: random.Random) -> None:
        self._served: dict[tuple[str, str], list[Demand]] = {}
        self._arrivals: dict[str, list[float]] = {}
        seen: dict[tuple[str, str], int] = {}
        self._since = demand[0].at if demand else 0.0
        self.span_s = demand[-1].at - self._since if demand else 0.0
        for one in demand:
            for client in {"", one.client}:
                self._arrivals.setdefault(client, []).append(one.at)
            if not one.is_seen:
                continue
            for kind in {(one.client, one.model), ("", one.model)}:
                count = seen[kind] = seen.get(kind, 0) + 1
                known = self._served.setdefault(kind, [])
                if len(known) < _MOST_OF_A_KIND:
                    known.append(one)
                elif (place := int(rng.random() * count)) < _MOST_OF_A_KIND:
                    known[place] = one

    def like(self, client: str, model: str) -> Sequence[Demand]:
        """Served requests of this client and model, else of the model; none, if too few are known."""
        for kind in ((client, model), ("", model)):
            if len(found := self._served.get(kind, ())) >= _FEWEST:
                return found
        return ()

    def shows_bursts(self) -> bool:
        return self.span_s >= _SHORTEST_S and len(self._arrivals.get("", ())) >= _FEWEST

    def arrivals(self, client: str, count: int, span_s: float, rng: random.Random) -> list[float]:
        """`count` moments within `span_s` seconds, in any order: drawn from as many minutes of the record in a row,
        which begin anywhere; where it is too short for that, evenly at random, as independent requests come."""
        times = self._arrivals.get(client, [])
        if not self.shows_bursts() or len(times) < _FEWEST:
            times = self._arrivals.get("", [])
        if not self.shows_bursts():
            return [rng.random() * span_s for _ in range(count)]
        minutes = int(self.span_s // _MINUTE_S)
        first = int(rng.random() * minutes)
        found: list[float] = []
        for minute in range(max(1, round(span_s / _MINUTE_S))):
            began = self._since + (first + minute) % minutes * _MINUTE_S
            begin, end = bisect_left(times, began), bisect_left(times, began + _MINUTE_S)
            found += (at - began + minute * _MINUTE_S for at in times[begin:end])
        if not found:
            return [rng.random() * span_s for _ in range(count)]
        last = span_s - 1e-6
        return [
            min(last, max(0.0, found[int(rng.random() * len(found))] + rng.uniform(-_JITTER_S, _JITTER_S)))
            for _ in range(count)
        ]
