"""The random secrets of logins, and what is derived from one: names under which the store knows it, and proofs.

All have 256 random bits, so a plain hash of one cannot be turned back, and no store, log or list needs the secret
itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import Final

_FORM: Final = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes in base64 for URLs, without padding


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def is_secret(text: str) -> bool:
    """Whether it has the form of one of ours; anything else need not be looked up."""
    return _FORM.fullmatch(text) is not None


def id_of(secret: str) -> str:
    """The name under which the store keeps what belongs to a secret: 128 bits of its SHA-256, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()[:32]


def derived(secret: str, purpose: str) -> str:
    """Another secret that only the holder of this one can compute, and that does not lead back to it."""
    digest = hmac.digest(secret.encode(), purpose.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def are_equal(one: str, other: str) -> bool:
    """In constant time. Either may be any text, as headers are."""
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode("utf-8", "surrogateescape"))
