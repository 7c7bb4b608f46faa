"""An embedding's vector, in the two ways upstream writes it: as JSON numbers, or in base64.

Base64 is of 32-bit floats, little-endian, nothing around them: so both official SDKs decode it. The same floats are
spelled as numbers in two ways. OpenAI writes the fewest digits that tell a 32-bit float from all others, at most nine
(`-0.021661555`); examples in its guide, and servers like LM Studio, write the double that equals it
(`-0.015835333615541458`). Clients that read doubles get two different numbers from these.

So a vector is given in a form whose spelling is known, and in no other. Base64 follows from numbers in either spelling,
since each tells its 32-bit float. Numbers do not follow from base64, which does not say how upstream would have spelled
them; nor does base64 from doubles or rounded numbers. What is known of both is kept side by side.
"""

from __future__ import annotations

import binascii
import struct
from typing import Final

import msgspec

from quotapool.openai.jsontext import BROKEN

MOST_NUMBERS: Final = 4096
"""Of one vector. OpenAI's longest have 3,072; what is known of one in both forms stays below 64 kB."""

_SINGLE: Final = 4  # bytes
_DOUBLE: Final = 8
_TELLS_A_SINGLE: Final = 9  # digits that tell each 32-bit float from all others
_TELLS_FEW: Final = 7  # if no number has more, they are rounded: of 32-bit floats, most need eight

_SAMPLE: Final = 64  # numbers among which there is nearly always one with more

_numbers: Final = msgspec.json.Decoder(list[float])
_text: Final = msgspec.json.Decoder(str)


class Vector(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`singles`: little-endian 32-bit floats, as base64 had them, or as the numbers were exactly (`wide`). `doubles`:
    little-endian, of numbers that are no 32-bit floats. Each is b"" if it is not known."""

    singles: bytes = b""
    doubles: bytes = b""
    wide: bool = False

    @property
    def length(self) -> int:
        """How many numbers it has."""
        return len(self.singles) // _SINGLE or len(self.doubles) // _DOUBLE

    def written(self, *, base64: bool) -> bytes | None:
        """Its JSON: a string in base64, or a list of numbers. None: how upstream would write it is not known."""
        return self._as_base64() if base64 else self._as_numbers()

    def beside(self, older: Vector) -> Vector:
        """This vector, and in the form that it lacks the one that was got earlier for the same input."""
        if self.wide or older.length != self.length:
            return self
        return Vector(self.singles or older.singles, self.doubles or older.doubles)

    def _as_numbers(self) -> bytes | None:
        if self.doubles:
            return msgspec.json.encode(struct.unpack(f"<{self.length}d", self.doubles))
        return msgspec.json.encode(_from_singles(self.singles)) if self.wide else None

    def _as_base64(self) -> bytes | None:
        singles = self.singles or _singles_told_by(self.doubles)
        return b'"%b"' % binascii.b2a_base64(singles, newline=False) if singles else None


def read_vector(text: bytes) -> Vector | None:
    """The vector that `embedding` of an answer is, in whichever form; None: it is none, is empty, or is too long."""
    try:
        if text[:1] == b'"':
            singles = binascii.a2b_base64(_text.decode(text), strict_mode=True)
            is_one = not len(singles) % _SINGLE and 0 < len(singles) <= _SINGLE * MOST_NUMBERS
            return Vector(singles) if is_one else None
        numbers = _numbers.decode(text)
    except BROKEN:  # binascii's error is a ValueError, too
        return None
    if not 0 < len(numbers) <= MOST_NUMBERS:
        return None
    exact = _to_singles(numbers)
    if exact and list(_from_singles(exact)) == numbers:
        return Vector(exact, wide=True)
    return Vector(doubles=struct.pack(f"<{len(numbers)}d", *numbers))


def _singles_told_by(doubles: bytes) -> bytes:
    """The 32-bit floats that these numbers tell; b"" unless they are spelled as such."""
    numbers = struct.unpack(f"<{len(doubles) // _DOUBLE}d", doubles)
    rounded = _have_digits(numbers[:_SAMPLE], _TELLS_FEW) and _have_digits(numbers, _TELLS_FEW)
    if rounded or not _have_digits(numbers, _TELLS_A_SINGLE):
        return b""
    singles = _to_singles(numbers)
    return singles if _from_singles(singles).count(0.0) == numbers.count(0.0) else b""


def _have_digits(numbers: tuple[float, ...], most: int) -> bool:
    """Whether each is a number of at most that many significant digits."""
    text = f"%.{most}g," * len(numbers) % numbers  # at once: one by one takes five times as long
    return tuple(_numbers.decode(f"[{text[:-1]}]")) == numbers


def _to_singles(numbers: list[float] | tuple[float, ...]) -> bytes:
    """The nearest 32-bit floats; b"" if a number is too large for one."""
    try:
        return struct.pack(f"<{len(numbers)}f", *numbers)
    except OverflowError:
        return b""


def _from_singles(singles: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(singles) // _SINGLE}f", singles)
