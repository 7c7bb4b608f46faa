"""Decoding a body's Content-Encoding, for what the proxy must read although it only passes it on.

A request must have one reading: it is decoded whole or refused. An error of upstream is read as far as possible.
"""

from __future__ import annotations

import enum
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_ZSTD_WINDOW: Final[Mapping[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}  # RFC 9659: 8 MiB

PIECE: Final = 2**16  # bytes that are decoded at once,
_INPUT: Final = 2**16  # and that are decoded of at once
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
    for decoder in (_DECODERS.get(name), _raw_deflate if name == "deflate" else None):
        if decoder is None:
            continue
        text, is_whole = bytearray(), False
        try:
            for piece in _pieces(body, decoder()):
                text += piece
                if len(text) > most:
                    break
            else:
                is_whole = True
        except _BROKEN:
            continue
        except Unreadable:
            pass
        return bytes(text[:most]), is_whole
    return b"", not body


def decoded_request(body: bytes, encoding: str, most: int) -> Iterator[bytes]:
    """A request's body without its content encoding, in pieces of about `PIECE` bytes, so that others have their turn
    while it is read; the same object if it has none.

    What it takes in memory is bounded by what was received. Raises Unreadable; TooLarge.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"} or not body:
        yield body
        return
    decoder = _DECODERS.get(name)
    if decoder is None:
        raise Unreadable(name)
    most = min(most, max(_SMALL, _RATIO * len(body)))
    size = 0
    try:
        for piece in _pieces(body, decoder()):
            size += len(piece)
            if size > most:
                raise TooLarge(most)
            yield piece
    except _BROKEN as broken:
        raise Unreadable(name) from broken


# ---- each takes bytes, and gives some of what they hold, and how it goes on


class _Next(enum.Enum):
    MORE = enum.auto()  # of the text is in what it has
    INPUT = enum.auto()
    END = enum.auto()
    WASTE = enum.auto()  # something follows the end, that upstream may or may not read


_Decoder = Callable[[bytes], tuple[bytes, _Next]]
_BROKEN: Final = (zlib.error, zstd.ZstdError, brotli.error)


def _pieces(body: bytes, decoder: _Decoder) -> Iterator[bytes]:
    """Raises Unreadable if the body is cut short, or if anything follows it; what is right of it was given before."""
    for at in range(0, len(body), _INPUT):
        data, state = body[at : at + _INPUT], _Next.MORE
        while state is _Next.MORE:
            piece, state = decoder(data)
            data = b""
            yield piece
        if state is not _Next.INPUT:
            if state is _Next.END and at + _INPUT >= len(body):
                return
            break
    raise Unreadable


def _zlib(wbits: int) -> _Decoder:
    inflater = zlib.decompressobj(wbits)

    def decode(data: bytes) -> tuple[bytes, _Next]:
        piece = inflater.decompress(inflater.unconsumed_tail + data, PIECE)
        if inflater.eof:
            return piece, _Next.WASTE if inflater.unused_data else _Next.END
        return piece, _Next.MORE if inflater.unconsumed_tail or len(piece) == PIECE else _Next.INPUT

    return decode


def _gzip() -> _Decoder:
    return _zlib(31)  # zlib's `wbits`


def _deflate() -> _Decoder:
    return _zlib(15)


def _raw_deflate() -> _Decoder:
    """What some servers send under the name of deflate."""
    return _zlib(-15)


def _zstd() -> _Decoder:
    decompressor = zstd.ZstdDecompressor(options=_ZSTD_WINDOW)

    def decode(data: bytes) -> tuple[bytes, _Next]:
        piece = decompressor.decompress(data, PIECE)
        if decompressor.eof:
            return piece, _Next.WASTE if decompressor.unused_data else _Next.END
        return piece, _Next.INPUT if decompressor.needs_input else _Next.MORE

    return decode


def _brotli() -> _Decoder:
    """Raises by itself if something follows the end."""
    decompressor = brotli.Decompressor()

    def decode(data: bytes) -> tuple[bytes, _Next]:
        piece = decompressor.process(data, output_buffer_limit=PIECE)
        if decompressor.is_finished():
            return piece, _Next.END
        return piece, _Next.INPUT if decompressor.can_accept_more_data() and not piece else _Next.MORE

    return decode


_DECODERS: Final[Mapping[str, Callable[[], _Decoder]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
    "br": _brotli,
}
