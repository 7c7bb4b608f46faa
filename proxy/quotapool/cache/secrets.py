"""The cache's keys, derived from a master key: what an entry is called in the store, and how its content is sealed.

A name is an HMAC of what shapes the answer and of who shares it, so nobody without the key can tell from the store what
was asked, or ask for another's entry. With another master key all names are others, so after a rotation old entries are
never found. A worker is given `root_of(...)`, never the master key.
"""

from __future__ import annotations

import hmac
import os
import zlib
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quotapool.keys.framing import framed
from quotapool.keys.seal import MasterKey

NAME_BYTES: Final = 16
_NONCE: Final = 12  # bytes, NIST SP 800-38D §8.2
_ROOT: Final = 32
_PURPOSE: Final = "quotapool cache 1"
_PLAIN: Final = b"\x01"  # the layout's first version: this byte, salt, nonce, ciphertext with its tag
_DEFLATED: Final = b"\x02"  # the same, of a compressed text
_SALT: Final = 12  # bytes; of the key that sealed it
_HEAD: Final = 1 + _SALT + _NONCE
_SEALS_OF_A_KEY: Final = 2**30  # of 2^32 that random nonces allow, SP 800-38D §8.3
_MOST_KEYS: Final = 256  # remembered; one for each process that has sealed something
_PAYS_FROM: Final = 2048  # bytes
_PROBE: Final = 1024  # bytes of the middle that tell whether the whole is worth it: vectors in binary are not
_WORTH: Final = 0.8  # of its size, or less
_MOST: Final = 9 * 2**20  # bytes of an opened entry: 8 MB of an answer, and its head


class CacheSecrets:
    """Of one pool. `root`: 32 bytes of `root_of`."""

    __slots__ = ("_current", "_known", "_left", "_names", "_pool", "_seals")

    def __init__(self, root: bytes, pool: str) -> None:
        if len(root) != _ROOT:
            raise ValueError(f"the root of the cache's keys has {_ROOT} bytes")
        self._pool = framed(_PURPOSE.encode(), pool.encode())
        self._names = hmac.digest(root, b"names" + self._pool, "sha256")
        self._seals = hmac.digest(root, b"seals" + self._pool, "sha256")
        self._known: dict[bytes, AESGCM] = {}  # by salt
        self._current: tuple[bytes, AESGCM] | None = None  # salt and key, in one: threads seal at the same time
        self._left = 0  # seals until this process takes another key

    @classmethod
    def of(cls, master: MasterKey, pool: str) -> CacheSecrets:
        """Those that a master key gives this pool."""
        return cls(root_of(master), pool)

    def name(self, scope: str, endpoint: str, canonical: bytes) -> bytes:
        """The name of the answer to a request: NAME_BYTES. `scope`: who shares it, for example `client:app`;
        `canonical`: the text of what shapes it."""
        text = framed(scope.encode(), endpoint.encode()) + canonical
        return hmac.digest(self._names, text, "sha256")[:NAME_BYTES]

    def seal(self, name: bytes, raw: bytes) -> bytes:
        """Compressed where that pays, encrypted, and bound to name and pool."""
        kind, text = _PLAIN, raw
        if len(raw) >= _PAYS_FROM and _is_compressible(raw):
            deflated = zlib.compress(raw, 1)
            if len(deflated) < len(raw) * _WORTH:
                kind, text = _DEFLATED, deflated
        current = self._current
        if current is None or self._left <= 0:
            salt = os.urandom(_SALT)
            current = self._current = salt, self._cipher(salt)
            self._left = _SEALS_OF_A_KEY
        self._left -= 1
        salt, cipher = current
        nonce = os.urandom(_NONCE)
        return kind + salt + nonce + cipher.encrypt(nonce, text, kind + self._pool + name)

    def open(self, name: bytes, raw: bytes) -> bytes | None:
        """What was sealed; None: by another master key, for another name or pool, by another version, or damaged."""
        kind, salt, nonce = raw[:1], raw[1 : 1 + _SALT], raw[1 + _SALT : _HEAD]
        if kind not in {_PLAIN, _DEFLATED} or len(nonce) < _NONCE:
            return None
        try:
            cipher = self._known.get(salt) or self._cipher(salt)
            text = cipher.decrypt(nonce, raw[_HEAD:], kind + self._pool + name)
            if kind == _PLAIN:
                return text
            unpacking = zlib.decompressobj()
            whole = unpacking.decompress(text, _MOST)
        except (InvalidTag, zlib.error):
            return None
        return whole if unpacking.eof else None

    def _cipher(self, salt: bytes) -> AESGCM:
        """The key of a process: the entries of all together may be more than one key can seal."""
        if len(self._known) >= _MOST_KEYS:
            self._known.clear()
        cipher = self._known[salt] = AESGCM(hmac.digest(self._seals, salt, "sha256"))
        return cipher


def root_of(master: MasterKey) -> bytes:
    """What all keys of the cache are derived from. It opens nothing else that the master key seals."""
    return master.derived(_PURPOSE)


def _is_compressible(raw: bytes) -> bool:
    if len(raw) < 4 * _PROBE:
        return True
    middle = (len(raw) - _PROBE) // 2
    return len(zlib.compress(raw[middle : middle + _PROBE], 1)) < _PROBE * _WORTH
