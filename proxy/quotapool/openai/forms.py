"""The beginning of a multipart form: the few text fields that the proxy needs, wherever they are in it.

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
