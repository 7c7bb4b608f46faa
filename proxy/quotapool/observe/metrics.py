"""Every metric that the proxy exports: workers count in `Metrics`, the supervisor fills `PoolMetrics`.

Call `shared_values.install` before creating `Metrics`. `docs/metrics.md` describes these metrics to operators, and a
test keeps the two equal. Values of `model`, `client` and `endpoint` come from `labels.Labels`, which bounds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from quotapool.domain.quantities import Certainty
from quotapool.domain.verdict import Kind
from quotapool.observe.families import Declaration, Declare, Family, GaugeRows
from quotapool.observe.series import Counts, Observes
from quotapool.observe.tallies import AttemptTallies, RequestTallies

# A language model answers in milliseconds (embeddings) to ten minutes (reasoning).
ANSWER_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
# Our own work and the store's: 100 microseconds to one second.
WORK_BUCKETS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
QUEUE_BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0)

# Outcomes of an upstream attempt: the kind of answer, or why there was none.
NETWORK: Final = "network"  # no answer: refused, reset, timed out, cut
CANCELLED: Final = "cancelled"  # the client left first
OUTCOMES: Final = (*(kind.value for kind in Kind), NETWORK, CANCELLED)

# `*_local`: decided by this replica alone while the store is unavailable.
RESERVATION_RESULTS: Final = ("granted", "refused", "granted_local", "refused_local")
STORE_ERRORS: Final = ("timeout", "connection", "full", "disk", "read_only", "cluster", "rights", "script", "other")
EXITED: Final = "exited"  # a worker by itself, or by a signal that was not ours
HUNG: Final = "hung"  # it sent no heartbeat, and was killed
SUPERVISOR: Final = "supervisor"
WORKER: Final = "worker"
RELOAD_RESULTS: Final = ("ok", "refused")
CACHE_RESULTS: Final = ("hit", "miss", "coalesced", "bypass")
TRACE_RESULTS: Final = ("sent", "failed", "dropped")
CACHE_FAILURES: Final = ("timeout", "connection", "script", "full", "dropped", "damaged", "other")


class Metrics:
    """What one worker counts. Families are indexed by label values: `metrics.requests[e, m, 200, c].inc()`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        new = Declare(registry)
        self.requests: Family[tuple[str, str, int, str], Counts] = new.counter(
            "requests_total",
            "endpoint model status client",
            "requests",
            "Requests answered to clients.",
        )
        self.requests_in_flight: Counts = new.plain_level(
            "requests_in_flight", "requests", "Requests accepted and not yet fully answered."
        )
        self.streams_open: Counts = new.plain_level("streams_open", "streams", "Answers being streamed to clients.")
        self.websockets_open: Family[str, Counts] = new.gauge(
            "websockets_open", "account", "sessions", "WebSocket sessions open, by the account they run on."
        )
        self.tokens: Family[tuple[str, str, str], Counts] = new.counter(
            "tokens_total",
            "key model kind",
            "tokens",
            "Tokens used upstream; cached_prompt and reasoning are parts of prompt and completion.",
        )
        self.settled_tokens: Family[str, Counts] = new.counter(
            "settled_tokens_total", "certainty", "tokens", "Tokens settled, by how well their number is known."
        )
        self.attempts: Family[tuple[str, str, str], Counts] = new.counter(
            "upstream_attempts_total", "key model outcome", "attempts", "Calls made upstream."
        )
        self.retries: Family[str, Counts] = new.counter(
            "retries_total", "reason", "attempts", "Requests sent again, by what went wrong before."
        )
        self.time_to_first_byte: Family[tuple[str, str], Observes] = new.histogram(
            "time_to_first_byte_seconds",
            "endpoint model",
            ANSWER_BUCKETS,
            "From the request's arrival to the first byte of the answer.",
        )
        self.duration: Family[tuple[str, str], Observes] = new.histogram(
            "request_duration_seconds",
            "endpoint model",
            ANSWER_BUCKETS,
            "From the request's arrival to the last byte of the answer.",
        )
        self.overhead: Family[str, Observes] = new.histogram(
            "proxy_overhead_seconds",
            "endpoint",
            WORK_BUCKETS,
            "The proxy's own part of the time: neither queue nor upstream.",
        )
        self.event_loop_lag: Gauge = new.plain_gauge(
            "event_loop_lag_seconds",
            "seconds",
            "The latest that a timer of the slowest worker fired within 15 seconds.",
            "livemax",
        )
        self.reservations: Family[str, Counts] = new.counter(
            "reservations_total", "result", "reservations", "Reservations of budget, by their result."
        )
        self.refusals: Family[str, Counts] = new.counter(
            "refusals_total", "reason", "requests", "Requests the proxy itself refused, by error code."
        )
        self.client_refusals: Family[tuple[str, str], Counts] = new.counter(
            "client_refusals_total", "client rule", "requests", "Requests that a client's own limit or budget refused."
        )
        self.client_excess: Family[tuple[str, str], Counts] = new.counter(
            "client_excess_total", "client rule", "requests", "Requests served beyond a soft or shadow budget."
        )
        self.queue_length: Counts = new.plain_level("queue_length", "requests", "Requests waiting for a budget.")
        self.queue_wait: Observes = new.plain_histogram(
            "queue_wait_seconds", QUEUE_BUCKETS, "How long queued requests waited."
        )
        self.cooldowns: Family[tuple[str, str, str], Counts] = new.counter(
            "cooldowns_total",
            "account model reason",
            "cool-downs",
            "Times an account had to cool down for a model group.",
        )
        self.keys_removed: Family[str, Counts] = new.counter(
            "keys_removed_total", "reason", "keys", "Keys taken out as dead."
        )
        self.keys_quarantined: Family[str, Counts] = new.counter(
            "keys_quarantined_total", "reason", "keys", "Keys set aside as out of money."
        )
        self.policy_refusals: Family[tuple[str, str], Counts] = new.counter(
            "policy_refusals_total", "client reason", "requests", "Requests refused upstream for their content."
        )
        self.egress_trouble: Gauge = new.plain_gauge(
            "egress_trouble", "0 or 1", "1 while upstream does not serve our network, whichever key is used.", "livemax"
        )
        self.spend: Family[tuple[str, str], Counts] = new.counter(
            "spend_usd_total", "account kind", "USD", "What calls cost, by how well it is known: exact or estimated."
        )
        self.unpriced: Family[str, Counts] = new.counter(
            "unpriced_requests_total", "model", "requests", "Requests whose model or service tier has no known price."
        )
        self.cache_requests: Family[str, Counts] = new.counter(
            "cache_requests_total", "result", "requests", "Requests that the cache is there for, by what it did."
        )
        self.cache_not_kept: Family[tuple[str, str], Counts] = new.counter(
            "cache_not_kept_total",
            "result reason",
            "requests",
            "Misses whose answer was not kept, and requests that were not looked up, by the reason.",
        )
        self.cache_saved_requests: Family[str, Counts] = new.counter(
            "cache_saved_requests_total", "model", "requests", "Calls upstream that the cache spared."
        )
        self.cache_saved_tokens: Family[tuple[str, str], Counts] = new.counter(
            "cache_saved_tokens_total", "model kind", "tokens", "Tokens that the cache spared."
        )
        self.cache_saved: Family[str, Counts] = new.counter(
            "cache_saved_usd_total", "model", "USD", "What those calls would have cost, as far as prices are known."
        )
        self.cache_failures: Family[str, Counts] = new.counter(
            "cache_failures_total", "reason", "times", "Times the cache did without the store, or without an entry."
        )
        self.store: Observes = new.plain_histogram(
            "store_seconds", WORK_BUCKETS, "One call to the store, as the request path sees it."
        )
        self.store_errors: Family[str, Counts] = new.counter(
            "store_errors_total", "kind", "calls", "Calls to the store that failed."
        )
        self.objects_unwritten: Counts = new.plain_counter(
            "objects_unwritten_total", "records", "Owners of stored objects that could not be written at once."
        )
        self.requests_dropped: Counts = new.plain_counter(
            "requests_dropped_total", "requests", "Requests that are not kept for `quotapool logs`: the store was away."
        )
        self.traced: Family[str, Counts] = new.counter(
            "traced_requests_total",
            "result",
            "requests",
            "Requests whose spans were kept, by what became of them: sent to the collector, failed or dropped.",
        )
        self.declared: tuple[Declaration, ...] = tuple(new.declared)
        self._start_at_zero()
        self.request_tallies = RequestTallies(self)
        self.attempt_tallies = AttemptTallies(self)

    def _start_at_zero(self) -> None:
        """`rate()` misses the first event of a series that starts at 1, so the known ones are created at 0."""
        for family, values in (
            (self.reservations, RESERVATION_RESULTS),
            (self.store_errors, STORE_ERRORS),
            (self.settled_tokens, tuple(Certainty)),
            (self.retries, (Kind.WAIT, Kind.MONEY, Kind.DEAD, Kind.SERVICE, NETWORK)),
            (self.cache_requests, CACHE_RESULTS),
            (self.cache_failures, CACHE_FAILURES),
            (self.traced, TRACE_RESULTS),
        ):
            for value in values:
                family[value]


class PoolMetrics:
    """What the supervisor shows at scrape: the pool as it is in the store, and the supervisor's processes.

    `/metrics` is `text()` plus what the workers counted (`shared_text.py`).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        new = Declare(registry)
        self.key_state: GaugeRows[tuple[str, str, str]] = new.gauge_rows(
            "key_state", "key account state", "0 or 1", "1 for the state a key is in, 0 for the others."
        )
        self.keys: GaugeRows[str] = new.gauge_rows("keys", "state", "keys", "Keys in each state.")
        self.bucket_level: GaugeRows[tuple[str, str, str]] = new.gauge_rows(
            "bucket_level",
            "account model dimension",
            "requests, tokens or images",
            "What is left of a budget now; below zero is debt.",
        )
        self.bucket_limit: GaugeRows[tuple[str, str, str]] = new.gauge_rows(
            "bucket_limit",
            "account model dimension",
            "requests, tokens or images",
            "The budget in force, per minute or per day.",
        )
        self.bucket_upstream_limit: GaugeRows[tuple[str, str, str]] = new.gauge_rows(
            "bucket_upstream_limit",
            "account model dimension",
            "requests, tokens or images",
            "What upstream allows, if the configuration sets a lower limit.",
        )
        self.cooldown: GaugeRows[tuple[str, str]] = new.gauge_rows(
            "cooldown_seconds",
            "account model",
            "seconds",
            "How long an account still has to cool down for a model group.",
        )
        self.outside_requests: GaugeRows[tuple[str, str]] = new.gauge_rows(
            "outside_use_requests_per_minute",
            "account model",
            "requests per minute",
            "What others than this pool use of an account that is known to be used by them.",
        )
        self.outside_tokens: GaugeRows[tuple[str, str]] = new.gauge_rows(
            "outside_use_tokens_per_minute", "account model", "tokens per minute", "The same in tokens."
        )
        self.removals_stopped: Counts = new.plain_counter(
            "removals_stopped_total", "keys", "Removals that the brake turned into a rest."
        )
        self.probes: Family[tuple[str, str], Counts] = new.counter(
            "probes_total", "purpose result", "probes", "Calls made to find out whether a resting key works again."
        )
        self.credit: GaugeRows[str] = new.gauge_rows(
            "credit_remaining_usd", "account", "USD", "Credit that an account has left of its known grants."
        )
        self.credit_empty_at: GaugeRows[str] = new.gauge_rows(
            "credit_empty_timestamp_seconds",
            "account",
            "Unix seconds",
            "When an account's credit will be gone at the pace of the last seven days.",
        )
        self.credit_expiring: GaugeRows[str] = new.gauge_rows(
            "credit_expiring_unused_usd", "account", "USD", "Credit that will expire unused at this pace."
        )
        self.month_spent: GaugeRows[str] = new.gauge_rows(
            "month_spend_usd", "account", "USD", "Spent since the first of the month (UTC)."
        )
        self.month_limit: GaugeRows[str] = new.gauge_rows(
            "month_limit_usd", "account", "USD", "The configured monthly limit."
        )
        self.client_rule_used: GaugeRows[tuple[str, str]] = new.gauge_rows(
            "client_rule_used",
            "subject rule",
            "USD, tokens or requests",
            "What a client or team has used of a limit or budget, with what requests under way hold.",
        )
        self.client_rule_limit: GaugeRows[tuple[str, str]] = new.gauge_rows(
            "client_rule_limit", "subject rule", "USD, tokens or requests", "That limit or budget."
        )
        self.client_expires: GaugeRows[str] = new.gauge_rows(
            "client_expires_timestamp_seconds",
            "client",
            "Unix seconds",
            "When a client is refused from, for those whose end comes within 14 days.",
        )
        self.cache_entries: Gauge = new.plain_gauge("cache_entries", "entries", "Answers that the pool's cache keeps.")
        self.cache_bytes: Gauge = new.plain_gauge(
            "cache_bytes", "bytes", "What they take in the store, by the cache's own accounting."
        )
        self.cache_limit: Gauge = new.plain_gauge(
            "cache_limit_bytes", "bytes", "What they may take: cache.max_size; 0: there is no cache."
        )
        self.cache_evicted: Counts = new.plain_counter(
            "cache_evicted_total", "entries", "Answers that left the cache before their time, to make room."
        )
        self.cache_expired: Counts = new.plain_counter(
            "cache_expired_total", "entries", "Answers that left the cache because their time was over."
        )
        self.spent_today: Gauge = new.plain_gauge(
            "spend_today_usd", "USD", "What the pool spent since midnight in spend.time_zone."
        )
        self.daily_limit: Gauge = new.plain_gauge(
            "daily_limit_usd", "USD", "What the pool may spend in a day; 0: no limit."
        )
        self.alerts: Family[tuple[str, str], Counts] = new.counter(
            "alert_messages_total", "target result", "messages", "Messages to alert targets: sent, failed or dropped."
        )
        self.store_up: Gauge = new.plain_gauge("store_up", "0 or 1", "1 while the store runs a script that writes.")
        self.store_memory: Gauge = new.plain_gauge(
            "store_memory_bytes", "bytes", "What the store uses, by its own count; in a cluster the fullest primary."
        )
        self.store_memory_limit: Gauge = new.plain_gauge(
            "store_memory_limit_bytes", "bytes", "What it may use (maxmemory); 0: no limit, or it does not say."
        )
        self.store_shared: Gauge = new.plain_gauge(
            "store_shared", "0 or 1", "1 if other replicas can share the store, 0 if it is embedded."
        )
        self.locked_keys: Gauge = new.plain_gauge(
            "locked_keys", "keys", "Keys that were added at run time and cannot be opened: another master key."
        )
        self.workers: Gauge = new.plain_gauge("workers", "processes", "Workers that are ready and send heartbeats.")
        self.workers_configured: Gauge = new.plain_gauge(
            "workers_configured", "processes", "Workers that there should be."
        )
        self.worker_restarts: Family[str, Counts] = new.counter(
            "worker_restarts_total",
            "reason",
            "processes",
            "Workers that exited, or hung and were killed, and were replaced.",
        )
        self.cpu: Family[str, Counts] = new.counter(
            "cpu_seconds_total", "process", "seconds", "Processor time of the supervisor and of all workers."
        )
        self.memory: GaugeRows[str] = new.gauge_rows(
            "memory_bytes", "process", "bytes", "Resident memory of the supervisor and of all workers."
        )
        self.open_files: GaugeRows[str] = new.gauge_rows(
            "open_files",
            "process",
            "descriptors",
            "Open files and connections of the supervisor and of the worker with most.",
        )
        self.open_files_limit: Gauge = new.plain_gauge(
            "open_files_limit", "descriptors", "How many each process may have open."
        )
        self.started: Gauge = new.plain_gauge("start_timestamp_seconds", "Unix seconds", "When the supervisor started.")
        self.config_reloads: Family[str, Counts] = new.counter(
            "config_reloads_total", "result", "reloads", "Attempts to load a changed configuration."
        )
        self.build_info: GaugeRows[tuple[str, str, str]] = new.gauge_rows(
            "build_info",
            "version python compiled",
            "1",
            "Always 1; the labels have versions and build.",
        )
        self.declared: tuple[Declaration, ...] = tuple(new.declared)
        self._registry = registry
        self._rows = tuple(new.rows)
        for result in RELOAD_RESULTS:
            self.config_reloads[result]
        for reason in (EXITED, HUNG):
            self.worker_restarts[reason]

    def text(self) -> Iterator[str]:
        """Piece by piece, in the text format."""
        yield generate_latest(self._registry).decode()
        for rows in self._rows:
            yield from rows.text()
