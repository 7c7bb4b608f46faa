"""What an operator changed: option -> [old, new], within bounds. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

LARGEST: Final = 4096  # bytes of all changes of one record, as JSON
_LONGEST_VALUE: Final = 512  # bytes of one value, as JSON
_LEFT_OUT: Final = "…"

Changes = dict[str, list[Any]]
HIDDEN: Final = "…"  # instead of a secret that was replaced


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Every option whose value differs; null where there was, or is, none."""
    names = dict.fromkeys([*before, *after])
    pairs = {name: [before.get(name), after.get(name)] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def encoded(changes: Mapping[str, Any]) -> str:
    """As JSON of at most `LARGEST` bytes. A long value is cut, and the options that find no room are counted under
    `…`."""
    kept: dict[str, Any] = {}
    size, left_out = len('{"…":[null,"1000 more"]}'.encode()), 0
    for name, pair in changes.items():
        short = {name[:128]: [_cut(value) for value in pair]}
        more = len(msgspec.json.encode(short))
        if size + more > LARGEST:
            left_out += 1
            continue
        size += more
        kept |= short
    if left_out:
        kept[_LEFT_OUT] = [None, f"{left_out} more"]
    return msgspec.json.encode(kept).decode()


def _cut(value: Any) -> Any:
    text = msgspec.json.encode(value)
    if len(text) <= _LONGEST_VALUE:
        return value
    words = value if isinstance(value, str) else text.decode()
    return words.encode()[: _LONGEST_VALUE - 8].decode(errors="ignore") + _LEFT_OUT
