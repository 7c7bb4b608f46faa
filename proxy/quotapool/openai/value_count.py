"""How many values a JSON text has, before it is decoded: one takes up to a hundred times the bytes that it was sent in.

Most large bodies are a few long strings, in which brackets and commas are rare or mean nothing. So they are counted
where they stand first, and only if those are too many, outside of strings.
"""

from __future__ import annotations

import re
from typing import Final

MOST_VALUES: Final = 320_000  # arrays, objects, members: upstream takes 300,000 token ids in one request
SMALL: Final = 512 * 1024  # bytes in which no number of values is too many
_WINDOW: Final = 2**14  # bytes that one step counts
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def has_too_many_values(text: bytes | bytearray) -> bool:
    """Whether a JSON text has more than may be decoded."""
    if len(text) <= SMALL:
        return False
    count = ValueCount()
    count.add(text)
    with memoryview(text) as view:
        while count.step(view):
            pass
    return count.is_too_high


class ValueCount:
    """Of a text that comes in pieces: `add` each, then `step` as long as that returns True.

    Steps are short, so that others can have their turn between them, and all together take time linear in the text.
    """

    def __init__(self) -> None:
        self._at_most = 0
        self._certain = 0  # outside of strings, in
        self._at = 0  # bytes of the text
        self._in_string = self._escaping = False
        self.is_too_high = False

    def add(self, piece: bytes | bytearray) -> None:
        self._at_most += _count(piece)

    def step(self, text: memoryview) -> bool:
        """Count on, in all of the text that has come. Returns whether that is worth another step."""
        if self._at_most <= MOST_VALUES or self._at >= len(text) or self.is_too_high:
            return False
        window = bytes(text[self._at : self._at + _WINDOW])
        self._at += len(window)
        if self._in_string:
            window = (b'"\\' if self._escaping else b'"') + window
        if b"\\" in window:
            self._escaping = (len(window) - len(window.rstrip(b"\\"))) % 2 == 1
            if self._escaping:
                window = window[:-1]
            outside = _STRING.sub(b"", window + b'"')  # this quote ends the last string, or is left over
            self._in_string = not outside.endswith(b'"')
        else:  # a quarter of the time
            self._escaping = False
            parts = window.split(b'"')
            outside = b"".join(parts[::2])
            self._in_string = len(parts) % 2 == 0
        self._certain += _count(outside)
        # In UTF-16, which has zeros, other characters contain the byte of a quote.
        self.is_too_high = self._certain > MOST_VALUES or b"\0" in window
        return True


def _count(text: bytes | bytearray) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")
