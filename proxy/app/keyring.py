"""Splits the configured keys into what everybody may know and the secrets that only the upstream side gets."""

from __future__ import annotations

from proxy.domain.pool import Key
from proxy.settings import Settings
from proxy.upstream.credentials import fingerprint


def keyring(settings: Settings) -> tuple[list[Key], dict[str, str]]:
    """The pool's keys without secrets, and the secrets by key id."""
    secrets = {key.id: key.secret.get_secret_value() for key in settings.keys}
    return [Key(key.id, key.account, fingerprint(secrets[key.id])) for key in settings.keys], secrets
