"""What the parts observe becomes metrics and log lines here, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from quotapool.domain.observer import Observer
from quotapool.domain.quantities import Certainty
from quotapool.domain.request_record import ANONYMOUS, AttemptRecord, RequestRecord
from quotapool.domain.states import State
from quotapool.domain.subject import Subject
from quotapool.observe.labels import Labels
from quotapool.observe.metrics import Metrics
from quotapool.observe.request_log import AttemptLine, RequestLine, RequestLog, ms, tokens_line

_log = structlog.get_logger()
_STORE_KINDS = {"timeout": "timeout", "closed": "connection", "connect": "connection", "script": "script"}


class Reporter(Observer):
    """What one worker's parts observe."""

    def __init__(self, metrics: Metrics, labels: Labels, requests: RequestLog) -> None:
        self.spend: Callable[[AttemptRecord, RequestRecord], None] = lambda _leg, _trip: (
            None
        )  # who prices attempts, once it is there
        self._metrics = metrics
        self._labels = labels
        self._requests = requests

    # ---- requests

    def began(self) -> None:
        self._metrics.requests_in_flight.inc()

    def ended(self, trip: RequestRecord) -> None:
        metrics, labels = self._metrics, self._labels
        metrics.requests_in_flight.inc(-1)
        total_s, overhead_s = trip.total_s, trip.overhead_s
        tally = metrics.request_tallies[
            labels.endpoint(trip.endpoint), labels.model(trip.model), trip.status, labels.client(trip.client)
        ]
        tally.answered.inc()
        if trip.code:
            metrics.refusals[trip.code].inc()
        if trip.attempts:
            tally.took(total_s, overhead_s)
            if trip.first_byte is not None:
                tally.first_byte_after(trip.first_byte - trip.started)
        if trip.queued_s:
            metrics.queue_wait.observe(trip.queued_s)
        if self._requests.enabled:
            self._requests.write(_line(trip, total_s, overhead_s))

    def attempted(self, leg: AttemptRecord, trip: RequestRecord) -> None:
        tally = self._metrics.attempt_tallies[leg.key, self._labels.model(trip.model), leg.outcome]
        tally.calls.inc()
        usage = leg.usage
        if usage is not None and usage.certainty is not Certainty.NOTHING:
            tally.used(usage)
            self.spend(leg, trip)

    def retrying(self, leg: AttemptRecord) -> None:
        self._metrics.retries[leg.outcome].inc()

    def cooled(self, account: str, group: str, reason: str) -> None:
        self._metrics.cooldowns[account, self._labels.model(group), reason].inc()

    def served(self, model: str) -> None:
        self._labels.upstream_served(model)

    def stream_opened(self, change: int) -> None:
        self._metrics.streams_open.inc(change)

    def session_opened(self, account: str, change: int) -> None:
        self._metrics.websockets_open[account].inc(change)

    # ---- money

    def spent(self, account: str, kind: str, usd: float) -> None:
        self._metrics.spend[account, kind].inc(usd)

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

    def objects_unwritten(self, records: int) -> None:
        self._metrics.objects_unwritten.inc(records)

    def store_away(self, *, away: bool) -> None:
        if away:
            _log.error("the store is away", docs="docs/operations.md#the-store-is-down")
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
            _log.error("upstream does not serve our network; no key is to blame", reason=reason, docs=docs)
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
    """One line for a key, an account or an organisation that has another state."""
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


def _line(trip: RequestRecord, total_s: float, overhead_s: float) -> RequestLine:
    used = None
    queued = 0.0
    attempts = []
    for leg in trip.attempts:
        attempts.append(AttemptLine(leg.key, leg.outcome, ms(leg.waited_s - queued), leg.status, ms(leg.took_s)))
        queued = leg.waited_s
        used = leg.usage
    return RequestLine(
        ts=datetime.now(UTC),  # by default it would be the same, at twice the price
        request_id=trip.id,
        client=trip.client or ("anonymous" if trip.client == ANONYMOUS else ""),
        endpoint=trip.endpoint or "-",
        model=trip.model,
        status=trip.status,
        attempts=attempts,
        tokens=tokens_line(used) if used is not None else None,
        queue_ms=ms(trip.queued_s),
        ttfb_ms=ms(trip.first_byte - trip.started) if trip.first_byte is not None else None,
        total_ms=ms(total_s),
        overhead_ms=ms(overhead_s),
        source="client" if trip.cut and trip.status == 499 else trip.source,
    )
