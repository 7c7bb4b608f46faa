"""A master key, and how it seals secrets: AES-256-GCM, a random nonce each, bound to a context such as pool and key.

Other uses get keys of their own that are derived from it (`derived`): who has one of these learns nothing of the rest.
"""

from __future__ import annotations

import base64
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIN_LENGTH: Final = 32  # characters of a master key: it is no password, and nobody has to remember it
_NONCE: Final = 12  # bytes, NIST SP 800-38D §8.2.2: random ones are safe far beyond any number of keys
_VERSION: Final = b"quotapool vault 1"


class SealBroken(Exception):
    """This was sealed with another master key, or moved or changed since."""


class MasterKey:
    """Made from a text of at least MIN_LENGTH characters. `id` names it and reveals nothing about it.

    Raises ValueError, which never repeats the text.
    """

    __slots__ = ("_cipher", "_root", "id")

    def __init__(self, text: str) -> None:
        text = text.strip()
        if len(text) < MIN_LENGTH:
            raise ValueError(f"a master key needs at least {MIN_LENGTH} characters")
        self._cipher = AESGCM(_derived(text.encode(), b"cipher", 32))
        self._root = _derived(text.encode(), b"root", 32)
        self.id = _derived(text.encode(), b"id", 6).hex()

    def __repr__(self) -> str:
        return f"<MasterKey {self.id}>"

    def seal(self, secret: str, *context: str) -> str:
        """Base64 of nonce and ciphertext. It opens only with the very same `context`."""
        nonce = os.urandom(_NONCE)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, secret.encode(), _bound(context))).decode()

    def open(self, sealed: str, *context: str) -> str:
        """The secret again. Raises SealBroken."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            return self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], _bound(context)).decode()
        except (InvalidTag, ValueError):
            raise SealBroken from None

    def derived(self, *purpose: str) -> bytes:
        """A key of 32 bytes for one purpose, the same wherever this master key is given."""
        return _derived(self._root, _bound(purpose), 32)


def new_master_key() -> str:
    """The text of a master key: 256 random bits."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def _derived(secret: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=_VERSION + b" " + purpose).derive(secret)


def _bound(context: tuple[str, ...]) -> bytes:
    """Lengths first, so that no two lists of words are the same bytes."""
    words = [word.encode() for word in context]
    return _VERSION + b"".join(len(word).to_bytes(4, "big") + word for word in words)
