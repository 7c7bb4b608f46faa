"""Errors inside an answer that began with 200 are understood, and no bytes make the classifier fail.

Shapes: chat's and responses' SSE, the Realtime and Responses WebSockets; codes of the specification's enumeration.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.verdict import OK, Kind, Scope, Verdict
from quotapool.openai.classify import classify, classify_stream_error

from tests.fakes.heads import head

NO_CREDIT = (
    "You have no credits remaining. Add credits to continue using the API at "
    "https://platform.openai.com/settings/organization/billing/."
)
QUOTA = "insufficient_quota"
QUOTA_2024 = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this "
    "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)
REQ = "invalid_request_error"
RPD = (
    "Rate limit reached for gpt-4o-mini in organization org-x on requests per day (RPD): Limit 200, Used 200, "
    "Requested 1. Please try again in 7m12s. Visit https://platform.openai.com/account/rate-limits to learn more."
)
TERMINATED = (
    "Your access was terminated due to violation of our policies, please check your email for more information. "
    "If you believe this is in error and would like to appeal, please contact support@openai.com."
)
TPM = (
    "Rate limit reached for gpt-4 in organization org-x on tokens per min (TPM): Limit 10000, Used 8554, "
    "Requested 3082. Please try again in 9.816s. Visit https://platform.openai.com/account/rate-limits."
)


EVENTS = [
        ({"error": {"message": QUOTA_2024, "type": QUOTA, "param": None, "code": QUOTA}},
         Kind.MONEY, Scope.ACCOUNT, "insufficient_quota"),
        ({"error": {"message": TPM, "type": "tokens", "code": "rate_limit_exceeded"}},
         Kind.WAIT, Scope.NONE, "rate_limit_exceeded"),
        ({"error": {"message": "The server had an error", "type": "server_error", "code": None}},
         Kind.SERVICE, Scope.NONE, "server_error"),
        ({"error": {"message": "Bad.", "type": REQ, "code": None}}, Kind.REQUEST, Scope.NONE, "stream_error"),
        ({"error": "it broke"}, Kind.SERVICE, Scope.NONE, "stream_error"),
        ({"type": "error", "code": "rate_limit_exceeded", "message": TPM, "param": None, "sequence_number": 1},
         Kind.WAIT, Scope.NONE, "rate_limit_exceeded"),
        ({"type": "error", "code": "server_is_overloaded", "message": "", "param": None, "sequence_number": 1},
         Kind.SERVICE, Scope.NONE, "server_is_overloaded"),
        ({"type": "error", "code": "credit_balance_exhausted", "message": NO_CREDIT},
         Kind.MONEY, Scope.ORGANIZATION, "credit_balance_exhausted"),
        ({"type": "error", "code": "slow_down", "message": ""}, Kind.SLOW_DOWN, Scope.NONE, "slow_down"),
        ({"type": "error", "code": None, "message": TERMINATED}, Kind.DEAD, Scope.ORGANIZATION, "access_terminated"),
        ({"type": "error", "code": None, "message": "Oops"}, Kind.SERVICE, Scope.NONE, "stream_error"),
        ({"type": "error", "code": "a_code_of_next_year", "message": ""},
         Kind.REQUEST, Scope.NONE, "a_code_of_next_year"),
        ({"type": "error", "status": 400, "error": {"code": "previous_response_not_found", "message": "", "type": REQ}},
         Kind.STATE, Scope.NONE, "previous_response_not_found"),
        ({"type": "error", "status": 503, "error": {"code": "slow_down", "message": ""}},
         Kind.SERVICE, Scope.NONE, "slow_down"),
        *(
            ({"type": "response.failed", "response": {"status": "failed", "error": {"code": code, "message": "m"}}},
             kind, Scope.NONE, code)
            for code, kind in {
                "server_error": Kind.SERVICE, "server_is_overloaded": Kind.SERVICE,
                "vector_store_timeout": Kind.SERVICE, "rate_limit_exceeded": Kind.WAIT,
                "data_residency_mismatch": Kind.MODEL, "invalid_prompt": Kind.REQUEST, "bio_policy": Kind.REQUEST,
                "misalignment_policy_violation": Kind.REQUEST, "image_parse_error": Kind.REQUEST,
                "invalid_image_url": Kind.REQUEST, "image_content_policy_violation": Kind.REQUEST,
            }.items()
        ),
        ({"type": "response.failed", "response": {"error": None}}, Kind.SERVICE, Scope.NONE, "stream_error"),
        ({"type": "response.done", "response": {"status": "failed", "status_details": {"error": {
            "type": "tokens", "code": "rate_limit_exceeded", "message": "Please try again in 6.946s."}}}},
         Kind.WAIT, Scope.NONE, "rate_limit_exceeded"),
        ({"type": "response.done", "response": {"status_details": {"error": {
            "code": "inference_not_authorized_error", "message": "Not authorized."}}}},
         Kind.SUSPECT, Scope.NONE, "inference_not_authorized_error"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "kind", "scope", "reason"), EVENTS)
def test_errors_inside_a_stream_are_understood_as_well(event, kind, scope, reason):
    verdict = classify_stream_error(json.dumps(event).encode())
    assert (verdict.kind, verdict.scope, verdict.reason) == (kind, scope, reason)


# Codes of money and death say the same inside a stream as in an error's body.
TAKEN_OUT = [
    ("invalid_api_key", Kind.DEAD, Scope.KEY),
    ("account_deactivated", Kind.DEAD, Scope.ORGANIZATION),
    ("access_terminated", Kind.DEAD, Scope.ORGANIZATION),
    ("credit_balance_exhausted", Kind.MONEY, Scope.ORGANIZATION),
    ("organization_spend_limit_exceeded", Kind.MONEY, Scope.ORGANIZATION),
    ("project_spend_limit_exceeded", Kind.MONEY, Scope.ACCOUNT),
    ("organization_usage_limit_exceeded", Kind.MONEY, Scope.ORGANIZATION),
    ("insufficient_quota", Kind.MONEY, Scope.ACCOUNT),
    ("billing_not_active", Kind.MONEY, Scope.ORGANIZATION),
    ("billing_hard_limit_reached", Kind.MONEY, Scope.ACCOUNT),
]


@pytest.mark.parametrize(("code", "kind", "scope"), TAKEN_OUT)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda error: {"error": error},
        lambda error: {**error, "type": "error", "sequence_number": 3},
        lambda error: {"type": "response.failed", "response": {"status": "failed", "error": error}},
        lambda error: {"type": "response.done", "response": {"status_details": {"error": error}}},
    ],
    ids=["chat", "responses", "failed", "realtime"],
)
def test_every_code_that_takes_a_key_out_does_so_inside_a_stream(code, kind, scope, wrap):
    event = wrap({"message": "New words.", "type": "new_type", "code": code, "param": None})
    verdict = classify_stream_error(json.dumps(event).encode())
    assert (verdict.kind, verdict.scope, verdict.reason) == (kind, scope, code)


def test_a_wait_inside_a_stream_is_read_from_its_message():
    event = {"type": "error", "code": "rate_limit_exceeded", "message": RPD}
    verdict = classify_stream_error(json.dumps(event).encode())
    assert (verdict.retry_after_s, verdict.dimension, verdict.daily) == (432.0, "requests", True)


@pytest.mark.parametrize(
    "payload",
    [
        b"[DONE]", b"", b"{", b"[]", b"null", b'{"choices":[]}', b'{"error":null,"choices":[]}',
        b'{"type":"response.created","response":{"error":null,"status":"in_progress"}}',
        b'{"type":"response.completed","response":{"error":null}}',
        b'{"type":"response.output_item.done","item":{"type":"mcp_call","error":{"code":"invalid_api_key"}}}',
        b'{"type":"response.output_text.delta","delta":"Your access was terminated","message":"error"}',
    ],
)  # fmt: skip
def test_an_event_that_is_not_an_error_is_ok(payload):
    assert classify_stream_error(payload) is OK


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "response", "status"]), inner)
    ),
    max_leaves=12,
)


@given(st.integers(100, 599), JSON | st.binary(max_size=40), st.text(max_size=8))
def test_nothing_upstream_sends_makes_the_classifier_raise(status, sent, retry_after):
    payload = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    assert isinstance(classify(status, head({"retry-after": retry_after}), payload), Verdict)
    assert isinstance(classify_stream_error(payload), Verdict)


@pytest.mark.parametrize(
    "payload", [b"[" * 200_000, b'{"error":' * 200_000, b'{"error":{"message":"' + b"9" * 10**6 + b'"}}']
)
def test_a_hostile_body_is_survived(payload):
    assert classify(500, head(), payload).kind is Kind.SERVICE
