"""The configuration: one YAML file, the environment and secrets, as one frozen, checked object."""

from __future__ import annotations

from quotapool.settings.clients import Client, ClientOptions
from quotapool.settings.errors import ConfigError
from quotapool.settings.load import load
from quotapool.settings.model import (
    Account,
    GlobalLimits,
    LimitSet,
    Log,
    Metrics,
    Origin,
    Queue,
    Retry,
    Settings,
    Timeouts,
    UpstreamKey,
    default_key_id,
)
from quotapool.settings.traces import Traces
from quotapool.settings.transfer import (
    RESTART_ONLY,
    changed_sections,
    for_workers,
    from_wire,
    to_wire,
    waiting_for_restart,
    with_more,
    with_origin,
)
from quotapool.settings.values import Address

__all__ = [
    "RESTART_ONLY",
    "Account",
    "Address",
    "Client",
    "ClientOptions",
    "ConfigError",
    "GlobalLimits",
    "LimitSet",
    "Log",
    "Metrics",
    "Origin",
    "Queue",
    "Retry",
    "Settings",
    "Timeouts",
    "Traces",
    "UpstreamKey",
    "changed_sections",
    "default_key_id",
    "for_workers",
    "from_wire",
    "load",
    "to_wire",
    "waiting_for_restart",
    "with_more",
    "with_origin",
]
