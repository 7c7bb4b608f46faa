"""The beginning of a multipart form: the few text fields that the proxy wants to know, wherever they stand in it.

SDKs for Python write the fields before the file, others as the caller wrote them. Only what has come whole is told.
Shape: RFC 7578; a part begins with `--boundary`, its headers end with an empty line.
"""

from __future__ import annotations

import re
from typing import Final

WANTED: Final = frozenset({"model", "n", "stream"})
_BOUNDARY: Final = re.compile(r"""boundary=(?:"([^"\\]{1,200})"|([^\s;"]{1,200}))""", re.IGNORECASE)
_NAME: Final = re.compile(rb'[;\s]name=(?:"([^"\r\n]*)"|([^\s;"]+))', re.IGNORECASE)
_FILE: Final = re.compile(rb"[;\s]filename\*?=", re.IGNORECASE)
_LONGEST: Final = 512  # bytes of a field's value; what is longer names no model


def boundary_of(content_type: str) -> bytes:
    """What separates the parts, b"" where it is no multipart form."""
    found = _BOUNDARY.search(content_type)
    return (found[1] or found[2]).encode() if found and content_type.lower().startswith("multipart/form-data") else b""


def fields_in(start: bytes, boundary: bytes) -> dict[str, str]:
    """The wanted fields in as much of a form as is here. One that is said twice, and differently, is "": nobody knows
    which of the two upstream takes."""
    found: dict[str, str] = {}
    parts = start.split(b"--" + boundary)
    for part in parts[1:-1]:  # the last one may not have come whole
        head, _, value = part.partition(b"\r\n\r\n")
        if b"content-disposition" not in head.lower() or _FILE.search(head):
            continue
        name = _NAME.search(head)
        said = (name[1] or name[2] or b"").decode("utf-8", "replace") if name else ""
        if said in WANTED and len(value) <= _LONGEST:
            text = value.removesuffix(b"\r\n").decode("utf-8", "replace")
            found[said] = text if found.get(said, text) == text else ""
    return found
