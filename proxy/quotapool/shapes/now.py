"""How the pool stands now and stood in the last hour, as the admin API, the page and `quotapool now` show it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from quotapool.shapes.cache import CacheSums
from quotapool.shapes.general import Name, OutsideUseRow

Action = Literal["probe", "enable", "replace", "topup", "show_client", "show_key", "show_account", "show_requests"]


class DryTime(msgspec.Struct):
    """When a budget runs dry, if the pace of the last minutes stays: `minutes` from now, and the range in which that
    lies in four of five cases; `latest` null: the pace is so uneven that it may as well never be dry. A budget that is
    never dry at this pace has none."""

    minutes: float
    earliest: float
    latest: float | None


class RoomRow(msgspec.Struct):
    """What all accounts that can be used have left together, for one model group in one dimension (rpm, tpm, rpd, tpd,
    ipm). `used_per_minute`: by all replicas, over the last five minutes; `refill_per_minute`: what the limits give
    back; `accounts`: that have this budget; `cooling`: how many of them wait."""

    model: str
    dimension: str
    limit: float
    remaining: float
    used_per_minute: float
    refill_per_minute: float
    accounts: int
    cooling: int
    dry: DryTime | None


class WaitingRow(msgspec.Struct):
    """Requests in the queues of all replicas that wait for the same. `rule`: of the client, "" if for the pool's room;
    `longest_s`: how long the first of them has waited."""

    model: str
    dimension: str
    client: str
    rule: str
    waiting: int
    longest_s: float


class CreditRow(msgspec.Struct):
    """An account whose credit or monthly limit is known, the first to run out first. USD; times are ISO 8601 in UTC.
    `error_days`: how far `empty_at` may be off, from how the last days' spend varied; null: too few days, or they vary
    too much."""

    account: str
    remaining_usd: float | None
    per_day_usd: float
    month_spent_usd: float
    month_limit_usd: float | None
    empty_at: str | None
    error_days: float | None
    next_expiry: str | None
    expiring_unused_usd: float | None


class Attention(msgspec.Struct):
    """Something to look at. `code`: a key's, account's or organisation's reason, or `dry`, `credit_low`,
    `credit_expires`, `outside_use`, `client_budget`, `client_expires`, `queue`, `daily_limit`, `locked`, `store_away`,
    `no_keys`. `ids`: the first 20 of `count` that are alike; `since`: Unix seconds, 0 if not known; `next`: what to do,
    or what is the case; `actions`: that help, the best first."""

    severity: Literal["critical", "warning", "info"]
    kind: Literal["key", "account", "organization", "model", "client", "pool"]
    code: str
    ids: list[str]
    count: int
    since: float
    next: str
    actions: list[Action]


class Fact(msgspec.Struct):
    """A part of the sentence about the pool: `serving` (number, of: keys), `not_serving` (of), `dry` (name: the model,
    dimension, number: minutes), `dry_now` (name, dimension), `not_dry`, `credit` (name: the account, at), `queue`
    (number), `store_away`."""

    code: str
    name: str = ""
    dimension: str = ""
    number: float = 0.0
    of: float = 0.0
    at: str = ""


class Now(msgspec.Struct):
    """`at`: Unix seconds; `sentence`: `facts` in English. `keys`: by state. `requests_per_minute`: that used something
    at OpenAI or were refused here, `errors_per_minute`: that were refused here; both over the last one or two minutes.
    `attention` and `credit` have at most 50 rows, `outside_use` 100."""

    at: float
    pool: str
    version: str
    sentence: str
    facts: list[Fact]
    keys: dict[str, int]
    usable_keys: int
    accounts: int
    attention: list[Attention]
    room: list[RoomRow]
    waiting: list[WaitingRow]
    credit: list[CreditRow]
    outside_use: list[OutsideUseRow]
    requests_per_minute: float
    errors_per_minute: float
    spent_today_usd: float
    daily_limit_usd: float | None


class SampleQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`model`: only of this model group."""

    model: Name | None = None
    minutes: Annotated[int, msgspec.Meta(ge=1, le=60)] = 60


class SampleSeries(msgspec.Struct):
    """One model group in one dimension. `used`: in the minute before each time; null: not known."""

    model: str
    dimension: str
    remaining: list[float | None]
    limit: list[float | None]
    used: list[float | None]


class Samples(msgspec.Struct):
    """The last hour, a sample every `every_s` seconds. `at`: Unix seconds, the oldest first; each other list is as
    long. `waiting`: in the queues of all replicas."""

    every_s: float
    at: list[float]
    waiting: list[int | None]
    series: list[SampleSeries]


class Savings(msgspec.Struct):
    """What clients were spared since the beginning of the month (`since`, ISO 8601). `rescued`: requests that were
    served after an attempt failed, by what had failed first: `rate_limit`, `money`, `key`, `network`, `server`;
    `queued`: served after a wait instead of a refusal (it may be among the rescued, too); `cached_usd`: what upstream's
    own prompt cache saved: the month's cached tokens by model, at today's prices for short prompts of text;
    `pool_cache`, `pool_cache_today`: what the pool's own cache did and saved this month, and today (UTC)."""

    since: str
    rescued: dict[str, int]
    queued: int
    cached_tokens: int
    cached_usd: float
    pool_cache: CacheSums
    pool_cache_today: CacheSums
