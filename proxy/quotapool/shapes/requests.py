"""Kept requests as the admin API and `quotapool logs --json` show them, and which of them are asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated, Final, Literal, get_args

import msgspec

from quotapool.domain.request_record import AskedFor
from quotapool.domain.waited_for import RuleAtLimit
from quotapool.domain.wallet import PICO
from quotapool.observe.kept_request import KeptAttempt, KeptRequest, KeptSaved

MOST: Final = 1_000  # requests in one answer
CacheResult = Literal["hit", "miss", "coalesced", "bypass"]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class RequestQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Only those of this client, that tried this key, for this model, with this code (the proxy's own, or the reason of
    an attempt). `errors`: only those that were refused, failed or cut; `waited`: that waited in the queue; `retried`:
    with more than one attempt; `cache`: for which the cache did this. The newest `limit` of those that are all of
    this."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 100
    client: Word | None = None
    key: Word | None = None
    model: Word | None = None
    code: Word | None = None
    errors: bool = False
    waited: bool = False
    retried: bool = False
    cache: CacheResult | None = None

    def matches(self, request: KeptRequest) -> bool:
        return (
            self.client in {None, request.client}
            and self.model in {None, request.model}
            and (self.key is None or any(self.key == attempt.key for attempt in request.attempts))
            and (self.code is None or self.code in codes(request))
            and (not self.errors or request.status >= 400 or request.cut)
            and (not self.waited or request.queued_us > 0)
            and (not self.retried or len(request.attempts) > 1)
            and self.cache in {None, request.cache}
        )


class AttemptRow(msgspec.Struct):
    """One call upstream. `wait_ms`: in the queue, for this attempt; `status`: 0 if no answer came."""

    key: str
    account: str
    outcome: str
    reason: str
    status: int
    wait_ms: float
    ms: float
    upstream_request_id: str


class LimitingRule(msgspec.Struct):
    """A rule of a client (`c/<id>`) or a team (`t/<id>`), as it stood. Amounts: requests, tokens or USD. `wait_s`:
    null, if it never lets such a request through."""

    subject: str
    rule: str
    limit: float
    used: float
    held: float
    needed: float
    wait_s: float | None


class WaitedForRow(msgspec.Struct):
    """What a request waited for, or was refused by: room of `dimension` for a model `group`, `account` having it first;
    or `rules` of its client. `reason`: why it was refused; `wait_s`: until there was room, null: never."""

    group: str
    dimension: str
    account: str
    reason: str
    wait_s: float | None
    rules: list[LimitingRule]


class SavedRow(msgspec.Struct):
    """What the cache saved: calls upstream, tokens, and what they would have cost. `usd`: null if no price is known."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None


class AskedForRow(msgspec.Struct):
    """The room it asked the pool for, granted or not. `group`: whose limits it uses; `tokens`: the estimate that is
    reserved; `priority`: 1 high, -1 batch; `max_wait_s`: how long it would wait; `only`: the one account that has its
    objects, "": any will do."""

    group: str
    tokens: int
    images: int
    priority: int
    max_wait_s: float
    only: str


class RequestRow(msgspec.Struct):
    """One request. `time`: of its arrival, ISO 8601 in UTC; `queue_ms`, `ttfb_ms` (to the first byte), `total_ms` and
    `overhead_ms` are as in its log line. `usd`: null if its price is not known; `certainty`: of the tokens. `source`:
    whose answer it was: `upstream`, `proxy` or `cache`. `cache`: `hit`, `miss`, `coalesced` or `bypass`; "" if there is
    none for it; `kept`: why a miss was not kept, or a bypass not looked up. `asked_for`: null if it never asked for
    room, or an older version kept it. `trace_id`: of the trace that its spans are in; "": they are not kept."""

    id: str
    time: str
    client: str
    endpoint: str
    model: str
    status: int
    code: str
    rules: list[str]
    streamed: bool
    cut: bool
    source: str
    attempts: list[AttemptRow]
    waited_for: WaitedForRow | None
    queue_ms: float
    ttfb_ms: float | None
    total_ms: float
    overhead_ms: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    certainty: str
    usd: float | None
    cache: str
    kept: str
    saved: SavedRow | None
    asked_for: AskedForRow | None
    trace_id: str


class RequestRows(msgspec.Struct):
    """The newest come first."""

    requests: list[RequestRow]


def cache_result(word: str | None) -> CacheResult | None:
    """None: it is none."""
    return next((one for one in get_args(CacheResult) if one == word), None)


def codes(request: KeptRequest) -> set[str]:
    """The proxy's own error code, and upstream's reasons."""
    return {request.code, *(attempt.reason for attempt in request.attempts)} - {""}


def iso(at: float) -> str:
    """Unix seconds as `2026-11-22T20:01:02.345Z`."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def waits_us(attempts: tuple[KeptAttempt, ...]) -> list[int]:
    """How long each attempt waited in the queue: they are kept as sums."""
    before = [0, *(attempt.wait_us for attempt in attempts)]
    return [after - earlier for earlier, after in pairwise(before)]


def row_of(kept: KeptRequest) -> RequestRow:
    waited, first = kept.waited_for, kept.first_byte_us
    return RequestRow(
        id=kept.id,
        time=iso(kept.at),
        client=kept.client,
        endpoint=kept.endpoint,
        model=kept.model,
        status=kept.status,
        code=kept.code,
        rules=list(kept.rules),
        streamed=kept.streamed,
        cut=kept.cut,
        source=kept.source,
        attempts=[
            AttemptRow(
                one.key,
                one.account,
                one.outcome,
                one.reason,
                one.status,
                wait_us / 1000,
                one.took_us / 1000,
                one.upstream_request_id,
            )
            for one, wait_us in zip(kept.attempts, waits_us(kept.attempts), strict=True)
        ],
        waited_for=None
        if waited is None
        else WaitedForRow(
            waited.group,
            waited.dimension,
            waited.account,
            waited.reason,
            waited.wait_s,
            [_rule_row(rule) for rule in waited.rules],
        ),
        queue_ms=kept.queued_us / 1000,
        ttfb_ms=None if first is None else first / 1000,
        total_ms=kept.total_us / 1000,
        overhead_ms=kept.overhead_us / 1000,
        prompt_tokens=kept.prompt,
        cached_tokens=kept.cached,
        completion_tokens=kept.completion,
        certainty=kept.certainty,
        usd=usd_of(kept.pico),
        cache=kept.cache,
        kept=kept.kept,
        saved=None if kept.saved is None else _saved_row(kept.saved),
        asked_for=None if kept.asked_for is None else _asked_for_row(kept.asked_for, kept.model),
        trace_id=kept.trace_id,
    )


def usd_of(pico: int | None) -> float | None:
    """Picodollars in USD; None: not known."""
    return None if pico is None else pico / PICO


def _saved_row(saved: KeptSaved) -> SavedRow:
    return SavedRow(saved.requests, saved.prompt, saved.completion, usd_of(saved.pico))


def _asked_for_row(asked: AskedFor, model: str) -> AskedForRow:
    group = asked.group or model
    return AskedForRow(group, asked.tokens, asked.images, asked.priority, asked.max_wait_s, asked.only)


def _rule_row(rule: RuleAtLimit) -> LimitingRule:
    limit, used, held, needed = (
        amount / unit_of(rule.rule) for amount in (rule.limit, rule.used, rule.held, rule.needed)
    )
    return LimitingRule(rule.subject, rule.rule, limit, used, held, needed, rule.wait_s)


def unit_of(rule: str) -> int:
    """Money is kept in picodollars and shown in USD."""
    return PICO if rule.startswith("usd/") else 1
