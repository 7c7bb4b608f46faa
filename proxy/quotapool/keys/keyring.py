"""Splits the configuration into keys without secrets, and the secrets, which only the upstream side gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from quotapool.domain.pool import Key
from quotapool.settings import Settings
from quotapool.store.address import parse
from quotapool.upstream.credentials import Credentials, fingerprint
from quotapool.upstream.routes import Route

_SHORTEST_TOKEN: Final = 12  # characters; something shorter may be an ordinary word in a URL


def keyring(settings: Settings) -> tuple[list[Key], dict[str, str]]:
    """The pool's keys without secrets, and the secrets by key id."""
    secrets = {key.id: key.secret.get_secret_value() for key in settings.keys}
    return [Key(key.id, key.account, fingerprint(secrets[key.id])) for key in settings.keys], secrets


def credentials_of(settings: Settings) -> Credentials:
    """The secrets, and the routes of keys with an upstream of their own."""
    return Credentials(
        {key.id: key.secret.get_secret_value() for key in settings.keys},
        [
            (key.id, key.account, Route(own.url, own.header, own.query, own.models))
            for key in settings.keys
            if (own := key.upstream) is not None
        ],
    )


def secrets_in(settings: Settings, redis: str) -> Iterator[str]:
    """Every secret of the configuration, for the redactor. `redis`: the store's URL, "" if there is none."""
    for key in settings.keys:
        yield key.secret.get_secret_value()
    for admin in settings.admin_keys:
        yield admin.secret.get_secret_value()
    for account in settings.accounts.values():
        if account.session_key is not None:
            yield account.session_key.get_secret_value()
    if settings.admin_token is not None:
        yield settings.admin_token.get_secret_value()
    if settings.master_key is not None:
        yield settings.master_key.get_secret_value()
    if settings.dashboard.oidc is not None and settings.dashboard.oidc.client_secret is not None:
        yield settings.dashboard.oidc.client_secret.get_secret_value()
    if settings.upstream_proxy is not None:
        yield from settings.upstream_proxy.secrets()
    yield from (secret for secret in settings.traces.secrets() if len(secret) >= _SHORTEST_TOKEN)
    for target in settings.alerts.targets:
        yield from _parts_of(target.url.get_secret_value())
        if target.secret is not None:
            yield target.secret.get_secret_value()
    with suppress(ValueError):  # connecting to it reports what is wrong with the URL
        address = parse(redis)
        yield from filter(None, (address.login.password, address.sentinel_login.password))


def _parts_of(url: str) -> Iterator[str]:
    """An alert target's URL, and its parts that may be tokens: libraries show such URLs in other forms."""
    parts = urlsplit(url)
    yield url
    tokens = [parts.password or "", *parts.path.split("/"), *(value for _, value in parse_qsl(parts.query))]
    if parts.scheme not in {"http", "https"}:
        tokens.append(parts.username or parts.hostname or "")  # apprise's URLs have tokens in place of the host
    yield from (token for token in tokens if len(token) >= _SHORTEST_TOKEN)
