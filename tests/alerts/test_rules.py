"""Which conditions raise an alert: events, few keys, little credit, an expiry, an hour that costs too much."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from quotapool.alerts import rules
from quotapool.domain.alert import Alert, AlertKind, Severity
from quotapool.domain.periods import Per
from quotapool.domain.rules import Kind, Measure, Mode, Rule
from quotapool.domain.wallet import PICO, Grant, wallet
from quotapool.ledger.stored_rules import Level
from quotapool.settings.alerts import AlertTarget

NOW = datetime(2026, 11, 15, 12, 30, tzinfo=UTC)
HOUR = datetime(2026, 11, 15, 12, tzinfo=UTC)


def event(field: str, was: str, to: str, **more: str) -> dict[str, str]:
    common = {"reason": "invalid_api_key", "by": "observed", "status": "401", "message": "Incorrect", "at": "9.5"}
    return {"field": field, "from": was, "to": to, "kind": "state", "request_id": "req_1", **common, **more}


@pytest.mark.parametrize(
    ("seen", "kind", "subject", "severity"),
    [
        (event("k/alpha", "active", "removed"), AlertKind.KEY_REMOVED, "key alpha", Severity.CRITICAL),
        (event("a/acme", "active", "quarantined"), AlertKind.KEY_QUARANTINED, "account acme", Severity.WARNING),
        (event("o/org-1", "active", "quarantined"), AlertKind.KEY_QUARANTINED, "organization org-1", Severity.WARNING),
        (event("k/alpha", "quarantined", "active"), AlertKind.KEY_BACK, "key alpha", Severity.INFO),
        (event("k/a", "active", "suspect", kind="brake"), AlertKind.BRAKE, "pool", Severity.CRITICAL),
        (event("network", "well", "trouble", kind="egress"), AlertKind.EGRESS, "pool", Severity.CRITICAL),
        (event("network-well", "trouble", "well", kind="egress"), AlertKind.EGRESS, "pool", Severity.INFO),
        (event("web", "", "", kind="policy"), AlertKind.POLICY, "client web", Severity.WARNING),
    ],
)
def test_an_event_becomes_its_alert(seen, kind, subject, severity):
    alert = rules.of_event(seen)
    assert (alert.kind, alert.subject, alert.severity, alert.at) == (kind, subject, severity, 9.5)


@pytest.mark.parametrize(
    "quiet",
    [
        event("k/alpha", "active", "disabled", by="operator"),
        event("k/alpha", "active", "removed", by="operator"),  # they did it themselves
        event("k/alpha", "removed", "active", by="operator"),
        event("k/alpha", "active", "suspect"),  # nothing is proven yet
        event("k/alpha", "suspect", "active"),
        event("k/alpha", "", "", kind="what a later version tells"),
    ],
)
def test_other_events_raise_no_alert(quiet):
    assert rules.of_event(quiet) is None


def test_the_text_quotes_openai_and_tells_whether_we_stopped_the_key_ourselves():
    removed = rules.of_event(event("k/alpha", "active", "removed"))
    assert removed.text == "key alpha was removed: invalid_api_key. OpenAI said (401): Incorrect"
    assert removed.details == {"reason": "invalid_api_key", "status": "401", "request_id": "req_1", "by": "observed"}
    ours = event("a/acme", "active", "quarantined", by="wallet", reason="credit_stop_at", status="0")
    assert (
        rules.of_event(ours).text == "account acme was stopped at its limit (credit_stop_at), before OpenAI refuses it."
    )


def test_too_few_keys_is_critical_if_none_is_left():
    assert rules.too_few_keys(3, 5, 3, 0.0) is None
    assert rules.too_few_keys(2, 5, 3, 0.0).severity is Severity.WARNING
    assert rules.too_few_keys(0, 5, 1, 0.0).severity is Severity.CRITICAL
    assert rules.too_few_keys(0, 5, 0, 0.0) is None  # not configured


def test_little_credit_and_credit_that_expires_soon_raise_alerts():
    poor = wallet([Grant(4 * PICO)], {}, NOW)
    ending = wallet([Grant(50 * PICO, None, date(2026, 11, 20)), Grant(9 * PICO, None, date(2027, 11, 1))], {}, NOW)
    raised = list(rules.of_wallets({"a": poor, "b": ending}, below=5 * PICO, within=timedelta(7), now=NOW))
    assert [(alert.kind, alert.subject, alert.text) for alert in raised] == [
        (AlertKind.CREDIT_LOW, "account a", "account a has $4.00 of credit left."),
        (AlertKind.EXPIRY, "account b", "$50.00 of account b's credit expire on 2026-11-20."),
    ]
    # Given an account without recorded credit, there is nothing to compare.
    assert list(rules.of_wallets({"c": wallet([], {}, NOW)}, below=5 * PICO, within=timedelta(7), now=NOW)) == []


def test_a_key_that_expires_raises_an_alert_before_and_not_after():
    ends = {"soon": NOW.timestamp() + 86_400, "late": NOW.timestamp() + 30 * 86_400, "gone": NOW.timestamp() - 1}
    assert [a.subject for a in rules.of_expiring_keys(ends, within=timedelta(7), now=NOW)] == ["key soon"]


def hours_of(*spent: tuple[int, float]) -> dict[datetime, int]:
    """(hours before 12:00, dollars)."""
    return {HOUR - timedelta(hours=ago): round(usd * PICO) for ago, usd in spent}


def test_an_hour_is_compared_with_the_same_hour_of_the_last_days():
    # 12:00 cost 2, 10, 3 and 4 dollars on the last four days; nights cost nothing. The median of the four is 3.50.
    days = hours_of((24, 2), (48, 10), (72, 3), (96, 4))
    assert rules.usual_hour(days, HOUR) == round(3.5 * PICO)
    assert rules.spends_fast(days | hours_of((0, 17.5)), 5.0, NOW) is None
    alert = rules.spends_fast(days | hours_of((0, 17.51)), 5.0, NOW)
    assert alert.text == "The pool spent $17.51 in the hour from 12:00 UTC; usual are $3.50."
    # The last hour counts too: perhaps its end was never checked.
    assert rules.spends_fast(days | hours_of((1, 50)), 5.0, NOW) is not None


def test_a_young_pool_is_compared_with_all_its_hours_and_a_very_young_one_with_nothing():
    young = hours_of((8, 1), (7, 1), (6, 1), (5, 1), (4, 1), (3, 1), (2, 1), (1, 1))
    assert rules.usual_hour(young, HOUR) == PICO
    assert rules.spends_fast(young | hours_of((0, 6)), 5.0, NOW) is not None
    assert rules.usual_hour(hours_of((3, 1), (2, 1)), HOUR) is None
    assert rules.spends_fast(hours_of((3, 1), (0, 1000)), 5.0, NOW) is None
    assert rules.usual_hour({}, HOUR) is None


def test_cents_raise_no_alert():
    days = hours_of((24, 0.01), (48, 0.01), (72, 0.01))
    assert rules.spends_fast(days | hours_of((0, 0.99)), 5.0, NOW) is None
    assert rules.spends_fast(days | hours_of((0, 1.0)), 5.0, NOW) is not None


def test_the_alert_of_a_spent_day_names_its_end():
    until = datetime(2026, 11, 16, tzinfo=UTC).timestamp()
    assert rules.day_is_spent(5 * PICO, 0.0, NOW) is None
    alert = rules.day_is_spent(5 * PICO, until, NOW)
    assert alert.text == "The pool spent $5.00 today, its daily limit: requests are refused until 00:00 UTC."


def test_a_condition_must_last():
    dry = rules.Lasting(300)
    one, other = ("gpt-4o", "tpm"), ("gpt-4o", "rpm")
    assert dry.of([one], 0) == []
    assert dry.of([one, other], 299) == []
    assert dry.of([one, other], 300) == [one]
    assert dry.of([other], 400) == []
    # One that was over starts again.
    assert dry.of([one, other], 599) == [other]


def level(used: float, limit: float = 50 * PICO, mode: Mode = Mode.HARD, **more) -> Level:
    rule = Rule("usd/month", Kind.BUDGET, Measure.USD, limit, mode, per=Per.MONTH, warn_at=(0.8, 0.95), **more)
    return Level(rule, used, 0.0, max(0.0, limit - used), datetime(2026, 12, 1, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("used", "mode", "said"),
    [
        (39.9, Mode.HARD, None),
        (40, Mode.HARD, ("0.8", Severity.WARNING, "$40.00 are used (80%). It resets at 2026-12-01 00:00 UTC.")),
        (48, Mode.HARD, ("0.95", Severity.WARNING, "$48.00 are used (96%). It resets")),
        (50, Mode.HARD, ("1", Severity.WARNING, "$50.00 are used (100%), and its requests are refused. It resets")),
        (60, Mode.SOFT, ("1", Severity.WARNING, "$60.00 are used (120%), and its requests are served all the same.")),
        (60, Mode.SHADOW, ("1", Severity.INFO, "served all the same.")),
    ],
)
def test_a_budget_warns_at_its_shares_and_when_it_is_used_up(used, mode, said):
    raised = list(rules.of_client_budgets("client app", [level(used * PICO, mode=mode)], 0.0))
    if said is None:
        assert raised == []
        return
    (alert,) = raised
    share, severity, text = said
    assert (alert.kind, alert.subject, alert.severity) == (AlertKind.CLIENT_BUDGET, "client app", severity)
    assert alert.text.startswith("The client app may use $50.00 a month; ")
    assert text in alert.text
    assert alert.occasion.split()[:2] == ["usd/month", share]


def test_a_budget_without_end_says_of_none():
    total = Level(Rule("tokens/total", Kind.BUDGET, Measure.TOKENS, 100, warn_at=(0.5,)), 50.0, 0.0, 50.0, None)
    (alert,) = rules.of_client_budgets("team red", [total], 0.0)
    assert alert.text == "The team red may use 100 tokens in total; 50 tokens are used (50%)."


def test_a_clients_end_is_announced_two_weeks_before():
    ends = {"soon": NOW.timestamp() + 13 * 86_400, "late": NOW.timestamp() + 15 * 86_400, "gone": NOW.timestamp() - 1}
    raised = list(rules.of_expiring_clients(ends, within=timedelta(14), now=NOW))
    assert [alert.subject for alert in raised] == ["client soon"]


@pytest.mark.parametrize(
    ("target", "subject", "wants"),
    [
        ({}, "client app", True),
        ({"clients": ["app"]}, "client app", True),
        ({"clients": ["app"]}, "client other", False),
        ({"clients": ["app"]}, "team app", False),
        ({"clients": ["app"]}, "key app", False),
        ({"teams": ["red"]}, "team red", True),
        ({"clients": ["app"], "kinds": ["policy"]}, "client app", False),
    ],
)
def test_a_target_of_a_clients_own_gets_only_what_is_about_it(target, subject, wants):
    written = AlertTarget.model_validate({"url": "https://example.com/hook", **target})
    assert written.wants(Alert(AlertKind.CLIENT_BUDGET, subject, "", 0.0)) is wants
