"""A key's secret in what upstream answers: found in the spellings in which it may stand there, in pieces of any size.

It is replaced by as many stars, so that lengths that were announced stay true.
"""

from __future__ import annotations

import html
import json
from functools import lru_cache
from typing import Final, overload
from urllib.parse import quote, unquote

_MOST_DECODINGS: Final = 4


def spellings(secret: str) -> set[str]:
    """The secret as it is, and escaped in the ways of JSON, URLs, HTML and Python."""
    found = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    return found | {quote(secret), quote(secret, safe=""), html.escape(secret), repr(secret)[1:-1]}


def shows(text: str, secret: str) -> bool:
    """Whether a header's text shows the secret, also percent-encoded, once or several times."""
    for _ in range(_MOST_DECODINGS):
        if secret in text:
            return True
        if "%" not in text:
            return False
        text = unquote(text)
    return secret in text


@lru_cache(4096)
def _needles(secret: str) -> tuple[bytes, ...]:
    """The longest first, or the end of one that begins with another one would remain. Most have one spelling."""
    return tuple(sorted({text.encode() for text in spellings(secret) if text}, key=len, reverse=True))


class EchoFilter:
    """For one answer. `feed` it the pieces of the body, then `finish`; or give it `whole` texts."""

    __slots__ = ("_held", "_needles")

    def __init__(self, secret: str) -> None:
        self._needles = _needles(secret)
        self._held = b""

    @overload
    def whole(self, text: bytes) -> bytes: ...
    @overload
    def whole(self, text: bytearray) -> bytearray: ...
    def whole(self, text: bytes | bytearray) -> bytes | bytearray:
        """The very same object if the secret is not in it."""
        for needle in self._needles:
            if text.find(needle) >= 0:
                text = text.replace(needle, b"*" * len(needle))
        return text

    def feed(self, piece: bytes) -> bytes:
        """What can pass. An end with which the secret may begin is held back; no secret has a line end."""
        if self._held:
            piece, self._held = self._held + piece, b""
        piece = self.whole(piece)
        if piece.endswith(b"\n"):
            return piece
        begun = 0
        for needle in self._needles:
            begun = max(begun, _begun(piece, needle))
        if not begun:
            return piece
        self._held = piece[-begun:]
        return piece[:-begun]

    def finish(self) -> bytes:
        held, self._held = self._held, b""
        return held


def _begun(piece: bytes, needle: bytes) -> int:
    """How many of the last bytes of `piece` are the first ones of `needle`."""
    start = needle[:3]
    at = piece.find(start, max(0, len(piece) - len(needle) + 1))
    while at >= 0:
        if needle.startswith(piece[at:]):
            return len(piece) - at
        at = piece.find(start, at + 1)
    return 2 if piece.endswith(start[:2]) else 1 if piece.endswith(start[:1]) else 0
