"""Counters in shared memory: every worker counts in the files of its slot; `shared_text.py` adds them up at scrape.

The files have the format of `prometheus_client.mmap_dict.MmapedDict`. Writing is one indexed add on a mapped
`memoryview`, a single aligned 8-byte store: a worker that is killed leaves either the old value or the new one, never
half of it.

Files belong to a slot ("0", "1", ...), not to a process. The worker that replaces an exited one in its slot reopens the
counters and histograms and continues to count; gauges describe a running process and start afresh.

Layout of a directory (made by `prepare`, one directory for one supervisor):
    counter_<slot>.db  histogram_<slot>.db  gauge_<mode>_<slot>.db  lock_<slot>
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

_HEADER: Final = struct.Struct("i4x")  # bytes in use, header included
_EMPTY: Final = _HEADER.size
_CLAIM: Final = 1 << 16  # bytes of disk reserved at a time
_SIZES: Final = {"counter": 4 << 20, "histogram": 16 << 20}  # sparse: what is not written takes no space
_GAUGE_SIZE: Final = 1 << 20

# The file as doubles, and the index of the value in it; the value's time stamp is the next one. The view stays valid
# when the file grows, because an older mapping of the same file shows the same memory.
Cell: TypeAlias = "tuple[memoryview[float], int]"

_log = logging.getLogger(__name__)


class SlotTakenError(RuntimeError):
    """Another running process counts in this slot; two writers would lose each other's counts."""


def prepare(directory: Path) -> None:
    """Make `directory` empty and private. For the supervisor, once, before its first worker starts.

    What an orphan of a killed supervisor still counts goes to files that no longer have a name.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for pattern in ("*.db", "*.new", "lock_*"):
        for leftover in directory.glob(pattern):
            leftover.unlink(missing_ok=True)


def install(directory: Path, slot: str) -> Slot:
    """Make every metric created from now on in this process count in `slot`'s files.

    Raises SlotTakenError if a running process has the slot, ValueError for a name that the library cannot parse.
    """
    taken = Slot(directory, slot)
    # The library calls ValueClass and never subclasses it, so a bound constructor is enough.
    values.ValueClass = partial(SlotValue, taken)
    return taken


def forget_gauges(directory: Path, slot: str) -> None:
    """Drop an exited worker's last gauges. Called by the supervisor when it reaps one."""
    for file in directory.glob(f"gauge_*_{slot}.db"):
        file.unlink(missing_ok=True)


class Slot:
    """The files of one worker, locked against a second writer for as long as the process runs."""

    def __init__(self, directory: Path, name: str) -> None:
        if not name or not name.isalnum():  # the library splits file names at "_" and cuts ".db"
            raise ValueError(f"the name of a slot has only letters and digits, not {name!r}")
        self._directory = directory
        self._name = name
        self._files: dict[str, _ValueFile] = {}
        self._warned = False
        self._lock = os.open(directory / f"lock_{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise SlotTakenError(f"slot {name} of {directory} is in use by another process") from None
        forget_gauges(directory, name)

    def close(self) -> None:
        """Give up the slot. Its values must no longer be used."""
        for file in self._files.values():
            file.close()
        os.close(self._lock)

    def cell(self, kind: str, key: str) -> Cell:
        """Where `key` is counted. `kind`: "counter", "histogram" or "gauge_<mode>".

        If the disk is full or broken, new series are not exported, but the worker goes on.
        """
        try:
            return self._file(kind).cell(key)
        except OSError as error:
            if not self._warned:
                self._warned = True
                _log.error("metrics files cannot grow, new series are not exported: %s", error)
            return memoryview(bytearray(16)).cast("d"), 0

    def _file(self, kind: str) -> _ValueFile:
        if kind not in self._files:
            path = self._directory / f"{kind}_{self._name}.db"
            self._files[kind] = _ValueFile(path, _SIZES.get(kind, _GAUGE_SIZE))
        return self._files[kind]


class SlotValue:
    """One number of one series, as `prometheus_client` expects it: a cell in a mapped file.

    For a single thread, such as the event loop: additions are not protected against other threads.
    """

    __slots__ = ("_at", "_cells")
    _multiprocess = True

    def __init__(
        self,
        slot: Slot,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> None:
        kind = f"gauge_{multiprocess_mode}" if typ == "gauge" else typ
        key = mmap_key(metric_name, name, list(labelnames), list(labelvalues), help_text)
        self._cells, self._at = slot.cell(kind, key)

    @property
    def cell(self) -> Cell:
        return self._cells, self._at

    def inc(self, amount: float = 1) -> None:
        self._cells[self._at] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        self._cells[self._at] = value
        self._cells[self._at + 1] = timestamp or 0.0

    def get(self) -> float:
        return self._cells[self._at]

    def set_exemplar(self, exemplar: object) -> None:
        """The file format has no room for exemplars."""

    def get_exemplar(self) -> None:
        return None


class _ValueFile:
    """A mapped file of (key, value, timestamp) entries that only grows."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        index = _read_index(path)
        if index is None:
            _create(path, size)
        self._index: dict[str, int] = index or {}
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map()
        self._used: int = _HEADER.unpack_from(self._bytes)[0]
        self._claimed = self._used

    def cell(self, key: str) -> Cell:
        position = self._index.get(key)
        if position is None:
            position = self._index[key] = self._append(key)
        return self._cells, position // 8

    def close(self) -> None:
        os.close(self._fd)

    def _append(self, key: str) -> int:
        encoded = key.encode()
        padded = encoded + b" " * (8 - (len(encoded) + 4) % 8)
        entry = struct.pack(f"i{len(padded)}sdd", len(encoded), padded, 0.0, 0.0)
        end = self._used + len(entry)
        self._claim(end)
        self._bytes[self._used : end] = entry
        # Published last: a reader, or the next owner of the slot, never sees half an entry.
        self._cells_of_header[0] = end
        self._used = end
        return end - 16

    def _claim(self, end: int) -> None:
        """Make sure the disk has room up to `end`: writing to a hole in a mapped file on a full disk is a SIGBUS."""
        while self._claimed < end:
            zeros = bytes(_CLAIM)
            if os.pwrite(self._fd, zeros, self._claimed) < _CLAIM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._claimed += _CLAIM
        if end > len(self._bytes):
            os.ftruncate(self._fd, max(2 * len(self._bytes), self._claimed))
            self._map()

    def _map(self) -> None:
        self._bytes = mmap.mmap(self._fd, os.fstat(self._fd).st_size // 8 * 8)
        self._cells = memoryview(self._bytes).cast("d")
        self._cells_of_header = memoryview(self._bytes)[:8].cast("i")


def _read_index(path: Path) -> dict[str, int] | None:
    """Positions of the values in an existing file; None if there is none, or it is damaged."""
    try:
        entries = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]  # it is
        return {key: position for key, _, _, position in entries}
    except FileNotFoundError:
        return None
    except (RuntimeError, ValueError, struct.error) as error:
        _log.warning("metrics file %s is damaged, its counts start from zero: %s", path.name, error)
        return None


def _create(path: Path, size: int) -> None:
    """Create an empty file atomically, since the supervisor may scrape at any moment."""
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(_HEADER.pack(_EMPTY))
        file.truncate(size)
    new.replace(path)
