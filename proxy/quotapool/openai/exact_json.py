"""JSON decoded and written again without a change of what it means, or refused.

msgspec reads nearly everything, and fast. What it refuses and the standard library reads exactly is read by that: half
a surrogate pair, whose other half may come in the next event of a stream. A number beyond a double is refused.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

import msgspec

_any: Final = msgspec.json.Decoder()
_COMPACT: Final = (",", ":")


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
    """The same JSON by lines, as OpenAI sends it. Raises one of BROKEN."""
    return _formatted(text, 2)


def _formatted(text: bytes, indent: int) -> bytes:
    try:
        return msgspec.json.format(text, indent=indent)
    except ValueError:
        return encoded(decoded(text))


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number beyond a double")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
