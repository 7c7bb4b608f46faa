"""Usage in slots of time: how long each kind of slot is kept, how many rows it holds, and which slots make up a span.

Pure. A slot has four tables: `client` (client, model), `key` (account, key, model), `refusal` (client, why) and
`rescue` (what requests were saved from, `rescues.py`); a day has two more, `cache` (what the cache did) and `saved`
(client, model: what it saved, `cache_savings.py`). Their rows are bounded, since a slot costs memory for as long as it
is kept: when a table is full, the half of its rows that used fewer tokens becomes part of one row, `other`. What that
costs at worst: docs/spend.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

from quotapool.money.spent import Spent

Table = Literal["client", "key", "refusal", "rescue", "cache", "saved"]
OTHER: Final = "other"
_SEPARATOR: Final = "\0"  # no id of a client, account or key has it; a model is the last part
_DEPTH: Final[dict[Table, int]] = {  # separators in a name
    "client": 1,
    "key": 2,
    "refusal": 1,
    "rescue": 0,
    "cache": 0,
    "saved": 1,
}
ALL_OTHER: Final[dict[Table, str]] = {table: _SEPARATOR.join([OTHER] * (depth + 1)) for table, depth in _DEPTH.items()}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# As stored, a sum's position: what is mostly 0 comes last, where zeros are left out.
_ORDER: Final = (
    *("requests", "exact", "prompt_tokens", "completion_tokens"),
    *("cached_tokens", "estimated", "unpriced_requests", "probes"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Resolution:
    """One length of slots. `rows`: how many a table has at most; without a number it is not kept."""

    name: str
    size: timedelta
    kept: timedelta
    rows: dict[Table, int]

    def start(self, moment: datetime) -> datetime:
        """The beginning of the slot that this moment (UTC) is in."""
        return floor(moment, self.size)


def _rows(pairs: int, refusals: int) -> dict[Table, int]:
    return {"client": pairs, "key": pairs, "refusal": refusals, "rescue": 8}  # of six words


# Up to 512 short rows a hash is one compact block in the store: 59 bytes a row instead of 90.
MINUTE: Final = Resolution("minute", timedelta(minutes=1), timedelta(hours=48), _rows(200, 50))
HOUR: Final = Resolution("hour", timedelta(hours=1), timedelta(days=90), _rows(400, 100))
_OF_DAYS: Final[dict[Table, int]] = {**_rows(500, 200), "cache": 8, "saved": 200}
DAY: Final = Resolution("day", timedelta(days=1), timedelta(days=400), _OF_DAYS)
RESOLUTIONS: Final = (DAY, HOUR, MINUTE)

Slot = tuple[Resolution, datetime]


class NotKeptError(Exception):
    """A span begins or ends inside a slot that is kept only as a whole. `at`: where; `kept`: what is kept there."""

    def __init__(self, at: datetime, kept: Resolution | None) -> None:
        super().__init__()
        self.at = at
        self.kept = kept


def floor(moment: datetime, size: timedelta) -> datetime:
    """The last multiple of `size`, counted from midnight in UTC, that is not after this moment."""
    return moment - (moment - _EPOCH) % size


def ceiling(moment: datetime, size: timedelta) -> datetime:
    return floor(moment + size - timedelta(microseconds=1), size)


def cover(since: datetime, until: datetime, every: timedelta, now: datetime) -> list[Slot]:
    """The slots from `since` to `until` (UTC, full minutes), each as long as possible, none longer than `every`.

    Long slots have more rows of their own and are fewer to read. Raises NotKeptError.
    """
    slots: list[Slot] = []
    at = since
    while at < until:
        fitting = (one for one in (DAY, HOUR) if one.size <= every and one.start(at) == at and at + one.size <= until)
        resolution = next(fitting, MINUTE)
        if not _is_kept(resolution, at, now):
            coarser = (one for one in reversed(RESOLUTIONS) if _is_kept(one, at, now))
            raise NotKeptError(at, next(coarser, None))
        slots.append((resolution, at))
        at += resolution.size
    return slots


def _is_kept(resolution: Resolution, at: datetime, now: datetime) -> bool:
    return resolution.start(at) > now - resolution.kept - resolution.size


def key_of(table: Table, slot: Slot) -> str:
    """The end of a table's name in the store."""
    resolution, start = slot
    return f"use:{resolution.name}:{start:%Y-%m-%dT%H:%M}:{table}"


def seconds_to_live(resolution: Resolution) -> int:
    """Of a table, from when it is made: the slot may have just begun."""
    return int((resolution.kept + 2 * resolution.size).total_seconds())


def joined(*parts: str) -> str:
    """The stored name of a row."""
    return _SEPARATOR.join(parts)


def parts_of(table: Table, name: str) -> tuple[str, ...]:
    return tuple(name.split(_SEPARATOR, _DEPTH[table]))


def counts(spent: Spent) -> list[int]:
    """As the script adds them up: one or more; zeros at the end are left out."""
    numbers: list[int] = [getattr(spent, name) for name in _ORDER]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return numbers


_decode: Final = msgspec.msgpack.Decoder(list[int | float]).decode


def spent_of(packed: bytes) -> Spent:
    """What `counts` made, or their sum. Beyond 2^53 the script adds in steps of a few picodollars."""
    numbers: Sequence[int | float] = _decode(packed)
    return Spent(**{name: int(number) for name, number in zip(_ORDER, numbers, strict=False)})
