"""Characters that look like others, or like nothing: found and named, so that they can be deleted. Pure."""

from __future__ import annotations

import unicodedata
from typing import Final

QUOTES: Final = frozenset(
    "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2032\u2033\u2039\u203a\u00ab\u00bb\u00b4\uff02\uff07"
)
# What an input method for Chinese or Japanese writes instead of YAML's own characters.
FULL_WIDTH: Final = frozenset("\uff1a\uff0c\uff0d\uff03\uff3b\uff3d\uff5b\uff5d\u3000")
_INVISIBLE: Final = frozenset({"Cf", "Zs", "Zl", "Zp", "Cc"})
_PLAIN: Final = frozenset(" \t\n\r")
_NAMES: Final = {"\ufeff": "byte-order mark", "\u2011": "non-breaking hyphen"}


def named(character: str) -> str:
    """`a zero width space (U+200B)`, `an en dash (U+2013)`."""
    name = _NAMES.get(character) or unicodedata.name(character, "control character").lower()
    return f"{'an' if name[0] in 'aeio' else 'a'} {name} (U+{ord(character):04X})"


def invisible(text: str) -> str | None:
    """The first character that takes a place and is not seen, other than a plain space, tab or line break."""
    if text.isascii() and text.isprintable():
        return None
    return next((one for one in text if one not in _PLAIN and unicodedata.category(one) in _INVISIBLE), None)


def around(text: str) -> str | None:
    """The typographic quote that the text begins or ends with."""
    return next((one for one in (text[:1], text[-1:]) if one in QUOTES), None)
