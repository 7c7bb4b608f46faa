"""Dashboard "Store and process": are all replicas there and well, is the store quick, and what fills up?"""

from __future__ import annotations

from typing import Final

from parts import INSTANCE, JOB, Page, Row, better_from, graph, stat, table, worse_from

_JOB: Final = 'job=~"$job"'
_HERE: Final = 'job=~"$job", instance=~"$instance"'


def _quantile(q: float, metric: str, by: str = "") -> str:
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}{{{_HERE}}}[$__rate_interval])))"


REPLICAS: Final = Row(
    "The replicas",
    [
        stat(
            "Replicas",
            "That are scraped.",
            f"count(max by (job, instance) (quotapool_build_info{{{_JOB}}}))",
            runbook="a-replica-vanished",
        ),
        stat(
            "Workers that serve",
            "Of those that there should be.",
            f"sum(quotapool_workers{{{_HERE}}}) / sum(quotapool_workers_configured{{{_HERE}}})",
            "percentunit",
            runbook="a-worker-hangs",
            steps=better_from(0.5, 1),
            max=1,
        ),
        stat(
            "Store",
            "Replicas whose supervisor can write there.",
            f"sum(quotapool_store_up{{{_HERE}}}) / count(quotapool_store_up{{{_HERE}}})",
            "percentunit",
            runbook="the-store-is-down",
            steps=better_from(0.5, 1),
            max=1,
        ),
        stat(
            "Embedded stores",
            "Replicas that have a store of their own. One is right alone; two of a pool oversell.",
            f"count(quotapool_store_shared{{{_JOB}}} == 0) or vector(0)",
            width=3,
            runbook="the-store-is-not-shared",
            steps=worse_from(2, 2),
        ),
        stat(
            "Decided without the store",
            "Reservations a second that a replica decided alone.",
            f'sum(rate(quotapool_reservations_total{{{_HERE}, result=~".*_local"}}[$__rate_interval]))',
            "reqps",
            width=3,
            runbook="budgets-without-the-store",
            steps=worse_from(0.001, 1),
        ),
        stat(
            "Own time",
            "Of the proxy: one request in a hundred spends more, queue and upstream apart.",
            _quantile(0.99, "quotapool_proxy_overhead_seconds_bucket"),
            "s",
            width=3,
            runbook="the-proxy-is-slow",
            steps=worse_from(0.01, 0.05),
        ),
        stat(
            "Lag",
            "Of the event loop of the slowest worker, the worst of the last 15 seconds.",
            f"max(quotapool_event_loop_lag_seconds{{{_HERE}}})",
            "s",
            width=3,
            runbook="the-event-loop-lags",
            steps=worse_from(0.1, 0.25),
        ),
        table(
            "Versions",
            "`compiled`: 1 for the build with machine code.",
            f"max by (job, instance, version, python, compiled) (quotapool_build_info{{{_HERE}}})",
            {
                "job": "job",
                "instance": "instance",
                "version": "version",
                "python": "Python",
                "compiled": "compiled",
                "Value": "",
            },
        ),
        table(
            "Running for",
            "Since the supervisor started.",
            f"time() - max by (job, instance) (quotapool_start_timestamp_seconds{{{_HERE}}})",
            {"job": "job", "instance": "instance", "Value": "for"},
            unit="s",
            runbook="the-proxy-is-down",
        ),
        graph(
            "Workers",
            "That serve, and that there should be.",
            (f"sum by (instance) (quotapool_workers{{{_HERE}}})", "{{instance}}"),
            (f"sum by (instance) (quotapool_workers_configured{{{_HERE}}})", "{{instance}}, configured"),
            decimals=0,
            runbook="a-worker-hangs",
        ),
        graph(
            "Workers replaced",
            "In each ten minutes. `hung`: no heartbeat for 20 s, so it was killed.",
            (
                f"sum by (instance, reason) (increase(quotapool_worker_restarts_total{{{_HERE}}}[10m]))",
                "{{instance}}: {{reason}}",
            ),
            runbook="workers-restart",
        ),
        graph(
            "Reloads",
            "In each ten minutes.",
            (f"sum by (result) (increase(quotapool_config_reloads_total{{{_HERE}}}[10m]))", "{{result}}"),
            runbook="a-configuration-was-refused",
        ),
        graph(
            "Alert messages",
            "To the targets of `alerts.targets`, in each ten minutes.",
            (
                f"sum by (target, result) (increase(quotapool_alert_messages_total{{{_HERE}}}[10m]))",
                "{{target}}: {{result}}",
            ),
            runbook="alerts-do-not-arrive",
        ),
    ],
)

STORE: Final = Row(
    "The store",
    [
        graph(
            "A call to the store",
            "As the request path sees it. Calls are given up after 250 ms.",
            *((_quantile(q, "quotapool_store_seconds_bucket"), name) for q, name in ((0.5, "median"), (0.99, "99 %"))),
            unit="s",
            runbook="the-store-is-slow",
            line=0.05,
        ),
        graph(
            "Calls that failed",
            "A second, by the way they failed.",
            (f"sum by (kind) (rate(quotapool_store_errors_total{{{_HERE}}}[$__rate_interval]))", "{{kind}}"),
            unit="cps",
            runbook="the-store-has-errors",
        ),
        graph(
            "Reservations",
            "A second. `…_local`: decided by a replica alone while the store is away.",
            (f"sum by (result) (rate(quotapool_reservations_total{{{_HERE}}}[$__rate_interval]))", "{{result}}"),
            unit="cps",
            runbook="budgets-without-the-store",
        ),
        graph(
            "Memory",
            "What the store uses, what of it is the cache's, and what it may use (0: no limit).",
            (f"max by (job) (quotapool_store_memory_bytes{{{_JOB}}})", "{{job}}: used"),
            (f"max by (job) (quotapool_cache_bytes{{{_JOB}}})", "{{job}}: of it the cache"),
            (f"max by (job) (quotapool_store_memory_limit_bytes{{{_JOB}}})", "{{job}}: limit"),
            unit="bytes",
            runbook="the-store-is-full",
        ),
        graph(
            "The cache's room",
            "What its entries take, and may take.",
            (f"max by (job) (quotapool_cache_bytes{{{_JOB}}})", "{{job}}: used"),
            (f"max by (job) (quotapool_cache_limit_bytes{{{_JOB}}})", "{{job}}: limit"),
            unit="bytes",
            runbook="the-cache-hits-seldom",
        ),
        graph(
            "Cache entries",
            "Kept, and left in each ten minutes. Evicted ones made room: the cache is too small.",
            (f"max(quotapool_cache_entries{{{_JOB}}})", "kept"),
            (f"max(increase(quotapool_cache_evicted_total{{{_JOB}}}[10m]))", "evicted"),
            (f"max(increase(quotapool_cache_expired_total{{{_JOB}}}[10m]))", "expired"),
            runbook="the-cache-hits-seldom",
        ),
        graph(
            "The cache fails",
            "Times a second that it did without the store, or without an entry.",
            (f"sum by (reason) (rate(quotapool_cache_failures_total{{{_HERE}}}[$__rate_interval]))", "{{reason}}"),
            unit="cps",
            runbook="the-cache-fails",
        ),
        graph(
            "Written late, or not",
            "In each ten minutes. Owners of stored objects are written once the store is back; requests "
            "for `quotapool logs` are lost.",
            (f"sum(increase(quotapool_objects_unwritten_total{{{_HERE}}}[10m]))", "owners of objects"),
            (f"sum(increase(quotapool_requests_dropped_total{{{_HERE}}}[10m]))", "kept requests"),
            runbook="the-store-is-down",
        ),
    ],
)

PROCESS: Final = Row(
    "The processes",
    [
        graph(
            "The proxy's own time, by endpoint",
            "One request in a hundred spends more, queue and upstream apart.",
            (_quantile(0.99, "quotapool_proxy_overhead_seconds_bucket", "endpoint"), "{{endpoint}}"),
            unit="s",
            runbook="the-proxy-is-slow",
            line=0.05,
        ),
        graph(
            "Event loop lag",
            "Of the slowest worker of each replica.",
            (f"max by (instance) (quotapool_event_loop_lag_seconds{{{_HERE}}})", "{{instance}}"),
            unit="s",
            runbook="the-event-loop-lags",
            line=0.25,
        ),
        graph(
            "Processor time",
            "Cores that are busy.",
            (
                f"sum by (instance, process) (rate(quotapool_cpu_seconds_total{{{_HERE}}}[$__rate_interval]))",
                "{{instance}} {{process}}",
            ),
            runbook="the-event-loop-lags",
        ),
        graph(
            "Memory of the processes",
            "Resident; all workers of a replica together.",
            (f"sum by (instance, process) (quotapool_memory_bytes{{{_HERE}}})", "{{instance}} {{process}}"),
            unit="bytes",
            stacked=True,
            runbook="a-worker-is-full",
        ),
        graph(
            "Open files",
            "Connections and files of the supervisor and of the worker with most, as a share of what each may have.",
            (
                (
                    f"max by (instance, process) (quotapool_open_files{{{_HERE}}}"
                    f" / on (job, instance) group_left () quotapool_open_files_limit{{{_HERE}}})"
                ),
                "{{instance}} {{process}}",
            ),
            unit="percentunit",
            runbook="open-files-run-out",
            line=0.8,
        ),
        graph(
            "Under way",
            "Requests that are being served or wait.",
            (f"sum by (instance) (quotapool_requests_in_flight{{{_HERE}}})", "{{instance}}"),
            runbook="a-worker-is-full",
        ),
        graph(
            "Traces",
            "Requests whose spans were kept. `failed`, `dropped`: the collector refuses them, or is too slow.",
            (
                f"sum by (result) (rate(quotapool_traced_requests_total{{{_HERE}}}[$__rate_interval]))",
                "{{result}}",
            ),
            unit="reqps",
        ),
    ],
)

PAGE: Final = Page(
    "quotapool-store-and-process",
    "Quotapool: store and process",
    "Are all replicas there and well, is the store quick, and what fills up?",
    [JOB, INSTANCE],
    [REPLICAS, STORE, PROCESS],
)
