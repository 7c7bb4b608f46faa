"""The secrets of the pool's keys: held here, used for one header, shown nowhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


class Credentials:
    """Secrets by key id."""

    __slots__ = ("_authorization",)

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._authorization = {name: f"Bearer {secret}" for name, secret in secrets.items()}

    def __repr__(self) -> str:
        return f"<Credentials of {len(self._authorization)} keys>"

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._authorization

    def authorization(self, key_id: str) -> str:
        """Value of the Authorization header for this key."""
        return self._authorization[key_id]

    def secret(self, key_id: str) -> str:
        """For finding it in what upstream says, so that it goes no further."""
        return self._authorization[key_id].removeprefix("Bearer ")


def fingerprint(secret: str) -> str:
    """Tells secrets apart without revealing them: 64 bits of SHA-256 of a random token of more than 200 bits."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]
