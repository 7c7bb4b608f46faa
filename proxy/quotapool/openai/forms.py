"""Multipart forms, read as they pass. Shape: RFC 7578; a part begins with `--boundary`, its headers end with an empty
line.

Servers differ in what they make of unusual forms. So only the form that SDKs and browsers write is read here: one name
for each part, in one spelling, and nothing that another reader could take for a name or a boundary.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

LONGEST_VALUE: Final = 512  # bytes; a longer one is neither the name of a model nor an id
_WANTED: Final = frozenset({"model", "n", "stream"})
_LONGEST_HEAD: Final = 8192  # bytes of a part's headers
_MOST_PARTS: Final = 2000
_BOUNDARY: Final = re.compile(r"""boundary=(?:"([^"\\]{1,200})"|([^\s;"]{1,200}))""", re.IGNORECASE)
_HEADER: Final = re.compile(rb"([A-Za-z0-9-]{1,64}):[ \t]*([^\r\n\x00]*)")
_DISPOSITION: Final = re.compile(
    rb'form-data((?:[ \t]*;[ \t]*(?:name|filename\*?)=(?:"(?:[^"\\]|\\(?!"))*+"|[^\s;"\\]++))++)[ \t]*+;?'
)
_PARAMETER: Final = re.compile(rb'(name|filename\*?)=(?:"((?:[^"\\]|\\(?!"))*+)"|([^\s;"\\]++))')
_NAME: Final = re.compile(rb"[A-Za-z0-9_.\[\]-]{1,256}")
_SECOND_NAME: Final = re.compile(rb"name[\s*]*+=", re.IGNORECASE)  # outside of Content-Disposition
_CHARSET: Final = re.compile(rb"charset\s*+=\s*+(?!\"?(?:utf-?8|us-ascii)\b)", re.IGNORECASE)
_PLAIN: Final = frozenset({b"7bit", b"8bit", b"binary"})


class FormError(ValueError):
    """The form may be read in more than one way, or has too many parts."""


class Part(NamedTuple):
    """A part of a form; `value` is None if it is longer than LONGEST_VALUE."""

    name: str
    value: bytes | None
    is_file: bool


def boundary_of(content_type: str) -> bytes:
    """The separator of the parts; b"" if it is not a multipart form, or if there are several separators."""
    if not content_type.lower().startswith("multipart/form-data"):
        return b""
    found = _BOUNDARY.findall(content_type)
    return (found[0][0] or found[0][1]).encode() if len(found) == 1 else b""


class FormReader:
    """Reads a form in pieces of any size; its work grows with their bytes only, and it holds a part's head at most."""

    def __init__(self, boundary: bytes) -> None:
        self.ended = False
        self._delimiter = b"--" + boundary
        self._held = bytearray()
        self._looked = 0  # bytes of `_held` that hold no end of a head
        # Functions, not methods: bound ones would hold us as we hold them, and the collector seldom comes by.
        self._state: _State = FormReader._at_start
        self._parts = 0
        self._name = ""
        self._is_file = False
        self._value = b""

    def feed(self, piece: bytes) -> list[Part]:
        """The parts that are complete with this piece. Raises FormError."""
        self._held += piece
        found: list[Part] = []
        while self._state(self, found):
            pass
        return found

    # ---- each reads one thing from what is held; False: more is needed

    def _at_start(self, _: list[Part]) -> bool:
        start = 2 if self._held.startswith(b"\r\n") else 0
        if len(self._held) < start + len(self._delimiter):
            return False
        if not self._held.startswith(self._delimiter, start):
            raise FormError("it does not begin with its boundary")
        return self._go_on(start + len(self._delimiter), FormReader._after_delimiter)

    def _after_delimiter(self, _: list[Part]) -> bool:
        if len(self._held) < 2:
            return False
        if self._held.startswith(b"\r\n"):
            self._parts += 1
            if self._parts > _MOST_PARTS:
                raise FormError(f"it has more than {_MOST_PARTS} parts")
            return self._go_on(2, FormReader._in_head)
        if self._held.startswith(b"--"):
            self.ended = True
            return self._go_on(2, FormReader._after_end)
        raise FormError("something follows a boundary in its line")

    def _in_head(self, _: list[Part]) -> bool:
        end = self._held.find(b"\r\n\r\n", max(0, self._looked - 3), _LONGEST_HEAD)
        if end < 0:
            self._looked = len(self._held)
            if self._looked >= _LONGEST_HEAD:
                raise FormError("the headers of a part are too long")
            return False
        self._name, self._is_file = _read_head(bytes(self._held[:end]))
        self._value = b""
        return self._go_on(end + 4, FormReader._in_content)

    def _in_content(self, found: list[Part]) -> bool:
        at = self._held.find(self._delimiter)
        keep = len(self._delimiter) + 1  # the beginning of a delimiter, with its line end
        end = at - 2 if at >= 0 else max(0, len(self._held) - keep)
        if at >= 0 and not (end >= 0 and self._held.startswith(b"\r\n", end)):
            raise FormError("a part contains the boundary")
        room = LONGEST_VALUE + 1 - len(self._value)
        if room > 0:
            self._value += bytes(self._held[: min(end, room)])
        if at < 0:
            del self._held[:end]
            return False
        found.append(Part(self._name, self._value if len(self._value) <= LONGEST_VALUE else None, self._is_file))
        return self._go_on(at + len(self._delimiter), FormReader._after_delimiter)

    def _after_end(self, _: list[Part]) -> bool:
        if self._held.strip(b"\r\n"):
            raise FormError("something follows its last boundary")
        self._held.clear()
        return False

    def _go_on(self, read: int, state: _State) -> bool:
        del self._held[:read]
        self._looked = 0
        self._state = state
        return True


_State = Callable[[FormReader, list[Part]], bool]


class FieldReader:
    """The few fields of a form that tell what it costs. Reads as FormReader does.

    `found`: by name; one given with two values is "", for it is not known which of them upstream takes. `models`: all
    that the form names.
    """

    def __init__(self, boundary: bytes, *, with_files: bool) -> None:
        self.found: dict[str, str] = {}
        self.models: dict[str, None] = {}
        self._form = FormReader(boundary)
        self._with_files = with_files

    @property
    def ended(self) -> bool:
        return self._form.ended

    def feed(self, piece: bytes) -> None:
        """Raises FormError."""
        for name, value, is_file in self._form.feed(piece):
            if name in _WANTED and (self._with_files or not is_file):
                text = "" if value is None else value.decode("utf-8", "replace")
                self.found[name] = text if self.found.get(name, text) == text else ""
                if name == "model":
                    self.models[text] = None


def _read_head(head: bytes) -> tuple[str, bool]:
    """A part's name, and whether it is a file. Raises FormError."""
    disposition: bytes | None = None
    for line in head.split(b"\r\n"):
        header = _HEADER.fullmatch(line)
        if header is None:
            raise FormError("a part has a header that is not one line")
        name, value = header[1].lower(), header[2].strip()
        if name == b"content-disposition":
            if disposition is not None:
                raise FormError("a part has two dispositions")
            disposition = value
        elif (
            _SECOND_NAME.search(value)
            or name == b"content-encoding"
            or (name == b"content-transfer-encoding" and value.lower() not in _PLAIN)
            or (name == b"content-type" and (value.lower().startswith(b"multipart/") or _CHARSET.search(value)))
        ):
            raise FormError("a part has a second name or an encoding")
    found = _DISPOSITION.fullmatch(disposition or b"")
    if found is None:
        raise FormError("a part has no name, or its name is spelled in an unusual way")
    parameters = [(key, quoted or plain) for key, quoted, plain in _PARAMETER.findall(found[1])]
    given = dict(parameters)
    name = given.get(b"name", b"")
    if len(given) < len(parameters) or not _NAME.fullmatch(name):
        raise FormError("a part has no name, or two of them")
    return name.decode("ascii"), len(given) > 1
