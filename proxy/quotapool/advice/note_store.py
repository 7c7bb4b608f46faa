"""Notes in the store: each day's sums by client and model, and which requests were asked before.

Layout and arithmetic: `lua/notes.lua`. The hash tag is not that of the budgets, so that in a cluster advice never
delays a reserve. What is sent is not sent again if its answer is lost: it would count twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import msgspec

from quotapool.advice.sums import Sums, flat, of_flat
from quotapool.store.store import Script, Store, text_of

Name = tuple[str, str]
"""A client and a model."""

MOST_NAMES: Final = 500
"""Of a day, 150 kB; requests under further names are in no advice."""
_SEPARATOR: Final = "\0"
_SINCE: Final = "since"

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(list[float]).decode


class Day(msgspec.Struct):
    """`since`: Unix seconds of its first note."""

    since: float
    sums: dict[Name, Sums]


class NoteStore:
    """The notes of one pool. Every method raises StoreError while the store is away, or refuses."""

    def __init__(self, store: Store, pool: str) -> None:
        self.prefix = f"qp:{{{pool}:advice}}"
        self._store = store
        self._script = Script.of(__package__, "notes")

    async def add(
        self, digests: bytes, sums: Mapping[Name, Sums], at: datetime, *, kept_s: float, days_kept_s: float
    ) -> bytes:
        """Add sums to the day of `at` (UTC). The answer has a byte for each of the digests, in the order of the
        requests: `1` if an answer that is kept for `kept_s` seconds would have been there."""
        keys = [f"{self.prefix}:asked", self._day(at.date())]
        rows: list[str | list[int]] = []
        for name, row in sums.items():
            rows += _SEPARATOR.join(name), flat(row)
        # A day is kept from its last note on, and asked for until the last of them is too old.
        arguments = (digests, kept_s, _pack(rows), MOST_NAMES, int(days_kept_s) + 86_400)
        hits: bytes = await self._store.evalsha(self._script, keys, arguments)
        return hits

    async def days(self, first: date, last: date) -> list[Day]:
        """The notes of these UTC days, both included; a day without any is left out."""
        found: list[Day] = []
        for day in _each(first, last):
            raw: dict[Any, Any] = await self._store.guard(self._store.client.hgetall(self._day(day)))
            since, sums = 0.0, dict[Name, Sums]()
            for field, value in raw.items():
                client, separator, model = text_of(field).partition(_SEPARATOR)
                if not separator:
                    since = float(value)
                elif (row := of_flat(_unpack(value))) is not None:
                    sums[client, model] = row
            if sums:
                found.append(Day(since or datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp(), sums))
        return found

    def _day(self, day: date) -> str:
        return f"{self.prefix}:day:{day.isoformat()}"


def _each(first: date, last: date) -> Iterator[date]:
    for n in range((last - first).days + 1):
        yield first + timedelta(n)
