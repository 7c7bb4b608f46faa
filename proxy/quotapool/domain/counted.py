"""A number with what it counts, in words. Pure."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`0 keys`, `1 key`, `1,234 keys`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
