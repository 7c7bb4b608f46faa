"""JSON of any length, kept without its long strings: what is beside megabytes of base64 is read, the base64 is not."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 2**18  # bytes; ids, names and encrypted reasoning are shorter


class SkimmedJson:
    """`feed` it JSON as it comes in: `kept` is the same JSON, in which strings of more than `longest` bytes are empty,
    and only the last `most` bytes of that. Text that is not JSON is kept as something that is not JSON either.
    """

    __slots__ = ("_escaping", "_longest", "_most", "_string", "kept")

    def __init__(self, most: int, longest: int = _LONGEST) -> None:
        self.kept = bytearray()
        self._most = most
        self._longest = longest
        self._string = -1  # where in `kept` the string begins that is being read; -1: none is
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
            if self._string >= 0:
                self._string = max(0, self._string - too_many)

    def _quote(self) -> None:
        kept = self.kept
        if self._string < 0:
            self._string = len(kept) + 1
        elif self._escaping:
            self._escaping = False
        else:
            if len(kept) - self._string > self._longest:
                del kept[self._string :]
            self._string = -1
        kept += b'"'

    def _add(self, piece: bytes) -> None:
        if not piece:
            return
        self.kept += piece
        if self._string < 0:
            return
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        self._escaping = (backslashes + (self._escaping and backslashes == len(piece))) % 2 == 1
        if len(self.kept) - self._string > self._longest:
            del self.kept[self._string + self._longest + 1 :]  # all of it is removed at its end
