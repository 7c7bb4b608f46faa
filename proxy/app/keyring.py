"""Splits the configured keys into what everybody may know and the secrets that only the upstream side gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from proxy.domain.pool import Key
from proxy.ledger.address import parse
from proxy.settings import Settings
from proxy.upstream.credentials import fingerprint


def keyring(settings: Settings) -> tuple[list[Key], dict[str, str]]:
    """The pool's keys without secrets, and the secrets by key id."""
    secrets = {key.id: key.secret.get_secret_value() for key in settings.keys}
    return [Key(key.id, key.account, fingerprint(secrets[key.id])) for key in settings.keys], secrets


def secrets_in(settings: Settings, redis: str) -> Iterator[str]:
    """Every secret of the configuration, for the redactor. `redis`: the store's URL, "" where there is none."""
    for key in settings.keys:
        yield key.secret.get_secret_value()
    if settings.admin_token is not None:
        yield settings.admin_token.get_secret_value()
    with suppress(ValueError):  # who connects says what is wrong with the URL
        address = parse(redis)
        yield from filter(None, (address.login.password, address.sentinel_login.password))
