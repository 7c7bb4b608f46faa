"""An OpenID provider over HTTP: where its endpoints are, its keys, and the exchange of a code for tokens.

Every answer is bounded in bytes and time, redirects are not followed, and what fails is a ProviderFailed, whose text
is for people and repeats nothing that the provider sent.
"""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import msgspec

from quotapool.settings import Settings
from quotapool.settings.dashboard import Oidc
from quotapool.settings.values import Address

_LARGEST: Final = 256 * 1024
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10, connect=5)
_METADATA_KEPT_S: Final = 3600.0
_KEYS_KEPT_S: Final = 3600.0
_KEYS_EVERY_S: Final = 30.0  # at most, however many unknown key ids come
_FAILURE_KEPT_S: Final = 5.0  # a provider that is down is not asked by every visitor


class ProviderFailed(Exception):
    """It cannot be reached, or answers what no provider answers."""


class ProviderRefused(ProviderFailed):
    """It does not accept the code or this client."""


class Metadata(msgspec.Struct, frozen=True):
    """What is used of OpenID Connect Discovery 1.0, 3; RFC 9207, 3."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class Tokens(msgspec.Struct, frozen=True):
    """Of the token endpoint's answer (OpenID Connect Core 1.0, 3.1.3.3)."""

    id_token: str
    access_token: str = ""


class Provider:
    """One configured provider. `ssl`: for its https; `proxy`: the URL of a forward proxy, or None."""

    def __init__(self, options: Oidc, connector: Any, proxy: str | None) -> None:
        """`connector` makes an aiohttp connector, for one call."""
        self.options = options
        self._connector = connector
        self._proxy = proxy
        self._metadata: Metadata | None = None
        self._metadata_at = 0.0
        self._failure: tuple[float, str] | None = None
        self._keys: dict[str, Any] = {}
        self._keys_at = 0.0

    @classmethod
    def of(cls, settings: Settings, options: Oidc) -> Provider:
        """By the way that is configured for calls. Raises OSError: `ca_file` cannot be used."""
        tls = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
        return cls(options, lambda: aiohttp.TCPConnector(limit=2, ssl=tls), settings.proxy_for(options.issuer))

    async def metadata(self) -> Metadata:
        """Its endpoints, read again every hour."""
        now = time.monotonic()
        if self._metadata is not None and now - self._metadata_at < _METADATA_KEPT_S:
            return self._metadata
        if self._failure is not None and now - self._failure[0] < _FAILURE_KEPT_S:
            raise ProviderFailed(self._failure[1])
        try:
            self._metadata = await self._discovered()
        except ProviderFailed as failed:
            self._failure = now, str(failed)
            raise
        self._metadata_at, self._failure = now, None
        return self._metadata

    async def _discovered(self) -> Metadata:
        issuer = self.options.issuer
        url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        status, body = await self._call("GET", url)
        if status != 200:
            raise ProviderFailed(f"{url} answers {status}; is dashboard.oidc.issuer right?")
        try:
            found = msgspec.json.decode(body, type=Metadata)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ProviderFailed(f"{url} is not the description of an OpenID provider") from None
        if found.issuer != issuer:
            raise ProviderFailed(
                f"{url} is of another issuer than dashboard.oidc.issuer; they must be equal, / included"
            )
        endpoints = (found.authorization_endpoint, found.token_endpoint, found.jwks_uri, found.userinfo_endpoint)
        if not all(_is_safe(endpoint, issuer) for endpoint in endpoints if endpoint):
            raise ProviderFailed(f"{url} names an address that is not https")
        return found

    async def keys(self, *, fresh: bool = False) -> dict[str, Any]:
        """Its JSON Web Key Set. `fresh`: one has a key id that was not known; it is read again, but not all the
        time."""
        now = time.monotonic()
        age = now - self._keys_at
        if self._keys and age < (_KEYS_EVERY_S if fresh else _KEYS_KEPT_S):
            return self._keys
        url = (await self.metadata()).jwks_uri
        status, body = await self._call("GET", url)
        try:
            found = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = {}
        if status != 200 or not isinstance(found.get("keys"), list):
            raise ProviderFailed(f"{url} answers {status} and no keys")
        self._keys, self._keys_at = found, now
        return found

    async def exchange(self, code: str, verifier: str, redirect_uri: str) -> Tokens:
        """The tokens for a code (RFC 6749, 4.1.3; RFC 7636, 4.5). Raises ProviderRefused, ProviderFailed."""
        metadata, options = await self.metadata(), self.options
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers: dict[str, str] = {}
        secret = options.client_secret
        methods = metadata.token_endpoint_auth_methods_supported
        if secret is not None and ("client_secret_basic" in methods or "client_secret_post" not in methods):
            headers["Authorization"] = _basic(options.client_id, secret.get_secret_value())
        else:
            form["client_id"] = options.client_id
            if secret is not None:
                form["client_secret"] = secret.get_secret_value()
        status, body = await self._call("POST", metadata.token_endpoint, form, headers)
        if status in {400, 401, 403}:
            raise ProviderRefused(f"the identity provider does not accept this login ({status}{_error_of(body)})")
        try:
            if status == 200:
                return msgspec.json.decode(body, type=Tokens)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        raise ProviderFailed(f"{metadata.token_endpoint} answers {status} and no ID token")

    async def userinfo(self, access_token: str) -> Mapping[str, Any]:
        """More claims about the person (OpenID Connect Core 1.0, 5.3); {} if there is no such endpoint. Whose they are
        is for the caller to compare (`sub`)."""
        url = (await self.metadata()).userinfo_endpoint
        if not url or not access_token or not access_token.isascii() or not access_token.isprintable():
            return {}
        status, body = await self._call("GET", url, headers={"Authorization": f"Bearer {access_token}"})
        try:
            if status == 200:
                return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        raise ProviderFailed(f"{url} answers {status} and no claims")

    async def _call(
        self, method: str, url: str, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        body = bytearray()
        sent = {"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {})}
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        data = urlencode(form).encode() if form is not None else None
        try:
            async with (
                self._session() as http,
                http.request(
                    method, url, data=data, headers=sent, allow_redirects=False, proxy=self._proxy, timeout=_TIMEOUT
                ) as answer,
            ):
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > _LARGEST:
                        raise ProviderFailed(f"{url} answers more than {_LARGEST >> 10} KiB")
                return answer.status, bytes(body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            why = "no answer within 10 s" if isinstance(error, TimeoutError) else type(error).__name__
            raise ProviderFailed(f"{url} cannot be reached: {why}") from None

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        async with aiohttp.ClientSession(
            connector=self._connector(), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        ) as http:
            yield http


def _is_safe(url: str, issuer: str) -> bool:
    """Only https, except of a provider that is on this machine itself."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.scheme == "http" and issuer.startswith("http:"):
        return Address(parts.hostname or "", 0).is_loopback
    return parts.scheme == "https" and bool(parts.hostname)


def _basic(client_id: str, secret: str) -> str:
    """RFC 6749, 2.3.1: both are encoded as in a form."""
    pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _error_of(body: bytes) -> str:
    """The error code, one of a few words of RFC 6749, 5.2."""
    try:
        code = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    known = {"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type"}
    return f" {code}" if isinstance(code, str) and code in known else ""
