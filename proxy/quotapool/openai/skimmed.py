"""JSON of any length, kept without its long strings: what is beside megabytes of base64 is read, the base64 is not."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 2**18  # bytes; ids, names and encrypted reasoning are shorter


class SkimmedJson:
    """`feed` it JSON as it comes in: `kept` is the same JSON, in which strings of more than `longest` bytes are empty,
    and only the last `most` bytes of that. So is anything longer than `between` between two strings.
    """

    __slots__ = ("_between", "_escaping", "_in_string", "_longest", "_most", "_since", "kept")

    def __init__(self, most: int, longest: int = _LONGEST, between: int = _LONGEST) -> None:
        self.kept = bytearray()
        self._most = most
        self._longest = longest
        self._between = between
        self._since = 0  # where in `kept` the string begins that is being read, or what is between two strings
        self._in_string = False
        self._escaping = False  # an odd number of backslashes came last

    def feed(self, text: bytes) -> None:
        """Takes time linear in the text."""
        first, *others = text.split(b'"')
        self._add(first)
        for piece in others:
            self._quote()
            self._add(piece)
        too_many = len(self.kept) - self._most
        if too_many > 0:
            del self.kept[:too_many]
            self._since = max(0, self._since - too_many)

    def _quote(self) -> None:
        kept = self.kept
        if self._escaping:
            self._escaping = False
            self._add(b'"')
            return
        if len(kept) - self._since > self._room:
            del kept[self._since :]
        kept += b'"'
        self._in_string = not self._in_string
        self._since = len(kept)

    @property
    def _room(self) -> int:
        return self._longest if self._in_string else self._between

    def _add(self, piece: bytes) -> None:
        if not piece:
            return
        room = self._room + 1 - (len(self.kept) - self._since)  # one more tells that all of it is to be removed
        if room > 0:
            self.kept += piece if len(piece) <= room else piece[:room]
        if self._in_string:
            backslashes = len(piece) - len(piece.rstrip(b"\\"))
            self._escaping = (backslashes + (self._escaping and backslashes == len(piece))) % 2 == 1
