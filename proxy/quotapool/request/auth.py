"""Who may use the proxy: holders of a client key, if there are any; else anyone but a web page of a stranger."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Final

from quotapool.domain.request_record import ANONYMOUS
from quotapool.ledger.clients import digest
from quotapool.openai import replies
from quotapool.openai.head import Head
from quotapool.openai.refusal import Refusal, UnknownKey

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
_OWN_SITE: Final = frozenset({"none", "same-origin"})  # typed into the browser, or from a page that we served
_SUBPROTOCOL: Final = "openai-insecure-api-key."


class ClientAuth:
    """Client keys by their SHA-256, and the hosts and origins that need none."""

    def __init__(self) -> None:
        self._clients: dict[str, str] = {}
        self._hosts: frozenset[str] = _LOOPBACK
        self._origins: frozenset[str] = frozenset()
        self._any_host = False
        self._last_host: str | None = None  # that was allowed; nearly always it is the next one's too
        self._keys_required = False
        self._suspended: frozenset[str] = frozenset()
        self._expiry: Mapping[str, float] = {}
        self._old_keys: Mapping[str, float] = {}
        self._seen: dict[str, str] = {}  # token -> client; saves a hash a request

    def __repr__(self) -> str:
        return f"<ClientAuth clients={len(self._clients)}>"

    def configure(
        self,
        *,
        clients: Mapping[str, str],
        hosts: Iterable[str],
        origins: Iterable[str],
        allow_anonymous: bool,
        keys_required: bool = False,
        suspended: Iterable[str] = (),
        expiry: Mapping[str, float] | None = None,
        old_keys: Mapping[str, float] | None = None,
    ) -> None:
        """`clients`: SHA-256 (hex) of a key -> client id. With `allow_anonymous` any Host is served.

        `keys_required`: other machines reach the port, so without clients nobody comes in: the last key may have been
        revoked, and a Host header is easily forged. `suspended`: ids of clients that are known and not served.
        `expiry`: client id -> Unix second from which it is refused. `old_keys`: SHA-256 of keys that were replaced ->
        Unix second until which they are served.
        """
        self._expiry = expiry or {}
        self._old_keys = old_keys or {}
        self._suspended = frozenset(suspended)
        self._clients = dict(clients)
        self._hosts = _LOOPBACK | {host.lower() for host in hosts}
        self._origins = frozenset(origins)
        self._any_host = allow_anonymous
        self._keys_required = keys_required
        self._seen.clear()
        self._last_host = None

    @property
    def closed(self) -> bool:
        """Whether client keys are required."""
        return bool(self._clients) or self._keys_required

    def enter(self, headers: Head) -> str:
        """The client's id, ANONYMOUS where no keys are in use. Raises Refusal (401, 403), UnknownKey (401)."""
        if not self.closed:
            self._check_page(headers)
            return ANONYMOUS
        token = token_of(headers)
        if not token:
            raise Refusal(replies.MISSING_PROXY_KEY)
        client = self._holder_of(token)
        if client is None:
            raise UnknownKey(replies.OPENAI_KEY_SENT if token.startswith("sk-") else replies.INVALID_PROXY_KEY)
        if client in self._suspended:
            raise Refusal(replies.CLIENT_SUSPENDED)
        if self._expiry and self._expiry.get(client, math.inf) <= time.time():
            raise Refusal(replies.CLIENT_EXPIRED)
        return client

    def client_of(self, headers: Head) -> str:
        """The client whose key these headers carry; "" if they carry no valid one."""
        return self._holder_of(token_of(headers)) or ""

    def _holder_of(self, token: str) -> str | None:
        client = self._seen.get(token)
        if client is None:
            key_hash = digest(token)
            client = self._clients.get(key_hash)
            if client is not None and key_hash in self._old_keys:  # not remembered: it ends
                return client if time.time() < self._old_keys[key_hash] else None
            if client is not None:
                if len(self._seen) > 10_000:
                    self._seen.clear()
                self._seen[token] = client
        return client

    def _check_page(self, headers: Head) -> None:
        """Without keys, a page in the operator's browser must not be able to spend the pool's money: neither by a
        rebound DNS name (Host), nor by a cross-origin request (Origin), nor by an image, a link or a form that the
        browser fetches without naming the page (Sec-Fetch-Site; Fetch Metadata §2.2)."""
        host = headers.get("host", "")
        if host != self._last_host:
            name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
            if name.lower() not in self._hosts and not self._any_host:
                raise Refusal(replies.HOST_NOT_ALLOWED)
            self._last_host = host
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site", "none") not in _OWN_SITE:
                raise Refusal(replies.ORIGIN_NOT_ALLOWED)
        elif origin not in self._origins:
            raise Refusal(replies.ORIGIN_NOT_ALLOWED)


def token_of(headers: Head) -> str:
    """The client key: Authorization, Azure's `api-key`, or the browser's WebSocket subprotocol."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    key = headers.get("api-key")
    if key:
        return key.strip()
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        name = protocol.strip()
        if name.startswith(_SUBPROTOCOL):
            return name.removeprefix(_SUBPROTOCOL)
    return ""
