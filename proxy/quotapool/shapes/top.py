"""What `quotapool top` shows: the pool as it stands, and what its last minute of requests was like."""

from __future__ import annotations

import msgspec

from quotapool.shapes.now import Now


class Traffic(msgspec.Struct):
    """`requests_per_s`, `refused_per_s` (answered with 429) and `failed_per_s` (other errors, and answers that were cut
    off) are of the last ten seconds; `longest_wait_ms` and the percentiles of the last minute. null: no request."""

    requests_per_s: float
    refused_per_s: float
    failed_per_s: float
    wait_p50_ms: float | None
    wait_p99_ms: float | None
    total_p50_ms: float | None
    total_p99_ms: float | None


class KeyUse(msgspec.Struct):
    """A key. `state`: as stored, or `cooling` (active, but all model groups of its account wait), or `locked`; `since`
    and `next_try`: Unix seconds. `left`: the share that is left of its account's emptiest budget, `emptiest` names it.
    `attempts_per_minute`: calls with it, `failed_per_minute`: those that failed for a reason other than the request;
    both of the last minute."""

    id: str
    account: str
    state: str
    reason: str
    since: float | None
    next_try: float | None
    cooling_s: float
    left: float | None
    emptiest: str
    attempts_per_minute: float
    failed_per_minute: float


class ClientUse(msgspec.Struct):
    """A client in the last minute. `refused`: with 429; `waiting`: in all queues now; `usd_per_hour`: at the pace of
    that minute, without what has no known price."""

    client: str
    requests_per_minute: float
    refused_per_minute: float
    failed_per_minute: float
    tokens_per_minute: float
    usd_per_hour: float
    waiting: int


class Trouble(msgspec.Struct):
    """A request that was refused, failed or cut off. `at`: Unix seconds of its end; `why`: the proxy's error code, else
    upstream's reason; `tried`: each key with its outcome."""

    at: float
    client: str
    model: str
    status: int
    why: str
    tried: str
    id: str


class Top(msgspec.Struct):
    """`keys`: those that are out or do worst, serve most or have least left; `clients`: those that use, are refused or
    wait most; `troubles`: the last 50, the newest first. `buckets_at`: when budgets were last read one by one, Unix
    seconds, 0: never."""

    now: Now
    traffic: Traffic
    keys: list[KeyUse]
    clients: list[ClientUse]
    troubles: list[Trouble]
    buckets_at: float
