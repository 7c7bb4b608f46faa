"""MessagePack inside of MessagePack: what is unpacked only where it is needed travels as a string."""

from __future__ import annotations

import msgspec


def as_string(packed: bytes) -> bytes:
    """As a string and not as binary: the former is what all servers' Lua understands."""
    size = len(packed)
    if size < 32:
        return bytes((0xA0 | size,)) + packed
    return (b"\xda" + size.to_bytes(2, "big") if size < 65_536 else b"\xdb" + size.to_bytes(4, "big")) + packed


def raw_string(packed: bytes) -> msgspec.Raw:
    """For an encoder that takes it over as it is."""
    return msgspec.Raw(as_string(packed))
