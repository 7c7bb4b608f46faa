"""Dashboard "Clients": who sends what, what they get, who is at its own limits, what the cache spares them."""

from __future__ import annotations

from typing import Final

from parts import JOB, Page, Row, Variable, bars, graph, table, worse_from

_JOB: Final = 'job=~"$job"'
_CLIENT: Final = 'job=~"$job", client=~"$client"'
_REQUESTS: Final = 'job=~"$job", client=~"$client", model=~"$model"'
_MODEL: Final = 'job=~"$job", model=~"$model"'


def _share_of(status: str) -> str:
    """Of each client's requests; the ten with most."""
    of_it = f'sum by (client) (rate(quotapool_requests_total{{{_REQUESTS}, status=~"{status}"}}[5m]))'
    return f"topk(10, {of_it} / sum by (client) (rate(quotapool_requests_total{{{_REQUESTS}}}[5m])))"


TRAFFIC: Final = Row(
    "Traffic",
    [
        graph(
            "Requests by client",
            "A second, the ten with most.",
            (
                f"topk(10, sum by (client) (rate(quotapool_requests_total{{{_REQUESTS}}}[$__rate_interval])))",
                "{{client}}",
            ),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Refused with 429, by client",
            "Share of its requests.",
            (_share_of("429"), "{{client}}"),
            unit="percentunit",
            runbook="clients-see-429",
            line=0.01,
        ),
        graph(
            "Answered with another error, by client",
            "Share of its requests: 4xx but 429 are mostly its own, 5xx are not.",
            (_share_of("4[013-9].|42[0-8]|5.."), "{{client}}"),
            unit="percentunit",
            runbook="upstream-is-failing",
        ),
        graph(
            "Requests by endpoint",
            "A second.",
            (f"sum by (endpoint) (rate(quotapool_requests_total{{{_REQUESTS}}}[$__rate_interval]))", "{{endpoint}}"),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Requests by model",
            "A second, the ten with most.",
            (
                f"topk(10, sum by (model) (rate(quotapool_requests_total{{{_REQUESTS}}}[$__rate_interval])))",
                "{{model}}",
            ),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Under way",
            "Requests being served, and of them streams, which a restart has to wait for.",
            (f"sum(quotapool_requests_in_flight{{{_JOB}}})", "requests"),
            (f"sum(quotapool_streams_open{{{_JOB}}})", "streams"),
            (f"sum(quotapool_websockets_open{{{_JOB}}})", "WebSocket sessions"),
            runbook="a-worker-is-full",
        ),
        graph(
            "First byte, by endpoint",
            "One request in twenty takes longer; of those that went upstream.",
            (
                (
                    "histogram_quantile(0.95, sum by (endpoint, le) (rate(quotapool_time_to_first_byte_seconds_bucket"
                    f"{{{_MODEL}}}[$__rate_interval])))"
                ),
                "{{endpoint}}",
            ),
            unit="s",
            runbook="the-queue-is-slow",
        ),
        graph(
            "Whole answer, by model",
            "One request in twenty takes longer; of those that went upstream.",
            (
                (
                    "topk(10, histogram_quantile(0.95, sum by (model, le) ("
                    f"rate(quotapool_request_duration_seconds_bucket{{{_MODEL}}}[$__rate_interval]))))"
                ),
                "{{model}}",
            ),
            unit="s",
        ),
    ],
)

RULES: Final = Row(
    "Their own limits and budgets",
    [
        bars(
            "Used",
            "Of each limit and budget, with what requests under way hold; the twenty nearest to their end.",
            f"topk(20, max by (subject, rule) (quotapool_client_rule_used{{{_JOB}}})"
            f" / max by (subject, rule) (quotapool_client_rule_limit{{{_JOB}}}))",
            "{{subject}}: {{rule}}",
            steps=worse_from(0.8, 1),
            min=0,
            max=1,
        ),
        graph(
            "Refused by their own rules",
            "A second, by client and rule.",
            (
                f"topk(10, sum by (client, rule) (rate(quotapool_client_refusals_total{{{_CLIENT}}}[5m])))",
                "{{client}}: {{rule}}",
            ),
            unit="reqps",
            runbook="clients-see-429",
        ),
        graph(
            "Served beyond a soft budget",
            "A second; what a soft or shadow budget would have refused, were it hard.",
            (
                f"topk(10, sum by (client, rule) (rate(quotapool_client_excess_total{{{_CLIENT}}}[5m])))",
                "{{client}}: {{rule}}",
            ),
            unit="reqps",
        ),
        graph(
            "Refused for policy",
            "In each ten minutes, by client and OpenAI's code. Repeated ones cost the organisation its access.",
            (
                f"sum by (client, reason) (increase(quotapool_policy_refusals_total{{{_CLIENT}}}[10m]))",
                "{{client}}: {{reason}}",
            ),
            runbook="a-client-is-refused-for-policy",
        ),
        table(
            "Clients that expire",
            "Within 14 days.",
            f"min by (client) (quotapool_client_expires_timestamp_seconds{{{_CLIENT}}}) - time()",
            {"client": "client", "Value": "in"},
            unit="s",
            noValue="none",
        ),
    ],
)

CACHE: Final = Row(
    "The cache",
    [
        graph(
            "Served from the cache",
            "Share of the requests that were looked up.",
            (
                (
                    f'sum(rate(quotapool_cache_requests_total{{{_JOB}, result=~"hit|coalesced"}}[$__rate_interval]))'
                    f' / sum(rate(quotapool_cache_requests_total{{{_JOB}, result!="bypass"}}[$__rate_interval]))'
                ),
                "share",
            ),
            unit="percentunit",
            runbook="the-cache-hits-seldom",
            max=1,
        ),
        graph(
            "What it did",
            "Requests a second. `coalesced`: the answer to an identical request that was under way.",
            (f"sum by (result) (rate(quotapool_cache_requests_total{{{_JOB}}}[$__rate_interval]))", "{{result}}"),
            unit="reqps",
            stacked=True,
            runbook="the-cache-hits-seldom",
        ),
        graph(
            "Why not",
            "Requests a second that were not looked up, and answers that were not kept, by the reason.",
            (
                f"topk(10, sum by (result, reason) (rate(quotapool_cache_not_kept_total{{{_JOB}}}[$__rate_interval])))",
                "{{result}}: {{reason}}",
            ),
            unit="reqps",
            runbook="the-cache-hits-seldom",
        ),
        graph(
            "Money spared",
            "Dollars an hour, by model, as far as prices are known.",
            (f"topk(10, sum by (model) (rate(quotapool_cache_saved_usd_total{{{_MODEL}}}[5m]))) * 3600", "{{model}}"),
            unit="currencyUSD",
            stacked=True,
        ),
        graph(
            "Calls spared",
            "A second, by model.",
            (
                f"topk(10, sum by (model) (rate(quotapool_cache_saved_requests_total{{{_MODEL}}}[$__rate_interval])))",
                "{{model}}",
            ),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Tokens spared",
            "A second.",
            (f"sum by (kind) (rate(quotapool_cache_saved_tokens_total{{{_MODEL}}}[$__rate_interval]))", "{{kind}}"),
            stacked=True,
        ),
    ],
)

PAGE: Final = Page(
    "quotapool-clients",
    "Quotapool: clients",
    "Who sends what, what they get, who is at its own limits, and what the cache spares them.",
    [
        JOB,
        Variable("client", 'quotapool_requests_total{job=~"$job"}', "client"),
        Variable("model", 'quotapool_requests_total{job=~"$job", client=~"$client"}', "model"),
    ],
    [TRAFFIC, RULES, CACHE],
)
