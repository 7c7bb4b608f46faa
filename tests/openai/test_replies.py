"""What the proxy itself answers has OpenAI's shape and makes SDKs wait, or not try again."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai import replies
from quotapool.openai.replies import ALL, ProxyError, error_body, retry_headers

from tests.fakes.heads import text

# (status, type where an SDK or a user depends on it, should an SDK retry)
PROMISED = {
    "missing_proxy_key": (401, "invalid_request_error", False),
    "invalid_proxy_key": (401, "invalid_request_error", False),
    "openai_key_sent": (401, "invalid_request_error", False),
    "client_suspended": (403, "invalid_request_error", False),
    "client_expired": (403, "invalid_request_error", False),
    "host_not_allowed": (403, "invalid_request_error", False),
    "origin_not_allowed": (403, "invalid_request_error", False),
    "path_not_allowed": (403, "invalid_request_error", False),
    "path_not_found": (404, "invalid_request_error", False),
    "model_not_available": (404, "invalid_request_error", False),
    "model_not_allowed": (403, "invalid_request_error", False),
    "method_not_allowed": (405, "invalid_request_error", False),
    "invalid_json": (400, "invalid_request_error", False),
    "invalid_model": (400, "invalid_request_error", False),
    "invalid_http": (400, "invalid_request_error", False),
    "http_version_not_supported": (505, "invalid_request_error", False),
    "body_timeout": (408, "invalid_request_error", True),
    "body_too_large": (413, "invalid_request_error", False),
    "request_too_large_for_pool": (429, "tokens", False),
    "rate_limit_exceeded": (429, "requests", True),
    "client_rate_limited": (429, "requests", True),
    "client_concurrency": (429, "requests", True),
    "client_budget_exhausted": (429, "insufficient_quota", False),
    "client_model_unpriced": (403, "invalid_request_error", False),
    "client_cost_unseen": (403, "invalid_request_error", False),
    "client_ip_not_allowed": (403, "invalid_request_error", False),
    "prices_not_loaded": (503, "service_unavailable_error", True),
    "queue_full": (429, "requests", True),
    "queue_timeout": (429, "requests", True),
    "pool_credit_exhausted": (429, "insufficient_quota", False),
    "pool_spend_limit_reached": (429, "insufficient_quota", False),
    "pool_no_usable_keys": (503, "service_unavailable_error", False),
    "upstream_unreachable": (502, "server_error", True),
    "egress_refused": (502, "server_error", False),
    "upstream_timeout": (504, "server_error", False),
    "upstream_protocol_error": (502, "server_error", False),
    "not_cached": (504, "invalid_request_error", False),
    "store_unavailable": (503, "service_unavailable_error", True),
    "object_not_found": (404, "invalid_request_error", False),
    "objects_apart": (400, "invalid_request_error", False),
    "object_account_unavailable": (503, "service_unavailable_error", False),
    "object_elsewhere": (400, "invalid_request_error", False),
    "unsupported_encoding": (400, "invalid_request_error", False),
    "invalid_form": (400, "invalid_request_error", False),
    "invalid_websocket": (400, "invalid_request_error", False),
    "client_secret_sent": (401, "invalid_request_error", False),
    "pool_daily_limit_reached": (429, "insufficient_quota", False),
    "draining": (503, "service_unavailable_error", True),
    "proxy_overloaded": (503, "service_unavailable_error", True),
    "upstream_key_refused": (503, "service_unavailable_error", True),
    "internal_error": (500, "server_error", False),
}


def test_each_code_has_the_status_and_type_that_make_sdks_do_the_right_thing():
    assert {e.code: (e.status, e.type, e.should_retry) for e in ALL} == PROMISED


def test_no_code_is_defined_twice():
    assert len(ALL) == len({error.code for error in ALL})


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.code)
def test_each_error_names_its_cause_and_a_remedy_in_sentences(error: ProxyError):
    assert getattr(replies, error.code.upper()) is error
    for sentence in (error.cause, error.remedy):
        assert sentence[0].isupper()
        assert sentence.endswith(".")
    assert json.loads(error.body()) == {
        "error": {"message": f"{error.cause} {error.remedy}", "type": error.type, "param": None, "code": error.code}
    }


def test_the_caller_may_give_more_details_than_the_table():
    body = replies.RATE_LIMIT_EXCEEDED.body("TPM of gpt-4o", param="model")
    assert json.loads(body) == {
        "error": {"message": "TPM of gpt-4o", "type": "requests", "param": "model", "code": "rate_limit_exceeded"}
    }


def test_a_wrong_path_names_the_right_base_url():
    assert "http://127.0.0.1:8080/v1" in replies.PATH_NOT_FOUND.message


def test_an_openai_key_is_recognised_as_one():
    assert "OpenAI key" in replies.OPENAI_KEY_SENT.cause
    assert "client key" in replies.OPENAI_KEY_SENT.cause


@given(st.text(st.characters(codec=None)))
def test_any_message_becomes_valid_json(message):
    said = json.loads(error_body(message, "server_error", None))["error"]
    assert said["message"].replace("?", "") == "".join(c for c in message if not 0xD800 <= ord(c) < 0xE000).replace(
        "?", ""
    )
    assert (said["param"], said["code"]) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (2.0, {"retry-after": "2", "retry-after-ms": "2000", "x-should-retry": "true"}),
        (2.0001, {"retry-after": "3", "retry-after-ms": "2001", "x-should-retry": "true"}),
        (0.0, {"retry-after": "1", "retry-after-ms": "1", "x-should-retry": "true"}),  # SDKs ignore a zero
        (-5.0, {"retry-after": "1", "retry-after-ms": "1", "x-should-retry": "true"}),
        (60.0, {"retry-after": "60", "retry-after-ms": "60000", "x-should-retry": "true"}),
        (432.0, {"retry-after": "432", "retry-after-ms": "432000", "x-should-retry": "false"}),
        (math.inf, {"x-should-retry": "false"}),
        (math.nan, {"x-should-retry": "false"}),
    ],
)
def test_an_sdk_gets_the_time_to_retry_and_does_not_retry_if_it_is_too_long(seconds, expected):
    assert dict(text(retry_headers(seconds))) == expected


@given(st.floats(0, 10_000))
def test_a_retry_after_the_given_wait_is_never_too_early_and_only_short_waits_are_retried(seconds):
    headers = dict(text(retry_headers(seconds)))
    assert int(headers["retry-after"]) >= seconds
    assert int(headers["retry-after-ms"]) >= seconds * 1000 - 1e-6
    assert headers["x-should-retry"] == ("true" if seconds <= 60 else "false")
