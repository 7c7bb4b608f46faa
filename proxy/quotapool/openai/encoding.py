"""Undoing a body's Content-Encoding, as far as the proxy must read what it only passes on: errors."""

from __future__ import annotations

import zlib

# zlib's `wbits`: 47 reads gzip and zlib alike; -15 is the raw deflate that some servers send under that name.
_WBITS = {"gzip": (47,), "x-gzip": (47,), "deflate": (47, -15)}


def decoded(body: bytes, encoding: str, most: int) -> bytes:
    """`body` without its content encoding, at most `most` bytes of it, so that a bomb stays small.

    The very same object where there is no encoding; b"" where it is broken or one that is not undone here (br, zstd,
    several at once). A body that was cut short gives what could be read. Never raises.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body
    for wbits in _WBITS.get(name, ()):
        try:
            return zlib.decompressobj(wbits).decompress(body, most)
        except zlib.error:
            continue
    return b""
