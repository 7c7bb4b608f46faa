"""There is advice for each reason why a key can be out; the reasons are typed from OpenAI's documentation."""

from __future__ import annotations

import pytest
from quotapool.openai.advice import advice
from quotapool.openai.classify import classify

from tests.fakes.heads import head

# (status, code, type, message) as OpenAI sends them -> what the sentence must tell an operator to do.
FACTS = [
    (429, "credit_balance_exhausted", "insufficient_quota", "You have no credits remaining.", "top up"),
    (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota", "is not credit"),
    (429, "organization_spend_limit_exceeded", "insufficient_quota", "x", "raise the organisation's limit"),
    (429, "project_spend_limit_exceeded", "insufficient_quota", "x", "raise the project's limit"),
    (429, "organization_usage_limit_exceeded", "insufficient_quota", "x", "ask OpenAI for a higher usage limit"),
    (429, "billing_not_active", "billing_not_active", "Your account is not active", "set up billing"),
    (
        400,
        "billing_hard_limit_reached",
        "invalid_request_error",
        "Billing hard limit has been reached",
        "raise the hard",
    ),
    (401, "invalid_api_key", "invalid_request_error", "Incorrect API key provided", "replace"),
    (401, "account_deactivated", "invalid_request_error", "x", "ask OpenAI"),
    (403, "access_terminated", "access_terminated", "Your access was terminated", "appeal"),
    (403, "unsupported_country_region_territory", "request_forbidden", "x", "region is not supported"),
    (401, "ip_not_authorized", "ip_not_authorized", "Your IP is not authorized", "IP allow-list"),
    (403, "", "", "You have insufficient permissions. Missing scopes: model.request.", "model.request"),
    (429, "rate_limit_exceeded", "requests", "Rate limit reached. Please try again in 7m12s.", "wait"),
]


@pytest.mark.parametrize(("status", "code", "kind", "message", "wanted"), FACTS, ids=lambda v: str(v)[:30])
def test_each_answer_of_openai_leads_to_a_next_step(status, code, kind, message, wanted):
    body = f'{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":"{code}"}}}}'.encode()
    verdict = classify(status, head(), body)
    assert wanted in advice(verdict.reason, kind=verdict.kind)


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("never_had_credit", "never had credit"),
        ("session_key_expired", "renew the expired session key"),
        ("operator", "quotapool keys enable"),
        ("master_key", "master key"),
        ("http_200", "check `upstream`"),
        ("http_302", "check `upstream`"),
    ],
)
def test_what_we_know_ourselves_leads_to_a_next_step_too(reason, wanted):
    assert wanted in advice(reason)


def test_a_wait_says_until_when():
    # 2027-01-01 00:00:05 UTC is 1,798,761,605 s after 1970.
    assert advice("rate_limit_exceeded", until=1_798_761_605.0).endswith("(next try 2027-01-01 00:00:05 UTC)")


@pytest.mark.parametrize("state", ["quarantined", "removed", "suspect", "disabled", "draining"])
def test_no_bad_state_is_left_without_advice_whatever_its_reason(state):
    assert advice("a reason of tomorrow", state=state)


def test_a_key_that_serves_needs_nothing():
    assert advice("", state="active") == ""
