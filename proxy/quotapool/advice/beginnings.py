"""How long prompts of late have begun alike: a process's own memory of digests, under a key that ends with it.

For a beginning of `FIRST` bytes there is a list of digests of what follows, a block each. The next prompt with that
beginning is compared with it, and what both have in common is what stays in the list. So a prompt is read to the end of
what it has in common with others and no further, and the estimate is rather too low than too high.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from hashlib import blake2b
from typing import Final

FIRST: Final = 4096  # bytes, some 1,024 tokens: shorter beginnings are not cached (prompt caching guide)
BLOCK: Final = 512  # bytes, some 128 tokens: the steps in which upstream's cache is read (prompt caching guide)
LONGEST: Final = 2**17  # bytes of a prompt that are looked at
KEPT_S: Final = 300.0  # "5 to 10 minutes of inactivity" (prompt caching guide)
_MOST: Final = 1000  # beginnings; a new one takes up to 3 kB, and 200 bytes once there was another like it
_DIGEST: Final = 8


class _Beginning:
    __slots__ = ("blocks", "seen")

    def __init__(self, blocks: bytes, seen: float) -> None:
        self.blocks = blocks
        self.seen = seen


class Beginnings:
    """One process's."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._known: OrderedDict[bytes, _Beginning] = OrderedDict()

    def common(self, whose: str, prompt: bytes, now: float) -> int:
        """How many bytes this prompt has in common with an earlier one of `whose`, of the last KEPT_S seconds; 0: there
        is none. `now` in seconds."""
        digest = blake2b(prompt[:FIRST], digest_size=_DIGEST, key=self._key, person=b"advice")
        digest.update(whose.encode())
        name = digest.digest()
        end = FIRST + (min(len(prompt), LONGEST) - FIRST) // BLOCK * BLOCK
        known = self._known.get(name)
        if known is None or now - known.seen > KEPT_S:
            blocks = b"".join(_block(digest, prompt, at) for at in range(FIRST, end, BLOCK))
            self._known[name] = _Beginning(blocks, now)
            self._known.move_to_end(name)
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
            return 0
        length, blocks = 0, known.blocks
        for at in range(FIRST, end, BLOCK):
            if blocks[length : length + _DIGEST] != _block(digest, prompt, at):
                break
            length += _DIGEST
        known.blocks, known.seen = blocks[:length], now
        self._known.move_to_end(name)
        return FIRST + length // _DIGEST * BLOCK


def _block(digest: blake2b, prompt: bytes, at: int) -> bytes:
    """Of a block, and all before it."""
    digest.update(prompt[at : at + BLOCK])
    return digest.digest()
