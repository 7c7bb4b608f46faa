"""JSON decoded and written again without a change of what it means, or refused.

msgspec reads nearly everything, and fast. What it refuses and the standard library reads exactly is read by that: half
a surrogate pair, whose other half may come in the next event of a stream. A number beyond a double is refused.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

import msgspec

_any: Final = msgspec.json.Decoder()
_COMPACT: Final = (",", ":")
_MOST_LEVELS: Final = (
    32  # of nesting that is indented: each element of a level has a line, with blanks for all above it
)
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def decoded(text: bytes) -> Any:
    """Raises one of BROKEN (`openai/jsontext.py`)."""
    try:
        return _any.decode(text)
    except ValueError:
        return json.loads(text, parse_float=_finite, parse_constant=_refuse)


def encoded(value: object) -> bytes:
    """Without blanks. Raises one of BROKEN."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=_COMPACT).encode()


def compact(text: bytes) -> bytes:
    """The same JSON in one line, each number and string spelled as it was. Raises one of BROKEN."""
    return _formatted(text, -1)


def indented(text: bytes) -> bytes:
    """The same JSON by lines, as OpenAI sends it; in one line if that could be far longer. Raises one of BROKEN."""
    line = compact(text)
    return _formatted(line, 2) if _is_shallow(line) else line


def _formatted(text: bytes, indent: int) -> bytes:
    try:
        return msgspec.json.format(text, indent=indent)
    except ValueError:
        return encoded(decoded(text))


def _is_shallow(text: bytes) -> bool:
    if text.count(b"[") + text.count(b"{") <= _MOST_LEVELS:
        return True
    brackets = _STRING.sub(b"", text).translate(None, _NO_BRACKETS)
    for _ in range(_MOST_LEVELS):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")  # the innermost level
        if not brackets:
            return True
    return False


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number beyond a double")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
