"""What requests are called that were asked word for word before: an HMAC, under a key from the pool's master key.

The key is not that of the cache, so neither tells what the other keeps.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

import structlog

from quotapool.keys.framing import framed
from quotapool.keys.master_keys import NoMasterKey, first_master_key
from quotapool.settings import Settings

DIGEST_BYTES: Final = 8  # as `lua/notes.lua` reads them
_PURPOSE: Final = "quotapool advice 1"
_log = structlog.get_logger()


class Digests:
    """Of one pool. `key`: of `digest_key`."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes, pool: str) -> None:
        self._key = hmac.digest(key, pool.encode(), "sha256")

    def digest(self, scope: str, endpoint: str, canonical: bytes) -> bytes:
        """DIGEST_BYTES of an HMAC. `scope`: who may share an answer; `canonical`: all that shapes it."""
        text = framed(scope.encode(), endpoint.encode()) + canonical
        return hmac.digest(self._key, text, "sha256")[:DIGEST_BYTES]


def digest_key(settings: Settings, on_secret: Callable[[str], object] = lambda _: None) -> bytes:
    """32 bytes for all processes of the pool, from its master key; b"": nothing is noted, or there is no master key and
    so no digest. Reads files. `on_secret` receives the master key, for the redactor."""
    if not settings.advice.enabled:
        return b""
    try:
        return first_master_key(settings, on_secret).derived(_PURPOSE)
    except NoMasterKey as missing:
        _log.warning("advice: requests that repeat are not looked for", why=str(missing))
        return b""
