"""Passing settings on: to a worker process, and from an old configuration to a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Final

from quotapool.settings.alerts import Alerts
from quotapool.settings.dashboard import Dashboard
from quotapool.settings.model import Account, Origin, Settings, UpstreamKey
from quotapool.settings.values import REVEAL

# Sockets, the store and anything else that is built once at start; all other options take effect with a reload.
RESTART_ONLY: Final[frozenset[str]] = frozenset(
    {
        "listen",
        "admin_listen",
        "admin_token",
        "redis",
        "on_redis_loss",
        "store_patience",
        "pool",
        "state_dir",
        "workers",
        "ca_file",
        "log",
    }
)


def waiting_for_restart(old: Settings, new: Settings) -> set[str]:
    """The top-level options whose change takes effect only with a restart. A listener with TLS accepts new
    certificates, but TLS itself cannot be turned on or off."""
    toggled = {"tls"} if (old.tls is None) is not (new.tls is None) else set()
    return changed_sections(old, new) & RESTART_ONLY | toggled


def to_wire(settings: Settings) -> bytes:
    """JSON with the secrets revealed: only for a pipe that a worker inherits and for the socket that only our user and
    root can open, never for disk, log or network.

    The `origin` stays with the process that read the configuration.
    """
    return settings.model_dump_json(context={REVEAL: True}).encode()


def from_wire(wire: bytes) -> Settings:
    """The settings that `to_wire` was given."""
    return Settings.model_validate_json(wire)


def with_origin(settings: Settings, origin: Origin) -> Settings:
    """The same settings, which `from_wire` made, with where they came from."""
    settings._origin = origin  # noqa: SLF001  # nobody else has seen them yet
    return settings


def with_more(settings: Settings, keys: Iterable[UpstreamKey], accounts: Mapping[str, Account]) -> Settings:
    """The same configuration with keys added at run time, and the settings of their accounts.

    The master key is left out: it is no longer needed once the keys are decrypted.
    """
    more = {"keys": (*settings.keys, *keys), "accounts": {**settings.accounts, **accounts}, "master_key": None}
    copy = settings.model_copy(update=more)
    for name, member in vars(Settings).items():  # tables built from the old values
        if isinstance(member, cached_property):
            copy.__dict__.pop(name, None)
    return copy


def for_workers(settings: Settings) -> Settings:
    """Without admin keys, session keys, the targets of alerts and who may operate: no request needs them."""
    accounts = {name: account.model_copy(update={"session_key": None}) for name, account in settings.accounts.items()}
    return with_more(
        settings.model_copy(update={"admin_keys": (), "alerts": Alerts(), "dashboard": Dashboard()}), (), accounts
    )


def changed_sections(old: Settings, new: Settings) -> set[str]:
    """The top-level options whose value changed; those in RESTART_ONLY wait for a restart."""
    return {name for name in Settings.model_fields if getattr(old, name) != getattr(new, name)}
