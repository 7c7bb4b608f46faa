"""What accounts and keys have no access to: for how long, how narrowly, and how one good answer ends it."""

from __future__ import annotations

import pytest
from quotapool.domain.access import Access, Use
from quotapool.domain.missing_access import AVOIDED_S, MissingAccess

GPT = Use("gpt-5", "chat")
STREAM = Use("gpt-5", "chat", ("stream",))
A, B = 0, 1


@pytest.fixture
def missing() -> MissingAccess:
    return MissingAccess()


def test_a_refused_model_is_avoided_for_five_minutes_on_that_account_alone(missing):
    missing.refused(Access.MODEL, "", A, "a1", GPT, 1000.0)
    assert missing.account_lacks(A, GPT, 1299.0)
    assert missing.account_lacks(A, STREAM, 1299.0)
    assert not missing.account_lacks(A, GPT, 1301.0)
    assert not missing.account_lacks(B, GPT, 1000.0)
    assert not missing.account_lacks(A, Use("gpt-5-mini", "chat"), 1000.0)


def test_an_account_that_has_just_served_a_model_is_not_out_by_one_refusal_but_by_two_in_a_row(missing):
    missing.answered(A, "a1", GPT, 1000.0)
    missing.refused(Access.MODEL, "", A, "a1", GPT, 1001.0)
    assert not missing.account_lacks(A, GPT, 1001.0)
    missing.refused(Access.MODEL, "", A, "a1", GPT, 1002.0)
    assert missing.account_lacks(A, GPT, 1002.0)


def test_what_was_served_long_ago_proves_nothing(missing):
    missing.answered(A, "a1", GPT, 1000.0)
    missing.refused(Access.MODEL, "", A, "a1", GPT, 1601.0)
    assert missing.account_lacks(A, GPT, 1601.0)


def test_one_good_answer_ends_it(missing):
    missing.refused(Access.MODEL, "", A, "a1", GPT, 1000.0)
    missing.answered(A, "a1", GPT, 1001.0)
    assert not missing.account_lacks(A, GPT, 1001.0)


def test_a_refused_feature_leaves_the_model_alone(missing):
    missing.refused(Access.FEATURE, "stream", A, "a1", STREAM, 1000.0)
    assert missing.account_lacks(A, STREAM, 1000.0)
    assert not missing.account_lacks(A, GPT, 1000.0)
    missing.answered(A, "a1", GPT, 1001.0)  # without the feature
    assert missing.account_lacks(A, STREAM, 1001.0)


def test_a_feature_that_the_request_did_not_have_is_not_remembered(missing):
    missing.refused(Access.FEATURE, "service_tier", A, "a1", STREAM, 1000.0)
    assert not missing.active


def test_a_missing_scope_is_the_keys_and_the_endpoints(missing):
    missing.refused(Access.ENDPOINT, "", A, "a1", Use("gpt-5", "responses"), 1000.0)
    assert missing.key_lacks("a1", Use("o3", "responses"), 1000.0)
    assert not missing.key_lacks("a2", Use("gpt-5", "responses"), 1000.0)
    assert not missing.key_lacks("a1", GPT, 1000.0)
    assert not missing.account_lacks(A, Use("gpt-5", "responses"), 1000.0)


def test_a_refusal_that_concerns_one_request_is_not_remembered(missing):
    missing.refused(Access.REQUEST, "", A, "a1", GPT, 1000.0)
    assert not missing.active


def test_what_is_over_costs_requests_nothing_any_more(missing):
    missing.refused(Access.MODEL, "", A, "a1", Use("invented"), 1000.0)
    missing.answered(B, "b1", GPT, 1001.0)
    assert missing.active
    missing.answered(B, "b1", GPT, 1002.0 + AVOIDED_S)
    assert not missing.active


def test_models_that_clients_invent_fill_no_memory(missing):
    for n in range(25_000):
        missing.refused(Access.MODEL, "", A, "a1", Use(f"invented-{n}"), 0.0)
        missing.refused(Access.ENDPOINT, "", A, f"k{n}", GPT, 0.0)
    assert len(missing) <= 20_000
