"""Decoding a body's Content-Encoding, for what the proxy must read although it only passes it on.

A request must have one reading: it is decoded whole or refused. An error of upstream is read as far as possible.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_GZIP: Final = 31  # zlib's `wbits`
_ZLIB: Final = 15
_RAW_DEFLATE: Final = -15  # what some servers send under the name of deflate
_ZSTD_WINDOW: Final[Mapping[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}  # RFC 9659: 8 MiB

_SMALL: Final = 2 * 2**20  # bytes that any request may have when decoded
_RATIO: Final = 32  # of decoded to received bytes, in larger ones; text has 3 to 10


class Unreadable(ValueError):
    """The encoding is unknown or broken, or something follows the encoded body."""


class TooLarge(ValueError):
    """The decoded body is larger than `most` bytes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most


def decoded(body: bytes, encoding: str, most: int) -> bytes:
    """`body` without its content encoding, at most `most` bytes of it, so that a decompression bomb stays small.

    The same object if there is no encoding; b"" if it is broken or not supported here (several at once). A truncated
    body gives what could be read. Never raises.
    """
    return decoded_and_whole(body, encoding, most)[0]


def decoded_and_whole(body: bytes, encoding: str, most: int) -> tuple[bytes, bool]:
    """`decoded`, and whether that is all that a client would find in the body."""
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body, True
    for decode in (_DECODERS.get(name), _decode_raw_deflate if name == "deflate" else None):
        try:
            if decode is not None:
                return decode(body, most)
        except _BROKEN:
            continue
    return b"", not body


def decoded_request(body: bytes, encoding: str, most: int) -> bytes:
    """A request's body without its content encoding, the same object if it has none.

    What it takes in memory is bounded by what was received. Raises Unreadable; TooLarge.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"} or not body:
        return body
    decode = _DECODERS.get(name)
    if decode is None:
        raise Unreadable(name)
    most = min(most, max(_SMALL, _RATIO * len(body)))
    try:
        text, is_whole = decode(body, most + 1)
    except _BROKEN as broken:
        raise Unreadable(name) from broken
    if len(text) > most:
        raise TooLarge(most)
    if not is_whole:  # truncated, or a second member that upstream may or may not read
        raise Unreadable(name)
    return text


# ---- each gives at most `most` bytes, and whether they are exactly what the body holds

_BROKEN: Final = (zlib.error, zstd.ZstdError, brotli.error)


def _inflate(body: bytes, most: int, wbits: int) -> tuple[bytes, bool]:
    inflater = zlib.decompressobj(wbits)
    text = inflater.decompress(body, most)
    return text, inflater.eof and not inflater.unused_data


def _decode_gzip(body: bytes, most: int) -> tuple[bytes, bool]:
    return _inflate(body, most, _GZIP)


def _decode_deflate(body: bytes, most: int) -> tuple[bytes, bool]:
    return _inflate(body, most, _ZLIB)


def _decode_raw_deflate(body: bytes, most: int) -> tuple[bytes, bool]:
    return _inflate(body, most, _RAW_DEFLATE)


def _decode_zstd(body: bytes, most: int) -> tuple[bytes, bool]:
    decompressor = zstd.ZstdDecompressor(options=_ZSTD_WINDOW)
    text = decompressor.decompress(body, most)
    return text, decompressor.eof and not decompressor.unused_data


def _decode_brotli(body: bytes, most: int) -> tuple[bytes, bool]:
    """Brotli raises by itself if something follows."""
    decompressor = brotli.Decompressor()
    text = decompressor.process(body, output_buffer_limit=most)
    while len(text) < most and not decompressor.can_accept_more_data() and not decompressor.is_finished():
        text += decompressor.process(b"", output_buffer_limit=most - len(text))
    return text[:most], decompressor.is_finished() and len(text) <= most


_DECODERS: Final[dict[str, Callable[[bytes, int], tuple[bytes, bool]]]] = {
    "gzip": _decode_gzip,
    "x-gzip": _decode_gzip,
    "deflate": _decode_deflate,
    "zstd": _decode_zstd,
    "br": _decode_brotli,
}
