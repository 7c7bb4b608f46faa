"""Requests for one embedding that come many at a time, and could have been one request for many."""

from __future__ import annotations

from typing import Final

SPAN_S: Final = 1.0
LEAST: Final = 20  # within a span; fewer may be the questions of as many people
_MOST: Final = 1000  # names


class Bursts:
    """One process's spans of time. A span begins with a request that is in none."""

    def __init__(self) -> None:
        self._spans: dict[tuple[str, str], tuple[float, int]] = {}  # when it began, how many came

    def add(self, name: tuple[str, str], now: float) -> tuple[int, int]:
        """What one more request adds to the requests in bursts, and to the number of bursts. `now` in seconds."""
        began, count = self._spans.get(name, (now, 0))
        if not began <= now < began + SPAN_S:
            began, count = now, 0
        if name not in self._spans and len(self._spans) >= _MOST:
            self._spans.clear()
        self._spans[name] = began, count + 1
        if count + 1 < LEAST:
            return 0, 0
        return (LEAST, 1) if count + 1 == LEAST else (1, 0)
