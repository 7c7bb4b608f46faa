"""Multipart forms: the few text fields that the proxy needs, wherever they are in the form.

Python SDKs write the fields before the file, others in the caller's order. Only complete fields are returned.
Shape: RFC 7578; a part begins with `--boundary`, its headers end with an empty line.
"""

from __future__ import annotations

import re
from typing import Final

WANTED: Final = frozenset({"model", "n", "stream"})
_BOUNDARY: Final = re.compile(r"""boundary=(?:"([^"\\]{1,200})"|([^\s;"]{1,200}))""", re.IGNORECASE)
_NAME: Final = re.compile(rb'[;\s]name=(?:"([^"\r\n]*)"|([^\s;"]+))', re.IGNORECASE)
_FILE: Final = re.compile(rb"[;\s]filename\*?=", re.IGNORECASE)
_LONGEST_PART: Final = 4096  # bytes of a part that is kept until it is complete; a longer one is a file
_LONGEST: Final = 512  # bytes of a field's value; a longer one is not the name of a model


def boundary_of(content_type: str) -> bytes:
    """The separator of the parts; b"" if it is not a multipart form."""
    found = _BOUNDARY.search(content_type)
    return (found[1] or found[2]).encode() if found and content_type.lower().startswith("multipart/form-data") else b""


def fields_in(start: bytes, boundary: bytes) -> dict[str, str]:
    """The wanted fields in the part of a form that has arrived. A field given twice with different values is "": it is
    not known which of them upstream takes."""
    found: dict[str, str] = {}
    parts = start.split(b"--" + boundary)
    for part in parts[1:-1]:  # the last one may be incomplete
        head, _, value = part.partition(b"\r\n\r\n")
        if b"content-disposition" not in head.lower() or _FILE.search(head):
            continue
        match = _NAME.search(head)
        name = (match[1] or match[2] or b"").decode("utf-8", "replace") if match else ""
        if name in WANTED and len(value) <= _LONGEST:
            text = value.removesuffix(b"\r\n").decode("utf-8", "replace")
            found[name] = text if found.get(name, text) == text else ""
    return found


class FormReader:
    """Finds the wanted fields of a form that is fed to it piece by piece; keeps a few kilobytes of it.

    `found`: as `fields_in` would give it for all that has come.
    """

    def __init__(self, boundary: bytes) -> None:
        self.found: dict[str, str] = {}
        self._boundary = boundary
        self._mark = b"--" + boundary
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        text = self._rest + piece
        for name, value in fields_in(text, self._boundary).items():
            self.found[name] = value if self.found.get(name, value) == value else ""
        last = text.rfind(self._mark)
        if last >= 0 and len(text) - last <= _LONGEST_PART:
            self._rest = text[last:]
        else:  # within a file: only the beginning of its end matters
            self._rest = text[1 - len(self._mark) :]
