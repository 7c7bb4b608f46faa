"""What a page of thousands of keys needs: short rows, work on many at once, imports, accounts, the configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from quotapool.shapes.general import Day, Grant, Name


class KeyLine(msgspec.Struct):
    """One key in short. `left`: the share that is left of its account's emptiest budget (0 to 1), null if it has none
    yet; `emptiest`: which that is, as `gpt-5 tpm`; `last_used`: ISO 8601 (UTC), the hour if it was today and is known,
    else the day, null if not in 90 days. `next` as in the key's own row."""

    id: str
    account: str
    state: str
    source: Literal["configuration", "store"]
    reason: str
    since: float | None
    next_try: float | None
    cooling_s: float
    left: float | None
    emptiest: str
    credit_usd: float | None
    last_used: str | None
    next: str


class KeyLines(msgspec.Struct):
    keys: list[KeyLine]


class KeyUsers(msgspec.Struct):
    """Who used a key, of the last requests that are kept, the most first: client, requests, tokens, USD (of those with
    a known price)."""

    since: str | None
    users: list[dict[str, Any]]


KeyVerb = Literal["enable", "disable", "drain", "remove", "forget", "probe"]


class KeyWork(msgspec.Struct, forbid_unknown_fields=True):
    """The same for many keys."""

    action: KeyVerb
    ids: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=20_000)]


class KeyImport(msgspec.Struct, forbid_unknown_fields=True):
    """`text`: one secret a line, or CSV with a first line of names, as for `quotapool keys import`."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=8 * 2**20)]
    check: bool = True
    replace: bool = False
    dry_run: bool = False


class Unfinished(msgspec.Struct):
    """What was not done: `line` of the import, 0 otherwise; `id` of the key, "" if it has none."""

    line: int
    id: str
    result: str
    why: str


class Job(msgspec.Struct):
    """Work that takes a while. `counts`: of `done` of `total`, by result; `not_done`: at most 1,000 of them;
    `problem`: why all of it ended early, "" if it did not. Jobs are kept for an hour after their end, and are of this
    replica."""

    id: str
    kind: Literal["import", "keys"]
    action: str
    total: int
    done: int
    finished: bool
    counts: dict[str, int]
    not_done: list[Unfinished]
    problem: str
    started: float
    by: str


class Jobs(msgspec.Struct):
    """The newest come first."""

    jobs: list[Job]


class AccountRow(msgspec.Struct):
    """An account. `credit`: as in a key's row, and `error_days` as in the pool's; `state`, `reason`: its own, `active`
    and "" if nothing is wrong."""

    id: str
    organization: str | None
    tier: str | None
    keys: int
    usable: int
    state: str
    reason: str
    next: str
    credit: dict[str, Any]
    grants: list[Grant]


class AccountRows(msgspec.Struct):
    accounts: list[AccountRow]


class TopUp(msgspec.Struct, forbid_unknown_fields=True):
    """Credit that was bought; days are UTC. `granted_on`: today, unless given."""

    usd: Annotated[float, msgspec.Meta(gt=0, le=1e9)]
    granted_on: Day | None = None
    expires_on: Day | None = None


class ReconcileRow(msgspec.Struct):
    """One organisation's (or project's) month: our books beside OpenAI's own costs; USD."""

    name: str
    ours_usd: float
    theirs_usd: float | None
    difference_usd: float | None
    problem: str


class Reconciliation(msgspec.Struct):
    """`problem`: why there is nothing to compare, "" if there is."""

    month: str
    rows: list[ReconcileRow]
    problem: str


class OptionRow(msgspec.Struct):
    """One value in force. `option`: dotted; `value`: as text, secrets as stars; `source`: `quotapool.yaml:12`, an
    environment variable, the command line, `store` or `default`; `default`: as text, null if there is none."""

    option: str
    value: str
    source: str
    default: str | None


class Configuration(msgspec.Struct):
    """`loaded_at`: Unix seconds; `after_restart`: options whose new value waits for a restart."""

    loaded_at: float
    options: list[OptionRow]
    warnings: list[str]
    after_restart: list[str]


class DryRun(msgspec.Struct, forbid_unknown_fields=True):
    """A request that is not sent: what would happen to it now. `body`: as a client would send it."""

    body: dict[str, Any]
    endpoint: str = "/v1/chat/completions"
    client: Name | None = None


class Candidate(msgspec.Struct):
    """An account that could have the request. `room`: what is left by dimension; `why_not`: "" if it can have it now;
    `wait_s`: until it can, null: not known or never."""

    account: str
    keys: int
    room: dict[str, float]
    why_not: str
    wait_s: float | None


class CacheOutlook(msgspec.Struct):
    """`result`: `hit`: its answer is kept, and upstream would not be asked; `miss`; `bypass`: it would not be looked
    up; `off`: there is no cache for it; `unknown`. `cause`: in plain words."""

    result: Literal["hit", "miss", "bypass", "off", "unknown"]
    cause: str


class DryRunAnswer(msgspec.Struct):
    """`verdict`: `served_now`, `waits`, `refused`; `cause`: in plain words; `reserve`: requests and tokens that it
    would reserve; `cache`: null if it is refused before that is asked; the candidates in the order in which they would
    be tried, at most 50 of each kind, none if the cache has its answer."""

    verdict: Literal["served_now", "waits", "refused"]
    cause: str
    endpoint: str
    model: str
    group: str
    reserve: dict[str, float]
    usd_at_most: float | None
    wait_s: float | None
    rules: list[str]
    candidates: list[Candidate]
    out: list[Candidate]
    out_count: int
    cache: CacheOutlook | None
