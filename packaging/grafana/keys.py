"""Dashboard "Keys": which key or account cannot serve, and why; what is left of budgets and money."""

from __future__ import annotations

from typing import Final

from parts import JOB, Page, Row, Variable, bars, better_from, graph, stat, table, worse_from

_JOB: Final = 'job=~"$job"'
_ACCOUNT: Final = 'job=~"$job", account=~"$account"'
_BUCKET: Final = 'job=~"$job", account=~"$account", model=~"$model"'


def _shared(metric: str, labels: str, selector: str) -> str:
    """Once for all replicas, since they show the same."""
    return f"max by ({labels}) ({metric}{{{selector}}})"


_BUDGET: Final = "account, model, dimension"
_LIMIT: Final = _shared("quotapool_bucket_limit", _BUDGET, _BUCKET)
_HEADROOM: Final = f"{_shared('quotapool_bucket_level', _BUDGET, _BUCKET)} / ({_LIMIT} > 0)"

STATES: Final = Row(
    "States",
    [
        stat(
            "Active",
            "Keys that serve.",
            f'sum(max by (job) (quotapool_keys{{{_JOB}, state="active"}}))',
            width=3,
            runbook="no-usable-key",
            steps=better_from(1, 2),
        ),
        stat(
            "Out of money",
            "Quarantined: no credit, or a spend limit.",
            f'sum(max by (job) (quotapool_keys{{{_JOB}, state="quarantined"}}))',
            width=3,
            runbook="a-key-is-quarantined",
            steps=worse_from(1, 1000),
        ),
        stat(
            "Dead",
            "Removed: invalid, revoked, or the account is closed.",
            f'sum(max by (job) (quotapool_keys{{{_JOB}, state="removed"}}))',
            width=3,
            runbook="a-key-was-removed",
            steps=worse_from(1, 1000),
        ),
        stat(
            "Locked",
            "Stored keys that a replica's master key does not open.",
            f"max(quotapool_locked_keys{{{_JOB}}})",
            width=3,
            runbook="keys-are-locked",
            steps=worse_from(1, 1),
        ),
        stat(
            "Removals stopped",
            "In the last hour: so many keys failed at once that something else must be wrong.",
            f"sum(max by (job) (increase(quotapool_removals_stopped_total{{{_JOB}}}[1h])))",
            width=3,
            runbook="many-keys-fail-at-once",
            steps=worse_from(0.5, 1),
        ),
        stat(
            "Our network",
            "1 while upstream does not serve our network, whichever key is used.",
            f"max(quotapool_egress_trouble{{{_JOB}}})",
            width=3,
            runbook="our-network-is-refused",
            steps=worse_from(1, 1),
        ),
        stat(
            "Accounts cooling down",
            "For any model.",
            f"count(max by (job, account) (quotapool_cooldown_seconds{{{_JOB}}}) > 0) or vector(0)",
            width=3,
            steps=worse_from(10, 1000),
        ),
        stat(
            "Realtime sessions",
            "Open WebSockets.",
            f"sum(quotapool_websockets_open{{{_ACCOUNT}}})",
            width=3,
        ),
        graph(
            "Keys by state",
            "All replicas show the same keys.",
            (f"sum by (state) (max by (job, state) (quotapool_keys{{{_JOB}}}))", "{{state}}"),
            stacked=True,
            decimals=0,
            runbook="no-usable-key",
        ),
        table(
            "Keys that do not serve",
            "`quotapool check` says why each of them rests, and what to do.",
            f'max by (key, account, state) (quotapool_key_state{{{_ACCOUNT}, state!="active"}}) == 1',
            {"key": "key", "account": "account", "state": "state", "Value": ""},
            runbook="a-key-was-removed",
            noValue="none",
        ),
        graph(
            "Removed and set aside",
            "Keys in each ten minutes, by upstream's code.",
            (f"sum by (reason) (increase(quotapool_keys_removed_total{{{_JOB}}}[10m]))", "removed: {{reason}}"),
            (f"sum by (reason) (increase(quotapool_keys_quarantined_total{{{_JOB}}}[10m]))", "no money: {{reason}}"),
            runbook="many-keys-fail-at-once",
        ),
    ],
)

BUDGETS: Final = Row(
    "Budgets",
    [
        bars(
            "Emptiest budgets",
            "What is left of each, the twenty with least.",
            f"bottomk(20, {_HEADROOM})",
            "{{account}} {{model}} {{dimension}}",
            runbook="an-account-is-running-dry",
            steps=better_from(0.02, 0.1),
            max=1,
        ),
        graph(
            "What is left",
            "Of each budget, the twenty emptiest. Below 0 is debt.",
            (f"bottomk(20, {_HEADROOM})", "{{account}} {{model}} {{dimension}}"),
            unit="percentunit",
            debt=True,
            max=1,
            runbook="an-account-is-running-dry",
        ),
        table(
            "Limits",
            "In force, a minute or a day.",
            _shared("quotapool_bucket_limit", _BUDGET, _BUCKET),
            {"account": "account", "model": "model", "dimension": "dimension", "Value": "limit"},
        ),
        table(
            "Limits of ours that are lower than upstream's",
            "A configured limit leaves this budget unused.",
            _shared("quotapool_bucket_upstream_limit", _BUDGET, _BUCKET),
            {"account": "account", "model": "model", "dimension": "dimension", "Value": "upstream allows"},
            runbook="the-pool-is-running-dry",
            noValue="none",
        ),
        graph(
            "Cool-downs",
            "Begun in each ten minutes, by account and upstream's code; the ten with most.",
            (
                f"topk(10, sum by (account, reason) (increase(quotapool_cooldowns_total{{{_BUCKET}}}[10m])))",
                "{{account}}: {{reason}}",
            ),
            runbook="our-budgets-are-wrong",
        ),
        graph(
            "Used by others",
            "What is used a minute without the pool, by account and model group; there only while it is known.",
            (
                _shared("quotapool_outside_use_requests_per_minute", "account, model", _BUCKET),
                "{{account}} {{model}} rpm",
            ),
            (
                _shared("quotapool_outside_use_tokens_per_minute", "account, model", _BUCKET),
                "{{account}} {{model}} tpm",
            ),
            runbook="somebody-else-uses-an-account",
        ),
        table(
            "Cooling down now",
            "Seconds until the account may be used for the model again.",
            f"{_shared('quotapool_cooldown_seconds', 'account, model', _BUCKET)} > 0",
            {"account": "account", "model": "model", "Value": "for"},
            unit="s",
            noValue="none",
        ),
    ],
)

# By key, for all models: budgets above are of model groups, calls of models.
_CALLS: Final = 'quotapool_upstream_attempts_total{job=~"$job"'

CALLS: Final = Row(
    "Calls",
    [
        graph(
            "Calls by key",
            "A second, the ten with most.",
            (f"topk(10, sum by (key) (rate({_CALLS}}}[$__rate_interval])))", "{{key}}"),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Refused for rate, by key",
            "Share of a key's calls, the ten with most. Above 0.1 % its limits are wrong, or somebody "
            "else uses its account.",
            (
                f'topk(10, sum by (key) (rate({_CALLS}, outcome="wait"}}[5m])) / sum by (key) (rate({_CALLS}}}[5m])))',
                "{{key}}",
            ),
            unit="percentunit",
            runbook="our-budgets-are-wrong",
            line=0.001,
        ),
        graph(
            "Calls that failed, by key",
            "A second: neither answered nor cancelled by the client; the ten with most.",
            (
                f'topk(10, sum by (key, outcome) (rate({_CALLS}, outcome!~"ok|cancelled|request|state"}}[5m])))',
                "{{key}}: {{outcome}}",
            ),
            unit="reqps",
            runbook="upstream-is-failing",
        ),
        graph(
            "Tokens by key",
            "A second, prompt and completion; the ten with most.",
            (
                (
                    'topk(10, sum by (key) (rate(quotapool_tokens_total{job=~"$job", '
                    'kind=~"prompt|completion"}[$__rate_interval])))'
                ),
                "{{key}}",
            ),
        ),
        graph(
            "How well tokens are known",
            "Settled a second. `at_least`: the answer was cut, there may be more.",
            (
                f"sum by (certainty) (rate(quotapool_settled_tokens_total{{{_JOB}}}[$__rate_interval]))",
                "{{certainty}}",
            ),
        ),
        graph(
            "Without a known price",
            "Requests in each ten minutes whose model has no price, so that they are missing in what was spent.",
            (f"sum by (model) (increase(quotapool_unpriced_requests_total{{{_JOB}}}[10m]))", "{{model}}"),
        ),
        graph(
            "Probes",
            "Calls in each ten minutes that try resting keys, by what they were answered.",
            (f"sum by (purpose, result) (increase(quotapool_probes_total{{{_JOB}}}[10m]))", "{{purpose}}: {{result}}"),
        ),
    ],
)

MONEY: Final = Row(
    "Money",
    [
        graph(
            "Spent since midnight",
            "By all accounts, by the clocks of `spend.time_zone`, and the day's limit (0: none).",
            (f"{_shared('quotapool_spend_today_usd', 'job', _JOB)}", "{{job}}: spent"),
            (f"{_shared('quotapool_daily_limit_usd', 'job', _JOB)}", "{{job}}: limit"),
            unit="currencyUSD",
            runbook="the-day-is-spent",
        ),
        graph(
            "Spend by account",
            "Dollars an hour, the ten with most.",
            (f"topk(10, sum by (account) (rate(quotapool_spend_usd_total{{{_ACCOUNT}}}[5m]))) * 3600", "{{account}}"),
            unit="currencyUSD",
            stacked=True,
        ),
        bars(
            "Credit left",
            "Of the known grants, the twenty accounts with least.",
            f"bottomk(20, {_shared('quotapool_credit_remaining_usd', 'account', _ACCOUNT)})",
            "{{account}}",
            unit="currencyUSD",
            runbook="credit-ends-soon",
            min=0,
        ),
        bars(
            "Credit lasts",
            "At the pace of the last seven days.",
            f"bottomk(20, min by (account) (quotapool_credit_empty_timestamp_seconds{{{_ACCOUNT}}}) - time())",
            "{{account}}",
            unit="s",
            runbook="credit-ends-soon",
            steps=better_from(86400, 3 * 86400),
            min=0,
        ),
        table(
            "Credit that will expire unused",
            "At the pace of the last seven days.",
            f"{_shared('quotapool_credit_expiring_unused_usd', 'account', _ACCOUNT)} > 0",
            {"account": "account", "Value": "unused"},
            unit="currencyUSD",
            runbook="credit-expires-unused",
            noValue="none",
        ),
        bars(
            "The month's limits",
            "How much of each account's monthly limit is spent, the twenty nearest to it.",
            f"topk(20, {_shared('quotapool_month_spend_usd', 'account', _ACCOUNT)}"
            f" / {_shared('quotapool_month_limit_usd', 'account', _ACCOUNT)})",
            "{{account}}",
            runbook="a-month-is-nearly-spent",
            steps=worse_from(0.8, 0.9),
            min=0,
            max=1,
        ),
    ],
)

PAGE: Final = Page(
    "quotapool-keys",
    "Quotapool: keys",
    "Which key or account cannot serve, and why; what is left of budgets and money.",
    [
        JOB,
        Variable("account", 'quotapool_key_state{job=~"$job"}', "account"),
        Variable("model", 'quotapool_bucket_limit{job=~"$job"}', "model"),
    ],
    [STATES, BUDGETS, CALLS, MONEY],
)
