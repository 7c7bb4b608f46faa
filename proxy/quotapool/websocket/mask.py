"""Masking (RFC 6455 §5.3): a client's payload is combined with four bytes of key, in place; a second time undoes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_TABLES: Final = [bytes(byte ^ key for byte in range(256)) for key in range(256)]


def mask_in_python(key: bytes, payload: bytearray) -> None:
    """Change each byte by the key's byte for its place."""
    for place, byte in enumerate(key):
        payload[place::4] = payload[place::4].translate(_TABLES[byte])


mask: Callable[[bytes, bytearray], None]
try:  # In C, and at least fifteen times as fast. It is not part of aiohttp's public API, so nothing depends on it.
    from aiohttp._websocket.helpers import websocket_mask

    mask = websocket_mask
except ImportError:
    mask = mask_in_python
