"""The bodies and queries of the admin API as types: they validate requests and make up the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from quotapool.domain.outside import OutsideUse

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


class OutsideUseRow(msgspec.Struct):
    """Somebody uses an account for models of a group (`model`) without the pool. `since`: when the evidence began,
    `named`: when that was told (Unix seconds). The rates are of the others alone, 0: not known; `usd_per_hour`: what
    that costs at most, if it is like the pool's own use; null: no price is known. `key`: the account's only key, "": it
    has several. `drained`: it was taken out of service for this."""

    account: str
    model: str
    since: float
    requests_per_minute: float
    tokens_per_minute: float
    key: str
    usd_per_hour: float | None
    named: float
    drained: bool

    @classmethod
    def of(cls, one: OutsideUse) -> OutsideUseRow:
        return cls(
            account=one.account,
            model=one.group,
            since=round(one.since, 3),
            requests_per_minute=round(one.requests_per_minute, 1),
            tokens_per_minute=round(one.tokens_per_minute),
            key=one.key,
            usd_per_hour=None if one.usd_per_hour is None else round(one.usd_per_hour, 2),
            named=round(one.named, 3),
            drained=one.drained,
        )


class KeyRow(msgspec.Struct):
    """One key. `state`: active, suspect, quarantined, draining, disabled, removed, or locked (its master key is
    missing). `since` and `next_try`: Unix seconds. `next`: what to do, "" if nothing. `credit`: its account's.
    `cooling_s`: seconds until the first model group of its account may be used again, 0 if one may be used now.
    `outside_use`: by model group, of its account."""

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
    outside_use: list[OutsideUseRow] = []


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
    """The newest come first; `before`: the id of an event, to continue from there. `kind`: state, brake, egress,
    outside_use, policy, operator…; `subject`: what it is about, as `data.field` has it: `k/alpha`, `a/acme`, `c/app`,
    `t/search`."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    before: Annotated[str, msgspec.Meta(pattern=r"^\d{1,20}-\d{1,20}$")] | None = None
    kind: Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,32}$")] | None = None
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None

    def matches(self, data: Mapping[str, str]) -> bool:
        """Whether an event with these fields is asked for."""
        return self.kind in {None, data.get("kind") or "state"} and self.subject in {None, data.get("field")}


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
    month. `every`: a row for each step of time, else one for all. `only`: rows whose first name is this one; `top`: of
    so many names, those that cost most, the others in one row `other`."""

    by: UsageBy = "pool"
    since: Annotated[str, msgspec.Meta(max_length=40)] = "month"
    until: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    every: Literal["1m", "5m", "1h", "1d"] | None = None
    only: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    top: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None


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
    """Times are ISO 8601 with an offset; `until` is not included. `not_seen`: what costs money and is in no row.
    `only`, `top`: if they were given."""

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
    only: str | msgspec.UnsetType = msgspec.UNSET
    top: int | msgspec.UnsetType = msgspec.UNSET


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
