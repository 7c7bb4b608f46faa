"""The bodies and queries of the admin API as types: they validate requests and make up the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from quotapool.request.rule_rows import RuleRow

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Day = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class Grant(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Credit that an account was granted; days are UTC."""

    usd: Annotated[float, msgspec.Meta(gt=0)]
    granted_on: Day | None = None
    expires_on: Day | None = None


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """A key for the pool. The secret is kept encrypted and never shown again. `tier`, `weight` and `grants` belong to
    its account. `check`: ask OpenAI first (GET /v1/models). `replace`: a new secret for a stored id."""

    secret: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    id: Name | None = None
    account: Name | None = None
    tier: Name | None = None
    weight: Annotated[float, msgspec.Meta(gt=0)] | None = None
    grants: list[Grant] = []
    check: bool = True
    replace: bool = False


class KeyAdded(msgspec.Struct):
    """`result`: added, unchanged, updated (its attributes) or replaced (its secret)."""

    id: str
    result: str


class Level(msgspec.Struct):
    """`learned`: the limit that upstream named, null if it named none."""

    limit: float
    learned: float | None
    remaining: float


class BudgetRow(msgspec.Struct):
    """What is left of an account's budgets for one model group; `cooling_s`: seconds it has to wait."""

    model: str
    cooling_s: float
    rpm: Level | None = None
    rpd: Level | None = None
    tpm: Level | None = None
    tpd: Level | None = None
    ipm: Level | None = None


class Evidence(msgspec.Struct):
    """What upstream answered, without secrets."""

    status: int
    message: str
    upstream_request_id: str
    by: str


class KeyRow(msgspec.Struct):
    """One key. `state`: active, suspect, quarantined, draining, disabled, removed, or locked (its master key is
    missing). `since` and `next_try`: Unix seconds. `next`: what to do, "" if nothing. `credit`: its account's.
    `cooling_s`: seconds until the first model group of its account may be used again, 0 if one may be used now."""

    id: str
    account: str
    state: str
    source: Literal["configuration", "store"]
    next: str
    budgets: list[BudgetRow]
    organization: str | None = None
    cooling_s: float = 0.0
    credit: dict[str, Any] | None = None
    reason: str | None = None
    since: float | None = None
    next_try: float | None = None
    evidence: Evidence | None = None


class Keys(msgspec.Struct):
    keys: list[KeyRow]


class KeyQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`state`: only keys in this state."""

    state: Literal["active", "suspect", "quarantined", "draining", "disabled", "removed", "locked"] | None = None


class Empty(msgspec.Struct, forbid_unknown_fields=True):
    """For calls that take no query, or no body: anything given there is misspelt or misplaced."""


class RemoveKey(msgspec.Struct, forbid_unknown_fields=True):
    """`forget`: delete a stored key with its secret."""

    forget: bool = False


class KeyState(msgspec.Struct):
    """The key's state after the operation."""

    id: str
    state: str


class ProbeResult(msgspec.Struct):
    """Upstream's answer about the key now; `valid` means nothing for its credit. `next`: what to do."""

    id: str
    valid: bool
    answer: str
    detail: str
    next: str


class ModelRoom(msgspec.Struct):
    """Sum over the accounts that can be used."""

    model: str
    dimension: str
    limit: float
    remaining: float


class PoolRow(msgspec.Struct):
    """The pool in short. `problem`: why stored keys are missing, "" if none is."""

    pool: str
    version: str
    keys: dict[str, int]
    accounts: int
    usable_keys: int
    room: list[ModelRoom]
    problem: str


class EventQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The newest come first; `before`: the id of an event, to continue from there."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    before: Annotated[str, msgspec.Meta(pattern=r"^\d{1,20}-\d{1,20}$")] | None = None


class Event(msgspec.Struct):
    """One change of a key's (`k/...`), account's (`a/...`) or organisation's (`o/...`) state; or of another kind."""

    id: str
    at: str
    data: dict[str, Any]


class Events(msgspec.Struct):
    events: list[Event]


_Single = Literal["pool", "day", "account", "key", "model", "client"]
_PerDay = Literal["account,day", "key,day", "model,day", "client,day"]
UsageBy = Literal[_Single, "client,model", "account,model", "key,model", _PerDay]


class UsageQuery(msgspec.Struct, forbid_unknown_fields=True):
    """As the options of `quotapool usage`. `since`, `until`: 2026-11-01, 15:00, 2026-11-01T15:00, 90m, 24h, 7d or
    month. `every`: a row for each step of time, else one for all."""

    by: UsageBy = "pool"
    since: Annotated[str, msgspec.Meta(max_length=40)] = "month"
    until: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    every: Literal["1m", "5m", "1h", "1d"] | None = None


class UsageSums(msgspec.Struct, kw_only=True):
    """`usd` is the sum of the next three; `refusals`: refused requests by error code and rules, null if rows are by
    model, account or key alone."""

    usd: float
    exact_usd: float
    estimated_usd: float
    probe_usd: float
    unpriced_requests: int
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    refused_requests: int | None
    refusals: dict[str, int] | None


class UsageRow(UsageSums, kw_only=True, rename={"start": "from"}):
    """What one name used, with what it was asked by; `from`: the beginning of a step of time."""

    start: str | msgspec.UnsetType = msgspec.UNSET
    day: str | msgspec.UnsetType = msgspec.UNSET
    account: str | msgspec.UnsetType = msgspec.UNSET
    key: str | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET
    client: str | msgspec.UnsetType = msgspec.UNSET


class UsageRows(msgspec.Struct):
    """Times are ISO 8601 with an offset; `until` is not included. `not_seen`: what costs money and is in no row."""

    by: str
    since: str
    until: str
    every: str | None
    time_zone: str
    rows: list[UsageRow]
    total: UsageSums
    month_to_date_usd: float
    unpriced: list[str]
    price_data: list[str]
    not_seen: list[str]


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
    """A client and its options (`max_wait` in seconds). `added`, `old_key_until`: Unix seconds; null: a configured one,
    no old key. `suspended`: why; null if it is served. `last_seen`: the UTC day of its last request, of 90. `rules`:
    its limits and budgets, and its team's."""

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
    seconds, or as in "30s"; `expires_on`: the first day (UTC) on which it is refused. null: the pool's own wait, no
    end, no team, and the time zone of `spend`."""

    team: str | msgspec.UnsetType | None = msgspec.UNSET
    weight: float | msgspec.UnsetType = msgspec.UNSET
    priority: Priority | msgspec.UnsetType = msgspec.UNSET
    max_wait: float | str | msgspec.UnsetType | None = msgspec.UNSET
    models: list[str] | msgspec.UnsetType = msgspec.UNSET
    expires_on: Day | msgspec.UnsetType | None = msgspec.UNSET
    allowed_ips: list[str] | msgspec.UnsetType = msgspec.UNSET
    on_stream_overrun: Overrun | msgspec.UnsetType = msgspec.UNSET
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


class Deleted(msgspec.Struct):
    id: str
    gone: bool = True


class ErrorDetails(msgspec.Struct):
    """An error in OpenAI's format."""

    message: str
    type: str
    param: str | None
    code: str


class Error(msgspec.Struct):
    error: ErrorDetails
