"""The bodies and answers of the admin API that are about clients and teams (see `general.py`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from quotapool.request.rule_rows import RuleRow
from quotapool.shapes.general import Day, Name

Priority = Literal["high", "normal", "batch"]
Overrun = Literal["finish", "cut"]


class LimitOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits by the minute and day, and of requests at the same time; each a number, or as in "500k". null: none; those
    that are left out stay as they are."""

    rpm: float | str | msgspec.UnsetType | None = msgspec.UNSET
    tpm: float | str | msgspec.UnsetType | None = msgspec.UNSET
    rpd: float | str | msgspec.UnsetType | None = msgspec.UNSET
    tpd: float | str | msgspec.UnsetType | None = msgspec.UNSET
    concurrent: float | str | msgspec.UnsetType | None = msgspec.UNSET


class BudgetOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of `usd`, `tokens` and `requests` in each period. `models`: a pattern; "": all. `warn_at`: shares of it."""

    usd: float | None = None
    tokens: float | str | None = None
    requests: float | str | None = None
    per: Literal["minute", "hour", "day", "week", "month", "total"]
    models: str = ""
    mode: Literal["hard", "soft", "shadow"] = "hard"
    warn_at: list[float] | msgspec.UnsetType = msgspec.UNSET


class ClientRow(msgspec.Struct, kw_only=True):
    """A client and its options (`max_wait` in seconds; `cache` null: as `cache.clients` says). `added`,
    `old_key_until`: Unix seconds; null: a configured one, no old key. `suspended`: why; null if it is served.
    `last_seen`: the UTC day of its last request, of 90. `rules`: its limits and budgets, and its team's."""

    id: str
    source: Literal["configuration", "store"]
    name: str
    team: str | None
    limits: LimitOptions
    budgets: list[BudgetOptions]
    time_zone: str | None
    weight: float
    priority: Priority
    max_wait: float | None
    models: list[str]
    expires_on: str | None
    allowed_ips: list[str]
    on_stream_overrun: Overrun
    cache: bool | None
    labels: dict[str, str]
    notes: str
    added: float | None
    old_key_until: float | None
    suspended: str | None
    last_seen: str | None
    rules: list[RuleRow]


class ClientRows(msgspec.Struct):
    clients: list[ClientRow]


class _Change(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What clients and teams have alike."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    limits: LimitOptions | msgspec.UnsetType = msgspec.UNSET
    budgets: list[BudgetOptions] | msgspec.UnsetType = msgspec.UNSET
    time_zone: str | msgspec.UnsetType | None = msgspec.UNSET
    notes: str | msgspec.UnsetType = msgspec.UNSET

    def options(self) -> dict[str, Any]:
        """Those that were given, in the words of the configuration."""
        given: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in given.items() if name not in {"id", "key_hash"}}


class ClientChange(_Change, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of a client; those that are left out stay as they are, `budgets` are replaced as a whole. `max_wait`:
    seconds, or as in "30s"; `expires_on`: the first day (UTC) on which it is refused; `cache`: whether it is served
    from the cache. null: the pool's own wait, no end, no team, the time zone of `spend`, and what `cache.clients`
    says."""

    team: str | msgspec.UnsetType | None = msgspec.UNSET
    weight: float | msgspec.UnsetType = msgspec.UNSET
    priority: Priority | msgspec.UnsetType = msgspec.UNSET
    max_wait: float | str | msgspec.UnsetType | None = msgspec.UNSET
    models: list[str] | msgspec.UnsetType = msgspec.UNSET
    expires_on: Day | msgspec.UnsetType | None = msgspec.UNSET
    allowed_ips: list[str] | msgspec.UnsetType = msgspec.UNSET
    on_stream_overrun: Overrun | msgspec.UnsetType = msgspec.UNSET
    cache: bool | msgspec.UnsetType | None = msgspec.UNSET
    labels: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


KeyHash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class NewClient(ClientChange, kw_only=True, forbid_unknown_fields=True):
    """A client. `key_hash`: SHA-256 (hex) of a key it has already; without it, a key is created."""

    id: Name
    key_hash: KeyHash | None = None


class ClientAdded(msgspec.Struct):
    """`key`: the client's new key, in this answer and never again; null if it has one already."""

    id: str
    key: str | None


class ClientRotation(msgspec.Struct, forbid_unknown_fields=True):
    """`overlap_s`: how long the old key is served, too. `key_hash` as for a new client."""

    overlap_s: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 86_400.0
    key_hash: KeyHash | None = None


class ClientRotated(msgspec.Struct):
    """`key` as for a new client; `old_key_until`: Unix seconds."""

    id: str
    key: str | None
    old_key_until: float


class SuspendClient(msgspec.Struct, forbid_unknown_fields=True):
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "by the operator"


class ClientService(msgspec.Struct):
    """`changed`: false if it was so before."""

    id: str
    suspended: bool
    changed: bool


class TeamRow(msgspec.Struct, kw_only=True):
    """A team, its options and its clients. `added`: Unix seconds; null: a configured one."""

    id: str
    source: Literal["configuration", "store"]
    name: str
    limits: LimitOptions
    budgets: list[BudgetOptions]
    time_zone: str | None
    notes: str
    added: float | None
    clients: list[str]
    rules: list[RuleRow]


class TeamRows(msgspec.Struct):
    teams: list[TeamRow]


class TeamChange(_Change, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of a team; those that are left out stay as they are, `budgets` are replaced as a whole."""


class NewTeam(TeamChange, kw_only=True, forbid_unknown_fields=True):
    """A team, whose limits and budgets its clients share."""

    id: Name
