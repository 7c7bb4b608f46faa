"""Looks for texts in whatever was kept or said: as they are, escaped, in hex or base64, compressed, or as a digest.

    plain = Plain({"a prompt": "canary-of-the-prompt-7f3c29d1"})
    plain.found(data) == {"a prompt"}

A text counts as found if a part of its beginning is: of one that was cut, or compressed with others, parts are left.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import quote

_PART: Final = 16  # bytes; no two texts of other origin have as many in common
_STEP: Final = 8
_BEGINNING: Final = 48
_DEFLATED: Final = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b\x08")  # RFC 1950, RFC 1952
_SMALL: Final = 8_192  # bytes in which a stream without a head of its own is looked for at every place
_MOST: Final = 2**20  # bytes of a stream that are looked at
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{22,}")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{32,}")
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


class Plain:
    """`texts` by what they are; of 16 bytes or more."""

    def __init__(self, texts: Mapping[str, str | bytes]) -> None:
        self._parts: list[tuple[bytes, str]] = []
        for name, text in texts.items():
            raw = text.encode() if isinstance(text, str) else text
            assert len(raw) >= _PART, name
            beginning = raw[:_BEGINNING]
            self._parts += [(digest, name) for digest in _digests(raw)]
            for start in range(0, len(beginning) - _PART + 1, _STEP):
                self._parts += [(form, name) for form in _escaped(beginning[start : start + _PART])]

    def found(self, data: bytes) -> set[str]:
        """Names of the texts that are in there in any form."""
        decoded = b"\n".join(_decoded(data))
        layers = [data, decoded, *_inflated(data), *_inflated(decoded)]
        return {name for layer in layers for part, name in self._parts if part in layer}


def _escaped(raw: bytes) -> set[bytes]:
    text = raw.decode("latin-1")
    return {raw, json.dumps(text)[1:-1].encode(), repr(text)[1:-1].encode(), quote(raw).encode()}


def _digests(raw: bytes) -> Iterator[bytes]:
    """Without a key, whoever guesses a text can tell that it was there."""
    for name in ("md5", "sha1", "sha256", "sha512", "blake2b"):
        yield hashlib.new(name, raw).digest()


def _decoded(data: bytes) -> Iterator[bytes]:
    """Every run of hex and base64, read from each place at which it may begin."""
    for run in _HEX.findall(data):
        for start in range(2):
            even = run[start : len(run) - (len(run) - start) % 2]
            yield bytes.fromhex(even.decode())
    for run in _BASE64.findall(data):
        standard = run.translate(_TO_STANDARD)
        for start in range(4):
            whole = standard[start : len(run) - (len(run) - start) % 4]
            yield base64.b64decode(whole)
            if rest := standard[start + len(whole) :][:3]:
                yield base64.b64decode(whole[-24:] + rest.ljust(4, b"A"))


def _inflated(data: bytes) -> Iterator[bytes]:
    """Every stream of zlib and gzip, and in short data every one without a head, too."""
    for head in _DEFLATED:
        at = data.find(head)
        while at >= 0:
            yield from _stream(data, at, 47)  # either, by its head
            at = data.find(head, at + 1)
    if len(data) <= _SMALL:
        for at in range(len(data)):
            yield from _stream(data, at, -15)


def _stream(data: bytes, at: int, bits: int) -> Iterator[bytes]:
    try:
        found = zlib.decompressobj(bits).decompress(data[at : at + _MOST], _MOST)
    except zlib.error:
        return
    if len(found) >= _PART:
        yield found
