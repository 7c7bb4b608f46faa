"""Samples of the pool's room: an hour of them in the store, one chunk for each minute; and what waits in all queues.

Stored, with a hash tag of its own, so that reading them never delays a reserve in a cluster:
  qp:{<pool>:samples}:<minute>   a chunk; <minute>: Unix seconds / 60. It lives for an hour and some minutes
  qp:{<pool>:samples}:room       the latest reading in full, MessagePack of `Reading`
  qp:{<pool>:samples}:lease      the replica that samples, with expiry: one at a time
  qp:{<pool>:samples}:queues     hash replica -> MessagePack of (Unix seconds, [Waiting, ...])

The bounds: 200 series; a chunk has at most 12 samples with 3 numbers of 4 bytes each for a series: 35 KB with its
names, 2 MB an hour. Names beyond 200 are added up in series of the model `other`.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from quotapool.domain.waiting import OTHER, Waiting, added_up
from quotapool.store.store import Store, text_of

EVERY_S: Final = 5.0
KEPT_MINUTES: Final = 60
MOST_SERIES: Final = 200
_KEPT_S: Final = (KEPT_MINUTES + 5) * 60
LEASE_S: Final = 20.0
_QUEUES_S: Final = 10.0  # after which a replica's queues count for nothing: it is gone
_NUMBERS: Final = 3
_AT_ONCE: Final = 20  # chunks in one answer, 700 KB if they are full
_UNKNOWN: Final = float("nan")

Name = tuple[str, str]
"""Model group, dimension."""


class Room(msgspec.Struct, array_like=True):
    """What all usable accounts have together, of one model group in one dimension. `used`: since the reading before, in
    which `spans_s` of `Reading` passed; None: not known."""

    model: str
    dimension: str
    limit: float
    remaining: float
    refill_per_minute: float
    accounts: int
    cooling: int
    used: float | None = None

    @property
    def name(self) -> Name:
        return self.model, self.dimension


class Reading(msgspec.Struct, array_like=True):
    """All buckets at one moment. `at`: Unix seconds; `spans_s`: since the reading before, 0 if there was none."""

    at: float
    spans_s: float
    room: list[Room]


class Chunk(msgspec.Struct, array_like=True):
    """The samples of one minute. `values`: float32, little-endian: for each sample and each name remaining, limit and
    used; NaN where nothing is known."""

    names: list[Name] = []
    at: list[float] = []
    waiting: list[int | None] = []
    spans_s: list[float] = []
    values: bytes = b""

    def add(self, reading: Reading, waiting: int | None) -> None:
        room = {row.name: row for row in reading.room}
        known = set(self.names)
        if new := [name for name in room if name not in known]:
            self._widen(new)
        row = array("f")
        for name in self.names:
            one = room.get(name)
            if one is None:
                row.extend((_UNKNOWN,) * _NUMBERS)
            else:
                row.extend((one.remaining, one.limit, _UNKNOWN if one.used is None else one.used))
        self.at.append(reading.at)
        self.waiting.append(waiting)
        self.spans_s.append(reading.spans_s)
        self.values += _bytes_of(row)

    def _widen(self, new: Sequence[Name]) -> None:
        numbers, width = self.numbers(), _NUMBERS * len(self.names)
        more = array("f", (_UNKNOWN,)) * (_NUMBERS * len(new))
        wider = array("f")
        for n in range(len(self.at)):
            wider += numbers[n * width : (n + 1) * width] + more
        self.names += new
        self.values = _bytes_of(wider)

    def numbers(self) -> array[float]:
        found = array("f", self.values)
        if sys.byteorder != "little":
            found.byteswap()
        return found


def _bytes_of(numbers: array[float]) -> bytes:
    if sys.byteorder != "little":
        numbers = array("f", numbers)
        numbers.byteswap()
    return numbers.tobytes()


class Track(msgspec.Struct):
    """One series; each list is as long as `at` of its history; NaN: not known. `used`: since the sample before."""

    remaining: list[float]
    limit: list[float]
    used: list[float]


class History(msgspec.Struct):
    """Samples, the oldest first."""

    at: list[float] = []
    spans_s: list[float] = []
    waiting: list[int | None] = []
    tracks: dict[Name, Track] = {}

    def add(self, chunk: Chunk, model: str | None = None) -> None:
        """The next chunk; `model`: only of this model group."""
        before, count = len(self.at), len(chunk.at)
        self.at += chunk.at
        self.spans_s += chunk.spans_s
        self.waiting += chunk.waiting
        numbers, width = chunk.numbers(), _NUMBERS * len(chunk.names)
        for n, name in enumerate(chunk.names):
            if model is not None and name[0] != model:
                continue
            track = self.tracks.get(name)
            if track is None:
                track = self.tracks[name] = Track(*([_UNKNOWN] * before for _ in range(_NUMBERS)))
            for k, values in enumerate((track.remaining, track.limit, track.used)):
                values.extend(numbers[_NUMBERS * n + k :: width])
        for track in self.tracks.values():
            lacks = before + count - len(track.used)
            if lacks:
                for values in (track.remaining, track.limit, track.used):
                    values.extend([_UNKNOWN] * lacks)


class Bounded:
    """Keeps the names of series few: those that were there first keep theirs, until they have been gone for an hour."""

    def __init__(self, names: Iterable[Name] = ()) -> None:
        self._seen: dict[Name, float | None] = dict.fromkeys(names)

    def rows(self, reading: Reading) -> Reading:
        """The same reading with at most `MOST_SERIES` rows, and some of `other`, one for each dimension."""
        for name, at in list(self._seen.items()):
            if at is None:
                self._seen[name] = reading.at
            elif reading.at - at > KEPT_MINUTES * 60:
                del self._seen[name]
        kept: list[Room] = []
        rest: dict[str, Room] = {}
        for row in reading.room:
            if row.name in self._seen or len(self._seen) < MOST_SERIES:
                self._seen[row.name] = reading.at
                kept.append(row)
            else:
                rest[row.dimension] = _sum(rest.get(row.dimension), row)
        return Reading(reading.at, reading.spans_s, [*kept, *rest.values()])


def _sum(so_far: Room | None, row: Room) -> Room:
    if so_far is None:
        return Room(OTHER, *msgspec.structs.astuple(row)[1:])
    so_far.limit += row.limit
    so_far.remaining += row.remaining
    so_far.refill_per_minute += row.refill_per_minute
    so_far.accounts += row.accounts
    so_far.cooling += row.cooling
    so_far.used = None if so_far.used is None or row.used is None else so_far.used + row.used
    return so_far


_pack: Final = msgspec.msgpack.Encoder().encode
_chunk_of: Final = msgspec.msgpack.Decoder(Chunk).decode
_reading_of: Final = msgspec.msgpack.Decoder(Reading).decode
_queue_of: Final = msgspec.msgpack.Decoder(tuple[float, list[Waiting]]).decode


class SampleStore:
    """The samples of one pool. `owner`: this replica. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str, owner: str = "") -> None:
        self.prefix = f"qp:{{{pool}:samples}}"
        self._store = store
        self._owner = owner
        self._chunk: tuple[int, Chunk] | None = None  # its minute, as we wrote it last
        self._told = False  # that requests wait here

    async def _call(self, command: Awaitable[Any]) -> Any:
        return await self._store.guard(command)

    # ---- who samples

    async def acquire(self, for_s: float = LEASE_S) -> bool:
        """Become the replica that samples, or stay it, for so long; False: another one does."""
        lease_ms = int(for_s * 1000)
        client, key = self._store.client, f"{self.prefix}:lease"
        if await self._call(client.set(key, self._owner, nx=True, px=lease_ms)):
            self._chunk = None  # another one may have written since
            return True
        if text_of(await self._call(client.get(key)) or b"") != self._owner:
            self._chunk = None
            return False
        return bool(await self._call(client.set(key, self._owner, xx=True, px=lease_ms)))

    async def release(self) -> None:
        """Let another replica sample at once."""
        key = f"{self.prefix}:lease"
        if text_of(await self._call(self._store.client.get(key)) or b"") == self._owner:
            await self._call(self._store.client.delete(key))

    # ---- samples

    async def add(self, reading: Reading, waiting: int | None) -> None:
        """Add a sample. Only for the replica that samples: others would overwrite its chunk."""
        minute = int(reading.at // 60)
        if self._chunk is None or self._chunk[0] != minute:
            raw = await self._call(self._store.client.get(f"{self.prefix}:{minute}"))
            self._chunk = minute, _chunk_of(raw) if raw else Chunk()
        chunk = self._chunk[1]
        chunk.add(reading, waiting)
        try:
            await self._call(self._store.client.set(f"{self.prefix}:{minute}", _pack(chunk), ex=_KEPT_S))
            await self._call(self._store.client.set(f"{self.prefix}:room", _pack(reading), ex=_KEPT_S))
        except BaseException:
            self._chunk = None
            raise

    async def names(self, at: float) -> list[Name]:
        """The series of this minute and the one before."""
        return list(dict.fromkeys(name for chunk in await self.chunks(at, 2) for name in chunk.names))

    async def latest(self) -> Reading | None:
        """The last reading, however old it is."""
        raw = await self._call(self._store.client.get(f"{self.prefix}:room"))
        return _reading_of(raw) if raw else None

    async def chunks(self, at: float, minutes: int) -> list[Chunk]:
        """Those of the last `minutes` and of the minute that `at` is in, the oldest first."""
        return [chunk for _, chunk in await self.by_minute(at, minutes)]

    async def by_minute(self, at: float, minutes: int) -> list[tuple[int, Chunk]]:
        """The same with the minute of each (Unix seconds / 60)."""
        this = int(at // 60)
        wanted = range(this - minutes, this + 1)
        found: list[tuple[int, Chunk]] = []
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            values = await self._call(self._store.client.mget([f"{self.prefix}:{n}" for n in part]))
            found += [(n, _chunk_of(raw)) for n, raw in zip(part, values, strict=True) if raw is not None]
        return found

    # ---- queues

    async def put_waiting(self, rows: Sequence[Waiting]) -> None:
        """What waits in this replica's queues; to be repeated while something does."""
        client, key = self._store.client, f"{self.prefix}:queues"
        if rows:
            await self._call(client.hset(key, self._owner, _pack((time.time(), rows))))
            await self._call(client.expire(key, 60))
        elif self._told:
            await self._call(client.hdel(key, self._owner))
        self._told = bool(rows)

    async def waiting(self) -> list[Waiting]:
        """What waits in the queues of all replicas. One that has said nothing for ten seconds is left out."""
        raw: Mapping[bytes, bytes] = await self._call(self._store.client.hgetall(f"{self.prefix}:queues"))
        told = map(_queue_of, raw.values())
        now = time.time()
        return added_up(row for at, rows in told if abs(now - at) < _QUEUES_S for row in rows)
