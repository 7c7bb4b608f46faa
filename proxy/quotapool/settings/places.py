"""Where each option in force was written: kept from the draft, bounded, for people who ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from quotapool.settings.errors import Option, Place, shown

_SUMMED_UP: Final = frozenset({"keys", "clients"})  # thousands, of which only the number is told
_MOST: Final = 5_000
_MOST_SOURCES: Final = 5


def places_of(places: Mapping[Option, Place]) -> dict[str, str]:
    """`queue.max_wait` -> `quotapool.yaml:12:3`. Of keys and clients only the list as a whole; at most 5,000 others."""
    found: dict[str, str] = {}
    for option, place in places.items():
        if not option or (option[0] in _SUMMED_UP and len(option) > 1):
            continue
        if len(found) >= _MOST:
            break
        found[shown(option)] = str(place)
    return found


def sources_of(places: Iterable[Place | None]) -> str:
    """`keys.txt: 5,000, quotapool.yaml: 3`: how many came from where, without lines; "" if nothing came."""
    counts = Counter(place.source for place in places if place is not None)
    told = [f"{source}: {number:,}" for source, number in counts.most_common(_MOST_SOURCES)]
    if more := len(counts) - len(told):
        told.append(f"{more:,} more places")
    return ", ".join(told)
