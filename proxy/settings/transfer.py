"""Settings on their way: to a worker process, and from an old configuration to a new one."""

from __future__ import annotations

from typing import Final

from proxy.settings.model import Settings
from proxy.settings.values import REVEAL

# Sockets, the store and what is built once at start; everything else takes effect with a reload.
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


def to_wire(settings: Settings) -> bytes:
    """JSON with the secrets revealed: only for a pipe that a worker inherits, never for disk, log or network.

    `warnings` and `files` stay with the process that read the configuration.
    """
    return settings.model_dump_json(context={REVEAL: True}).encode()


def from_wire(wire: bytes) -> Settings:
    """What `to_wire` was given."""
    return Settings.model_validate_json(wire)


def changed_sections(old: Settings, new: Settings) -> set[str]:
    """The top-level options whose value changed; those in RESTART_ONLY wait for a restart."""
    return {name for name in Settings.model_fields if getattr(old, name) != getattr(new, name)}
