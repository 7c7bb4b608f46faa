"""Words as bytes for an HMAC or a cipher."""

from __future__ import annotations


def framed(*words: bytes) -> bytes:
    """Lengths first, so that no two lists of words are the same bytes."""
    return b"".join([b"%d:%b" % (len(word), word) for word in words])
