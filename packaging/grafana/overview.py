"""Dashboard "Overview": is the pool well, do clients get answers, and what runs short?"""

from __future__ import annotations

from typing import Final

from parts import JOB, Page, Row, Variable, better_from, graph, stat, table, worse_from

_JOB: Final = 'job=~"$job"'
_MODEL: Final = 'job=~"$job", model=~"$model"'
_REQUESTS: Final = f"quotapool_requests_total{{{_MODEL}}}"


def _share_of(status: str) -> str:
    """Of requests, by their status; 0 where there were none with it."""
    of_it = f'sum(rate(quotapool_requests_total{{{_MODEL}, status=~"{status}"}}[$__rate_interval]))'
    return f"({of_it} or vector(0)) / sum(rate({_REQUESTS}[$__rate_interval]))"


def _level(metric: str) -> str:
    """Of a budget: once for all replicas, since they share it. Not by the chosen model: budgets are of model groups."""
    return f"max by (job, account, model, dimension) ({metric}{{{_JOB}}})"


_HEADROOM: Final = (
    f"sum by (model, dimension) ({_level('quotapool_bucket_level')})"
    f" / sum by (model, dimension) ({_level('quotapool_bucket_limit')} > 0)"
)


def _quantile(q: float, metric: str) -> str:
    return f"histogram_quantile({q}, sum by (le) (rate({metric}[$__rate_interval])))"


NOW: Final = Row(
    "Now",
    [
        stat("Requests", "Answered to clients, a second.", f"sum(rate({_REQUESTS}[$__rate_interval]))", "reqps"),
        stat(
            "Refused with 429",
            "Share of requests. Above 1 % for ten minutes an alert comes.",
            _share_of("429"),
            "percentunit",
            runbook="clients-see-429",
            steps=worse_from(0.001, 0.01),
        ),
        stat(
            "Answered with 5xx",
            "Share of requests: upstream failed for good, no key can serve, or the proxy is overloaded.",
            _share_of("5.."),
            "percentunit",
            runbook="upstream-is-failing",
            steps=worse_from(0.005, 0.05),
        ),
        stat(
            "Waiting",
            "Requests that wait for a budget.",
            f"sum(quotapool_queue_length{{{_JOB}}})",
            runbook="the-queue-is-slow",
            steps=worse_from(100, 1000),
        ),
        stat(
            "Usable keys",
            "Share of the pool's keys that can serve. The dashboard Keys says which cannot.",
            f'sum(max by (job) (quotapool_keys{{{_JOB}, state="active"}}))'
            f" / sum(max by (job, state) (quotapool_keys{{{_JOB}}}))",
            "percentunit",
            runbook="no-usable-key",
            steps=better_from(0.5, 0.9),
        ),
        stat(
            "Spent today",
            "By all accounts since midnight in `spend.time_zone`.",
            f"sum(max by (job) (quotapool_spend_today_usd{{{_JOB}}}))",
            "currencyUSD",
            runbook="the-day-is-spent",
            decimals=2,
        ),
    ],
)

CLIENTS: Final = Row(
    "What clients see",
    [
        graph(
            "Answers by status",
            "A second. 499: the client left first.",
            (f"sum by (status) (rate({_REQUESTS}[$__rate_interval]))", "{{status}}"),
            unit="reqps",
            stacked=True,
            runbook="clients-see-429",
        ),
        graph(
            "Time to the first byte",
            "From a request's arrival, waits and upstream included; requests that went upstream.",
            *(
                (_quantile(q, f"quotapool_time_to_first_byte_seconds_bucket{{{_MODEL}}}"), name)
                for q, name in ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))
            ),
            unit="s",
            runbook="the-queue-is-slow",
        ),
        graph(
            "Waiting for budget",
            "How many wait, and how long one in a hundred of those that had to wait waited.",
            (f"sum(quotapool_queue_length{{{_JOB}}})", "requests"),
            (_quantile(0.99, f"quotapool_queue_wait_seconds_bucket{{{_JOB}}}"), "99 %, seconds"),
            runbook="the-queue-is-slow",
        ),
        graph(
            "Refused by the proxy",
            "A second, by the code that the client got (docs/errors.md).",
            (f"sum by (reason) (rate(quotapool_refusals_total{{{_JOB}}}[$__rate_interval]))", "{{reason}}"),
            unit="reqps",
            runbook="clients-see-429",
        ),
        graph(
            "Requests by model",
            "A second; the ten with most.",
            (f"topk(10, sum by (model) (rate({_REQUESTS}[$__rate_interval])))", "{{model}}"),
            unit="reqps",
        ),
        table(
            "Alerts",
            "What fires or is about to.",
            f'max by (alertname, severity, alertstate) (ALERTS{{alertname=~"Quotapool.*", {_JOB}}})',
            {"alertname": "alert", "severity": "severity", "alertstate": "state", "Value": ""},
            noValue="none",
        ),
    ],
)

CAPACITY: Final = Row(
    "Capacity",
    [
        graph(
            "Headroom",
            "What is left of the budget of all accounts together, by model group. Near 0 requests wait; below 0 is "
            "debt. Limits by the minute and by the day are lines of their own.",
            (_HEADROOM, "{{model}} {{dimension}}"),
            unit="percentunit",
            runbook="the-pool-is-running-dry",
            max=1,
            debt=True,
        ),
        graph(
            "Upstream's answers",
            "Calls a second by outcome (docs/metrics.md). `wait` is OpenAI's 429.",
            (
                f"sum by (outcome) (rate(quotapool_upstream_attempts_total{{{_MODEL}}}[$__rate_interval]))",
                "{{outcome}}",
            ),
            unit="reqps",
            runbook="upstream-is-failing",
        ),
        graph(
            "Refused upstream",
            "Share of calls that OpenAI answered with a rate limit, by model. More than 0.1 % means that "
            "our budgets are wrong, or that somebody else uses the accounts.",
            (
                (
                    f'sum by (model) (rate(quotapool_upstream_attempts_total{{{_MODEL}, outcome="wait"}}[5m]))'
                    f" / sum by (model) (rate(quotapool_upstream_attempts_total{{{_MODEL}}}[5m]))"
                ),
                "{{model}}",
            ),
            unit="percentunit",
            runbook="our-budgets-are-wrong",
            line=0.001,
        ),
        graph(
            "Sent again",
            "Retries as a share of requests, by the reason. The retry budget stops them at 20 %.",
            (
                (
                    f"sum by (reason) (rate(quotapool_retries_total{{{_JOB}}}[$__rate_interval])) / on () group_left ()"
                    f" sum(rate(quotapool_requests_total{{{_JOB}}}[$__rate_interval]))"
                ),
                "{{reason}}",
            ),
            unit="percentunit",
            runbook="many-retries",
            line=0.2,
        ),
        graph(
            "Tokens",
            "A second, as upstream bills them. `cached_prompt` is a part of `prompt`, `reasoning` of `completion`.",
            (f"sum by (kind) (rate(quotapool_tokens_total{{{_MODEL}}}[$__rate_interval]))", "{{kind}}"),
        ),
        graph(
            "Spend",
            "An hour, at the pace of the last five minutes. `estimated`: an answer was cut, or priced as its alias.",
            (f"sum by (kind) (rate(quotapool_spend_usd_total{{{_JOB}}}[5m])) * 3600", "{{kind}}"),
            unit="currencyUSD",
            stacked=True,
            runbook="the-day-is-spent",
        ),
    ],
)

PAGE: Final = Page(
    "quotapool-overview",
    "Quotapool: overview",
    "Is the pool well, do clients get answers, and what runs short? A pool is a job; several jobs are added up.",
    [JOB, Variable("model", 'quotapool_requests_total{job=~"$job"}', "model")],
    [NOW, CLIENTS, CAPACITY],
)
