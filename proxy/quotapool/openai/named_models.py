"""Every model that a JSON body names, not only the one at its top: those of tools, graders and transcriptions too.

Only clients that may use some models need this. A name given twice counts twice: readers differ in which they take.
"""

from __future__ import annotations

import json
from typing import Any, Final

from quotapool.openai.jsontext import BROKEN

_NAMES: Final = frozenset({"model", "models"})
# The user's own names and values, which upstream does not act on.
_NOT_SEARCHED: Final = frozenset(
    {"attributes", "client_metadata", "examples", "headers", "input_schema", "item", "metadata", "parameters", "sample",
     "schema", "variables"}
)  # fmt: skip
_LITERAL: Final = b'"model"'
_UNUSUAL: Final = (b'"models"', b"\\u00", b"\x00")  # another name; a name spelled with escapes, or in UTF-16


class _Pairs(list[tuple[str, Any]]):
    """An object with all its members."""

    __slots__ = ()


def may_name_models(text: bytes | bytearray) -> bool:
    """A search for bytes, whether `other_models` has anything to find."""
    return _LITERAL in text or any(mark in text for mark in _UNUSUAL)


def other_models(body: bytes | bytearray, known: str) -> list[str]:
    """The models that a body names beside `known`, the one at its top. Raises ValueError if it cannot be read."""
    if body.count(_LITERAL) <= (known != "") and not any(mark in body for mark in _UNUSUAL):
        return []
    try:
        waiting: list[Any] = [json.loads(body, object_pairs_hook=_Pairs)]
    except BROKEN as broken:
        raise ValueError("not valid JSON, or nested too deeply") from broken
    found: dict[str, None] = {}
    while waiting:
        value = waiting.pop()
        if type(value) is list:
            waiting += value
        elif type(value) is _Pairs:
            for name, member in value:
                if name in _NAMES:
                    found |= dict.fromkeys(text for text in _listed(member) if type(text) is str and text)
                if name not in _NOT_SEARCHED:
                    waiting.append(member)
    found.pop(known, None)
    return list(found)


def _listed(member: object) -> list[object]:
    return member if type(member) is list else [member]
