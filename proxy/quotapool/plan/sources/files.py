"""Demand from a file, whichever program's it is: our log, LiteLLM's or gpt-load's; JSON lines, JSON or CSV, also packed
by gzip, in UTF-8 or UTF-16. Bounded in bytes, and in what is held at once."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from quotapool.openai.jsontext import BROKEN
from quotapool.plan.sources import gpt_load, litellm, log_lines
from quotapool.plan.sources.gpt_load import GptLoadRows
from quotapool.plan.sources.record import Collector, Known, Record, SourceError

MOST_BYTES: Final = 32 * 2**30  # unpacked
_LONGEST_LINE: Final = 8 * 2**20  # payloads of callbacks may have prompts in them
_MOST_DOCUMENT: Final = 256 * 2**20  # a JSON document is held as a whole
_BUFFER: Final = 64 * 1024
_GZIP: Final = b"\x1f\x8b"
_BLANKS: Final = b"\xef\xbb\xbf \t\r\n"
_COLUMNS: Final = frozenset({b"startTime", b"duration_ms", b"status_code"})  # of which each CSV has one
_SEPARATORS: Final = (",", ";", "\t")
_WITH_A_COMMA: Final = re.compile(r"\d+,\d+(E-?\d+)?")
_LISTS: Final = ("data", "items", "logs", "rows")
_WHAT: Final = (
    "is no log that can be replayed: JSON lines of Quotapool, spend logs or payloads of LiteLLM, or request_logs of "
    "gpt-load, as JSON lines, JSON or CSV"
)


def read_file(
    path: str, known: Known, into: Collector, *, tokens: int | None, progress: Callable[[int, int], None]
) -> Record:
    """`path`: `-` is standard input. `tokens`: that a request uses where the log does not say it. `progress` hears of
    the bytes read, and of how many there are (0: not known). Raises SourceError."""
    name = "standard input" if path == "-" else path
    try:
        with ExitStack() as stack:
            raw: BinaryIO = sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
            size = 0 if path == "-" else Path(path).stat().st_size
            counted = _Counted(raw, size, progress)
            plain: io.BufferedReader[Any] = io.BufferedReader(counted, _BUFFER)
            if plain.peek(2)[:2] == _GZIP:
                plain = io.BufferedReader(stack.enter_context(gzip.GzipFile(fileobj=plain)), _BUFFER)
            if encoding := _encoding_of(plain.peek(4)[:4]):
                plain = io.BufferedReader(_AsUtf8(plain, encoding), _BUFFER)
            _Reading(name, known, into, GptLoadRows(tokens)).read(plain)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{name}: {getattr(error, 'strerror', None) or 'it is damaged, or not complete'}") from None
    return into.record(name)


class _Counted(io.RawIOBase):
    """Tells how far a stream was read."""

    def __init__(self, raw: BinaryIO, size: int, progress: Callable[[int, int], None]) -> None:
        super().__init__()
        self._raw = raw
        self._size = size
        self._read = 0
        self._progress = progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._raw.read(len(buffer))
        buffer[: len(piece)] = piece
        self._read += len(piece)
        self._progress(self._read, self._size)
        return len(piece)


def _encoding_of(first: bytes) -> str | None:
    """Of a file that begins so; None: UTF-8, or a single byte for each character."""
    if first[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
        return "utf-16"
    zeros = first[1::2] == b"\0\0", first[::2] == b"\0\0"
    return {(True, False): "utf-16-le", (False, True): "utf-16-be"}.get(zeros)


class _AsUtf8(io.RawIOBase):
    """UTF-16 as UTF-8: PowerShell's `>` writes it."""

    def __init__(self, raw: io.BufferedReader[Any], encoding: str) -> None:
        super().__init__()
        self._text = io.TextIOWrapper(raw, encoding, "replace", newline="")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._left or self._text.read(_BUFFER).encode("utf-8", "replace")
        count = min(len(buffer), len(piece))
        buffer[:count], self._left = piece[:count], piece[count:]
        return count


class _Again(io.RawIOBase):
    """A stream of which the `first` line was looked at."""

    def __init__(self, first: bytes, rest: io.BufferedReader[Any]) -> None:
        super().__init__()
        self._first = first
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._first:
            return self._rest.readinto(buffer)
        count = min(len(buffer), len(self._first))
        buffer[:count], self._first = self._first[:count], self._first[count:]
        return count


class _Reading:
    def __init__(self, name: str, known: Known, into: Collector, gpt_load_rows: GptLoadRows) -> None:
        self._name = name
        self._known = known
        self._into = into
        self._gpt_load = gpt_load_rows
        self._bytes = 0
        self._recognised = False

    def read(self, stream: io.BufferedReader[Any]) -> None:
        line = stream.readline(_LONGEST_LINE)
        while line and not line.strip(_BLANKS):
            self._count(len(line))
            line = stream.readline(_LONGEST_LINE)
        if not line:
            raise SourceError(f"{self._name} is empty")
        stream = io.BufferedReader(_Again(line, stream), _BUFFER)
        first = line.strip(_BLANKS)
        if separator := _separator_of(first):
            self._read_csv(stream, separator)
        elif first[:1] == b"[" or (first[:1] == b"{" and not log_lines.is_line(first) and _is_document(first)):
            self._read_document(stream)
        else:
            self._read_lines(stream)
        if not self._recognised:
            raise SourceError(f"{self._name} {_WHAT}")

    def _lines(self, stream: io.BufferedReader[Any]) -> Iterator[bytes]:
        while line := stream.readline(_LONGEST_LINE):
            self._count(len(line))
            if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                self._into.leave_out("longer than 8 MiB")
                while (rest := stream.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
                    self._count(len(rest))
                continue
            yield line

    def _count(self, more: int) -> None:
        self._bytes += more
        if self._bytes > MOST_BYTES:
            raise SourceError(f"{self._name} is longer than {MOST_BYTES // 2**30} GiB; give the part that matters")

    def _read_lines(self, stream: io.BufferedReader[Any]) -> None:
        for line in self._lines(stream):
            if log_lines.is_line(line):
                self._recognised = True
                log_lines.take(line, self._known, self._into)
            elif (text := line.lstrip(_BLANKS))[:1] == b"{":
                self._take_json(text)

    def _take_json(self, text: bytes | msgspec.Raw) -> None:
        try:
            row = msgspec.json.decode(text, type=dict[str, Any])
        except BROKEN:
            self._into.leave_out("unreadable")
            return
        self._take(row)

    def _read_document(self, stream: io.BufferedReader[Any]) -> None:
        text = stream.read(_MOST_DOCUMENT + 1)
        if len(text) > _MOST_DOCUMENT:
            raise SourceError(
                f"{self._name} is one JSON document of more than 256 MiB; make lines of it: jq -c '.[]' {self._name}"
            )
        try:
            for row in _rows_of(text.removeprefix(b"\xef\xbb\xbf")):
                self._take_json(row)
        except BROKEN:
            raise SourceError(f"{self._name} is no valid JSON") from None

    def _read_csv(self, stream: io.BufferedReader[Any], separator: str) -> None:
        csv.field_size_limit(_LONGEST_LINE)
        text = (line.decode("utf-8-sig", "replace").replace("\0", "") for line in self._lines(stream))
        found = csv.DictReader(text, delimiter=separator)
        read = _with_a_point if separator == ";" else str
        try:
            for row in found:
                self._take({name: read(value) if value else None for name, value in row.items() if name is not None})
        except csv.Error:
            raise SourceError(
                f"{self._name} is no valid CSV up to line {found.line_num:,}: is a quotation mark not closed?"
            ) from None

    def _take(self, row: Mapping[str, Any]) -> None:
        if gpt_load.is_export(row):
            raise SourceError(f"{self._name}: {gpt_load.NOT_THE_EXPORT}")
        if litellm.is_row(row):
            self._recognised = True
            litellm.take(row, self._known, self._into)
        elif gpt_load.is_row(row):
            self._recognised = True
            self._gpt_load.take(row, self._known, self._into)
        elif not row.keys() >= {"event", "level"}:  # those are other events of our log
            self._into.leave_out("of no kind that is known")


def _separator_of(line: bytes) -> str | None:
    """Of the columns that this line names; None: it names none."""
    for separator in _SEPARATORS:
        names = {name.strip(b'" \r') for name in line.split(separator.encode())}
        if len(names) > 2 and not names.isdisjoint(_COLUMNS):
            return separator
    return None


def _with_a_point(cell: str) -> str:
    """Where a comma is in numbers, columns are separated by semicolons."""
    return cell.replace(",", ".") if _WITH_A_COMMA.fullmatch(cell) else cell


def _is_document(first: bytes) -> bool:
    """Whether JSON that begins with this line is one document: it goes on in the next line, or has rows in it."""
    try:
        members = msgspec.json.decode(first, type=dict[str, msgspec.Raw])
    except BROKEN:
        return True
    return any(bytes(members[name])[:1] in {b"[", b"{"} for name in _LISTS if name in members)


def _rows_of(text: bytes, levels: int = 2) -> list[msgspec.Raw]:
    """The rows of a list, or of an API's answer that has them in it."""
    if text.lstrip()[:1] == b"[":
        return msgspec.json.decode(text, type=list[msgspec.Raw])
    members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    for name in _LISTS:
        raw = bytes(members[name]).lstrip() if name in members else b""
        if raw[:1] == b"[":
            return msgspec.json.decode(raw, type=list[msgspec.Raw])
        if raw[:1] == b"{" and levels:
            return _rows_of(raw, levels - 1)
    return [msgspec.Raw(text)]
