"""The observer that turns events into metrics and log lines, all in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from msgspec import UNSET

from quotapool.domain.observer import Observer
from quotapool.domain.quantities import Certainty
from quotapool.domain.request_record import ANONYMOUS, AttemptRecord, RequestRecord, Saved
from quotapool.domain.states import State
from quotapool.domain.subject import Subject
from quotapool.domain.wallet import PICO
from quotapool.observe.labels import OTHER, Labels
from quotapool.observe.metrics import Metrics
from quotapool.observe.request_line import AskedForLine, AttemptLine, RequestLine, SavedLine
from quotapool.observe.request_log import RequestLog, ms, tokens_line

_log = structlog.get_logger()
_MOST_CLIENT_RULES = 200
_NOTHING = Saved()
_CALL_KINDS = {"timeout": "timeout", "closed": "connection", "connect": "connection", "script": "script"}
_STORE_KINDS = {
    **_CALL_KINDS,
    "out_of_memory": "full",
    "disk": "disk",
    "read_only": "read_only",
    "cluster_down": "cluster",
    "replicas": "cluster",
    "login": "rights",
    "permission": "rights",
}
_CACHE_KINDS = {
    **_CALL_KINDS,
    "store": "connection",  # known to be away, so not asked
    **dict.fromkeys(("out_of_memory", "full", "no_room"), "full"),
    **dict.fromkeys(("busy", "late", "too_large"), "dropped"),
    "damaged": "damaged",
}


class Reporter(Observer):
    """The observer of one worker. `spend` prices an attempt, `refused` counts a refusal, `rescued` a request that
    took more than one attempt or waited, `cached` one that the cache is there for, `keep` keeps a request that ended
    (its record, total and overhead in seconds), `traced` and `response_traced` make the spans of one that has a trace;
    the worker sets them once it can."""

    def __init__(self, metrics: Metrics, labels: Labels, requests: RequestLog) -> None:
        self.spend: Callable[[AttemptRecord, RequestRecord], None] = lambda _attempt, _record: None
        self.refused: Callable[[RequestRecord], None] = lambda _record: None
        self.rescued: Callable[[RequestRecord], None] = lambda _record: None
        self.cached: Callable[[RequestRecord], None] = lambda _record: None
        self.keep: Callable[[RequestRecord, float, float], None] | None = None
        self.traced: Callable[[RequestRecord], None] = lambda _record: None
        self.response_traced: Callable[[RequestRecord], None] = lambda _record: None
        self._metrics = metrics
        self._labels = labels
        self._requests = requests
        self._client_rules: set[tuple[str, str]] = set()  # with series of their own

    # ---- requests

    def began(self) -> None:
        self._metrics.requests_in_flight.inc()

    def ended(self, record: RequestRecord) -> None:
        metrics, labels = self._metrics, self._labels
        metrics.requests_in_flight.inc(-1)
        total_s, overhead_s = record.total_s, record.overhead_s
        if record.cache:
            self._count_cache(record)
        tally = metrics.request_tallies[
            labels.endpoint(record.endpoint), labels.model(record.model), record.status, labels.client(record.client)
        ]
        tally.answered.inc()
        if record.code:
            self.event_refused(record)
        for rule in record.beyond:
            metrics.client_excess[self._of_client(record.client, rule)].inc()
        if record.attempts:
            tally.took(total_s, overhead_s)
            if record.first_byte is not None:
                tally.first_byte_after(record.first_byte - record.started)
        if record.queued_s:
            metrics.queue_wait.observe(record.queued_s)
        if record.queued_s or len(record.attempts) > 1:
            self.rescued(record)
        if record.trace is not None:
            self.traced(record)
        if self._requests.enabled:
            self._requests.write(_line(record, total_s, overhead_s))
        if self.keep is not None:
            self.keep(record, total_s, overhead_s)

    def _count_cache(self, record: RequestRecord) -> None:
        metrics = self._metrics
        metrics.cache_requests[record.cache].inc()
        if record.kept:
            metrics.cache_not_kept[record.cache, record.kept].inc()
        saved = record.saved
        if saved is not None and saved != _NOTHING:
            self._labels.upstream_served(record.model)  # when the answer was made
            model = self._labels.model(record.model)
            if saved.requests:
                metrics.cache_saved_requests[model].inc(saved.requests)
            if saved.prompt:
                metrics.cache_saved_tokens[model, "prompt"].inc(saved.prompt)
            if saved.completion:
                metrics.cache_saved_tokens[model, "completion"].inc(saved.completion)
            if saved.pico:
                metrics.cache_saved[model].inc(saved.pico / PICO)
        self.cached(record)

    def response_ended(self, record: RequestRecord) -> None:
        if record.trace is not None:
            self.response_traced(record)
        if self.keep is not None:
            self.keep(record, record.total_s, 0.0)

    def event_refused(self, record: RequestRecord) -> None:
        self._metrics.refusals[record.code].inc()
        self.refused(record)
        for rule in record.rules:
            self._metrics.client_refusals[self._of_client(record.client, rule)].inc()

    def _of_client(self, client: str, rule: str) -> tuple[str, str]:
        """As labels: clients are many, and each may have dozens of rules."""
        name = self._labels.client(client), rule
        if name not in self._client_rules:
            if len(self._client_rules) >= _MOST_CLIENT_RULES:
                return OTHER, OTHER
            self._client_rules.add(name)
        return name

    def attempted(self, attempt: AttemptRecord, record: RequestRecord) -> None:
        labels = self._labels
        key = labels.key(attempt.key, attempt.account)
        tally = self._metrics.attempt_tallies[key, labels.model(record.model), attempt.outcome]
        tally.calls.inc()
        usage = attempt.usage
        if usage is not None and usage.certainty is not Certainty.NOTHING:
            tally.used(usage)
            for model, used in usage.by_tools:
                self._labels.upstream_served(model)
                self._metrics.attempt_tallies[attempt.key, self._labels.model(model), attempt.outcome].used(used)
            self.spend(attempt, record)

    def retrying(self, attempt: AttemptRecord) -> None:
        self._metrics.retries[attempt.outcome].inc()

    def cooled(self, account: str, group: str, reason: str) -> None:
        self._metrics.cooldowns[self._labels.account(account), self._labels.model(group), reason].inc()

    def served(self, model: str) -> None:
        self._labels.upstream_served(model)

    def stream_opened(self, change: int) -> None:
        self._metrics.streams_open.inc(change)

    def session_opened(self, account: str, change: int) -> None:
        self._metrics.websockets_open[self._labels.account(account)].inc(change)

    # ---- money

    def spent(self, account: str, kind: str, usd: float) -> None:
        self._metrics.spend[self._labels.account(account), kind].inc(usd)

    def unpriced(self, model: str, requests: int) -> None:
        self._metrics.unpriced[self._labels.model(model)].inc(requests)

    # ---- admission and store

    def reserved(self, result: str) -> None:
        self._metrics.reservations[result].inc()

    def queue_changed(self, change: int) -> None:
        self._metrics.queue_length.inc(change)

    def store_answered(self, seconds: float, items: int) -> None:  # noqa: ARG002 - items: for batch-size metrics
        self._metrics.store.observe(seconds)

    def store_failed(self, reason: str) -> None:
        self._metrics.store_errors[_STORE_KINDS.get(reason, "other")].inc()

    def cache_failed(self, why: str) -> None:
        self._metrics.cache_failures[_CACHE_KINDS.get(why, "other")].inc()

    def objects_unwritten(self, records: int) -> None:
        self._metrics.objects_unwritten.inc(records)

    def requests_dropped(self, requests: int) -> None:
        self._metrics.requests_dropped.inc(requests)

    def traces_counted(self, result: str, requests: int) -> None:
        """`result`: sent, failed or dropped."""
        self._metrics.traced[result].inc(requests)

    def store_away(self, *, away: bool, why: str = "") -> None:
        if away:
            _log.error("the store is away", why=why, docs="docs/operations.md#the-store-is-down")
        else:
            _log.warning("the store is back")

    # ---- the pool

    def group_learned(self, model: str, group: str) -> None:
        _log.info("upstream says that a model shares a limit", model=model, group=group)

    def same_organization(self, account: str, twin: str) -> None:
        _log.warning(
            "two accounts belong to one OpenAI organisation and share its limits",
            account=account,
            twin=twin,
            remedy="give their keys the same account, or set merge_organizations: true",
        )

    def removals_stopped(self, subject: Subject, reason: str) -> None:
        log_removals_stopped(subject, reason)

    def network_refused(self, *, on: bool, reason: str, first: bool) -> None:
        self._metrics.egress_trouble.set(1 if on else 0)
        if first and on:
            docs = "docs/operations.md#our-network-is-refused"
            _log.error("upstream does not serve our network; no key is at fault", reason=reason, docs=docs)
        elif first:
            _log.warning("upstream serves our network again", reason=reason)

    def policy_refused(self, client: str, reason: str) -> None:
        self._metrics.policy_refusals[self._labels.client(client), reason].inc()

    def client_suspended(self, client: str, refusals: int) -> None:
        _log.error(
            "a client is suspended for policy refusals",
            client=client,
            refusals_within_an_hour=refusals,
            remedy=f"quotapool clients resume {client}",
        )

    def state_changed(self, subject: Subject, state: State, reason: str, details: Mapping[str, Any]) -> None:
        if state is State.REMOVED:
            self._metrics.keys_removed[reason].inc()
        elif state is State.QUARANTINED:
            self._metrics.keys_quarantined[reason].inc()
        log_state(subject, state, reason, details)


def log_state(subject: Subject, state: State, reason: str, details: Mapping[str, Any]) -> None:
    """One line for a key, an account or an organisation that has a new state."""
    kind = subject.kind or "subject"
    log = _log.info if state is State.ACTIVE else _log.warning
    log(f"{kind} is {state}", **{kind: subject.id}, reason=reason, **details)


def log_removals_stopped(subject: Subject, reason: str) -> None:
    """The one line about a burst of failing keys."""
    _log.error(
        "too many keys failed within a minute: no more are removed, they only rest",
        last=str(subject),
        reason=reason,
        docs="docs/operations.md#many-keys-fail-at-once",
    )


def _line(record: RequestRecord, total_s: float, overhead_s: float) -> RequestLine:
    used = None
    queued = 0.0
    attempts = []
    for attempt in record.attempts:
        attempts.append(
            AttemptLine(attempt.key, attempt.outcome, ms(attempt.waited_s - queued), attempt.status, ms(attempt.took_s))
        )
        queued = attempt.waited_s
        used = attempt.usage
    line = RequestLine(
        ts=datetime.now(UTC),  # the default is the same, but takes twice as long
        request_id=record.id,
        client=record.client or ("anonymous" if record.client == ANONYMOUS else ""),
        endpoint=record.endpoint or "-",
        model=record.model,
        status=record.status,
        code=record.code or UNSET,
        attempts=attempts,
        tokens=tokens_line(used) if used is not None else None,
        queue_ms=ms(record.queued_s),
        ttfb_ms=ms(record.first_byte - record.started) if record.first_byte is not None else None,
        total_ms=ms(total_s),
        overhead_ms=ms(overhead_s),
        source="client" if record.cut and record.status == 499 else record.source,
    )
    if record.trace is not None:
        line.trace_id, line.span_id = f"{record.trace.trace_id:032x}", f"{record.trace.span_id:016x}"
    asked = record.asked_for
    if asked is not None:
        line.asked_for = AskedForLine(
            asked.tokens, asked.max_wait_s, asked.group, asked.images, asked.priority, asked.only
        )
        pico = record.pico
        if pico != 0:
            line.usd = None if pico is None else pico / PICO
    if record.waited_for is not None:
        line.waited_for = record.waited_for.words
    if record.cache:
        line.cache = record.cache
        if record.kept:
            line.kept = record.kept
        saved = record.saved
        if saved is not None:
            usd = None if saved.pico is None else saved.pico / PICO
            line.saved = SavedLine(saved.requests, saved.prompt, saved.completion, usd)
    if record.beyond:
        line.beyond = record.beyond
    if record.code:
        line.code = record.code
        line.rules = record.rules or UNSET
        if record.about:
            line.about = record.about
    return line
