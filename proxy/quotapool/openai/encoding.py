"""Decoding a body's Content-Encoding, for what the proxy must read although it only passes it on: errors."""

from __future__ import annotations

import zlib

# zlib's `wbits`: 47 reads gzip and zlib alike; -15 is the raw deflate that some servers send under that name.
_WBITS = {"gzip": (47,), "x-gzip": (47,), "deflate": (47, -15)}


def decoded(body: bytes, encoding: str, most: int) -> bytes:
    """`body` without its content encoding, at most `most` bytes of it, so that a decompression bomb stays small.

    The same object if there is no encoding; b"" if it is broken or not supported here (br, zstd, several at once). A
    truncated body gives what could be read. Never raises.
    """
    return decoded_and_whole(body, encoding, most)[0]


def decoded_and_whole(body: bytes, encoding: str, most: int) -> tuple[bytes, bool]:
    """`decoded`, and whether that is all that a client would find in the body."""
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body, True
    for wbits in _WBITS.get(name, ()):
        decoder = zlib.decompressobj(wbits)
        try:
            return decoder.decompress(body, most), decoder.eof and not decoder.unused_data
        except zlib.error:
            continue
    return b"", not body
