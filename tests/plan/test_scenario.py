"""Changes of a pool: what they make of it, and what they say of names that are not there."""

from __future__ import annotations

import pytest
from quotapool.domain.bucket import DIMENSIONS, Bucket
from quotapool.domain.quantities import Dimension, Limits
from quotapool.plan.scenario import (
    OTHERS,
    PlanAccount,
    Scenario,
    add_accounts,
    corrects,
    parse_limit,
    with_client,
    with_limit,
    with_max_wait,
    with_outage,
    with_traffic,
    without,
)

SMALL = Limits(rpm=500, tpm=30_000)
POOL = Scenario(
    (
        PlanAccount("acme", {"gpt-4o": SMALL}, ("key-1", "key-2"), corrects={"gpt-4o": True}),
        PlanAccount("acme.eu", {OTHERS: SMALL}, ("key-3",), corrects={"gpt-4o": True}),
    )
)


def names(scenario: Scenario) -> list[str]:
    return [account.id for account in scenario.accounts]


def test_accounts_like_another_have_its_limits_and_names_of_their_own():
    pool = add_accounts(POOL, 2, like="acme")
    assert names(pool) == ["acme", "acme.eu", "new-1", "new-2"]
    assert pool.account("new-1").limits_of("gpt-4o") == SMALL
    assert pool.account("new-1").keys == ("new-1",)
    assert names(add_accounts(pool, 1, like="acme"))[-1] == "new-3"


def test_accounts_of_other_limits_are_charged_as_the_pool_is():
    large = {"gpt-4o": Limits(tpm=2_000_000)}
    new = add_accounts(POOL, 1, limits=large).account("new-1")
    assert new.limits_of("gpt-4o").tpm == 2_000_000
    assert new.is_corrected("gpt-4o")


def test_an_account_with_another_key_stays_and_keeps_its_limits():
    pool = without(POOL, ["key-2"])
    assert pool.account("acme").keys == ("key-1",)
    assert pool.account("acme").limits_of("gpt-4o") == SMALL


@pytest.mark.parametrize("gone", [["acme"], ["key-1", "key-2"]])
def test_an_account_without_keys_is_gone(gone):
    assert names(without(POOL, gone)) == ["acme.eu"]


def test_a_limit_of_one_model_leaves_the_others_as_they_are():
    pool = with_limit(POOL, "acme.eu", "gpt-4o", Dimension.TPM, 2e6)
    assert pool.account("acme.eu").limits_of("gpt-4o") == Limits(rpm=500, tpm=2e6)
    assert pool.account("acme.eu").limits_of("o3") == SMALL
    assert pool.account("acme") == POOL.account("acme")


def test_a_limit_of_the_whole_account_is_that_of_each_model():
    limits = with_limit(POOL, "acme", OTHERS, Dimension.RPM, 7).account("acme")
    assert (limits.limits_of("gpt-4o").rpm, limits.limits_of("o3").rpm) == (7, 7)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("acme.gpt-4.1.tpm", ("acme", "gpt-4.1", Dimension.TPM)),
        ("acme.eu.gpt-4.1.tpm", ("acme.eu", "gpt-4.1", Dimension.TPM)),
        ("acme.eu.rpd", ("acme.eu", OTHERS, Dimension.RPD)),
    ],
)
def test_a_limit_is_named_by_account_model_and_dimension(text, found):
    assert parse_limit(text, POOL) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: without(POOL, ["key-33"]), "no key or account 'key-33'; did you mean 'key-3'?"),
        (lambda: add_accounts(POOL, 1, like="acmee"), "no account 'acmee'; did you mean 'acme'?"),
        (lambda: parse_limit("other.gpt-4o.tpm", POOL), "no account 'other'"),
        (lambda: parse_limit("acme.gpt-4o", POOL), "is no limit"),
        (lambda: add_accounts(POOL, 0, like="acme"), "cannot be added"),
        (lambda: add_accounts(POOL, 1), "need their limits"),
        (lambda: with_traffic(POOL, -1), "from 0 to 1000"),
        (lambda: with_client(POOL, "a", weight=0), "above 0"),
        (lambda: with_outage(POOL, "acme", 10, 10), "ends after"),
        (lambda: with_max_wait(POOL, -1), "from 0"),
        (lambda: with_limit(POOL, "acme", "", Dimension.TPM, -1), "from 0"),
    ],
)
def test_what_cannot_be_is_said(change, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        change()


@pytest.mark.parametrize(
    ("kept", "corrected", "lean", "answer"),
    [
        (5_000, 100, -0.2, True),
        (5_000, 100, -0.001, True),  # it has faded
        (-100, -4_000, 0.1, False),
        (-186_200 + 40_000, -186_200 - 500, -0.1, True),  # its first answer: 10,000 instead of the 200,000 of a guess
        (-186_200 - 300, -186_200 - 40_000, 0.1, False),
        (5_000, 100, 0.2, None),
        (0, 0, 0.0, None),
        (900, -1_000, 0.2, None),
    ],
)
def test_how_upstream_charges_is_the_prediction_that_had_to_be_moved_far_less(kept, corrected, lean, answer):
    tokens = DIMENSIONS.index(Dimension.TPM)
    bucket = Bucket(0.0, lean=lean)
    bucket.learned[tokens] = 10_000  # a full bucket: 9,800; of a guess: 196,000
    bucket.taught_kept[tokens], bucket.taught_corrected[tokens] = kept, corrected
    assert corrects(bucket) is answer
