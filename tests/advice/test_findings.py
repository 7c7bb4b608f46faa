"""What follows from a week's sums: above the thresholds, with estimates that follow from the numbers."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quotapool.advice.findings import LEAST_REQUESTS, Finding, Week, findings, week_of
from quotapool.advice.note_store import Day
from quotapool.advice.sums import MAXIMA, Sums, flat, of_flat
from quotapool.domain.wallet import PICO
from quotapool.money.price_list import PriceList
from quotapool.money.prices import compile_cards

from tests.advice.days import CARDS


def found(*rows: tuple[str, str, Sums], days: float = 7.0, prices: PriceList = CARDS, **more) -> list[Finding]:
    sums = {(client, model): row for client, model, row in rows}
    return findings(Week(days, sums), prices, cached_for_s=3600, **more)


def repeating(repeats: int, usd: float = 0.0, tokens: int = 0) -> Sums:
    return Sums(
        requests=1000, prompt=1_000_000, repeats=repeats, repeated_tokens=tokens, repeated_pico=round(usd * PICO)
    )


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        (repeating(500, usd=7.0), ["repeats"]),
        (repeating(500, usd=0.23), []),  # 0.99 USD in 30 days
        (repeating(500, usd=0.24), ["repeats"]),
        (repeating(99, usd=7.0), []),
        (repeating(500, tokens=47_000), []),  # 4.9 % more
        (repeating(500, tokens=48_000), ["repeats"]),  # 5.04 %
    ],
)
def test_repeats_are_worth_a_dollar_a_month_or_a_twentieth_of_the_limit(row, kinds):
    assert [one.kind for one in found(("app", "m", row))] == kinds


def test_an_estimate_says_its_numbers():
    (one,) = found(("app", "m", repeating(500, usd=7.0, tokens=200_000)))
    assert one.usd_month == pytest.approx(30.0)
    assert one.tpm == pytest.approx(0.25)
    assert one.how == (
        "In 7.0 days, 500 of 1,000 requests were the same, word for word, as one of the 60 minutes before. They cost "
        "$7.00, in 30 days $30.00, and took 200,000 of the 1,000,000 tokens that the pool used of the model; without "
        "them its limit serves 25% more."
    )


def limited(allowed: int, written: list[int], prompt: int = 100) -> Sums:
    row = Sums(requests=len(written))
    for one in written:
        row.reserved += max(allowed, prompt)
        row.limit(allowed, prompt, max(allowed, prompt), one)
    return row


def test_a_maximum_is_named_that_all_but_one_answer_in_a_thousand_fit():
    (one,) = found(("app", "m", limited(4096, [200] * 999 + [3000])))
    assert (one.facts["maximum"], one.facts["longer"]) == (256, 1)
    (one,) = found(("app", "m", limited(4096, [200] * 998 + [1500, 2000])))
    assert (one.facts["maximum"], one.facts["longer"]) == (2048, 0)


def test_nothing_is_gained_below_what_the_prompt_reserves():
    (one,) = found(("app", "m", limited(4096, [200] * 1000, prompt=2000)))
    assert one.tpm == pytest.approx(4096 / 2000 - 1)
    assert found(("app", "m", limited(4096, [200] * 1000, prompt=4000))) == []  # 2.4 %


def test_answers_that_are_as_long_as_they_may_be_are_no_waste():
    assert found(("app", "m", limited(4096, [4096] * 1000))) == []
    assert found(("app", "m", limited(100_000, [90_000] * 1000))) == []


def test_where_upstream_gives_back_what_was_not_used_a_maximum_costs_nothing():
    assert found(("app", "m", limited(4096, [200] * 1000)), corrected={"m"}) == []
    assert found(("app", "m", limited(4096, [200] * 1000)), corrected={"other"}) != []


@given(
    st.lists(st.tuples(st.integers(1, 50_000), st.integers(0, 50_000), st.integers(0, 3000)), min_size=1, max_size=30),
    st.sampled_from(range(len(MAXIMA))),
)
def test_what_would_be_reserved_is_what_each_request_would_reserve(requests: list[tuple[int, int, int]], place: int):
    row = Sums()
    for allowed, written, prompt in requests:
        row.limit(allowed, prompt, max(allowed, prompt), written)
    expected = sum(max(min(allowed, MAXIMA[place]), prompt) for allowed, _, prompt in requests)
    assert row.would_reserve[place] == expected
    assert sum(row.fits[: place + 1]) == sum(written <= MAXIMA[place] for _, written, _ in requests)


def test_beginnings_are_worth_what_the_cached_price_is_lower():
    alike = Sums(requests=500, long=500, alike=400, alike_tokens=4_000_000, alike_uncached=3_000_000)
    (one,) = found(("app", "model-a", alike), days=3)
    assert one.usd_month == pytest.approx(3 * 2.25 * 10)
    assert found(("app", "embedder", alike)) == []  # without a cached price
    assert found(("app", "unknown", alike)) == []


def test_work_that_can_wait_is_advised_only_where_flex_or_batch_has_a_price():
    row = Sums(
        requests=200, patient=200, patient_prompt=10**6, patient_completion=10**5, patient_pico=round(3.5 * PICO)
    )
    (one,) = found(("app", "model-a", row), days=1)
    assert one.usd_month == pytest.approx(30 * 1.75)
    assert found(("app", "model-b", row), days=1) == []


def test_with_the_real_price_data():
    prices = PriceList(compile_cards(date(2026, 11, 1)))
    row = Sums(requests=200, prompt=10**6, completion=10**5, pico=round(6.5 * PICO))
    # 5 and 15 USD for a million tokens, against 2.50 and 10
    (one,) = found(("app", "gpt-4o-2024-05-13", row), days=1, prices=prices)
    assert (one.kind, one.usd_month) == ("snapshot", pytest.approx(30 * (6.5 - 3.5)))
    assert found(("app", "gpt-4o-2024-08-06", row), days=1, prices=prices) == []  # it costs what gpt-4o costs
    assert found(("app", "gpt-4o", row), days=1, prices=prices) == []
    # Of successors by another name (gpt-4 -> gpt-4o), the data say nothing.
    assert found(("app", "gpt-4", row), days=1, prices=prices) == []


def test_less_than_a_day_is_not_taken_for_a_rate():
    hour_ago = 1_000_000.0 - 3600
    week = week_of([Day(hour_ago, {("app", "m"): Sums(requests=1)})], 1_000_000.0)
    assert week.days == 1.0
    week = week_of([Day(hour_ago - 3 * 86_400, {}), Day(hour_ago, {("app", "m"): Sums(requests=1)})], 1_000_000.0)
    assert week.days == pytest.approx(3 + 1 / 24)


def test_no_notes_are_no_advice():
    assert findings(week_of([], 0.0), CARDS, cached_for_s=3600) == []


@settings(max_examples=1000)
@given(
    st.lists(st.integers(0, 2**40), min_size=len(flat(Sums())), max_size=len(flat(Sums()))),
    st.sampled_from(["model-a", "model-b", "model-a-2024-05-13", "embedder", "unknown"]),
)
def test_whatever_the_sums_are_estimates_are_sound(numbers: list[int], model: str):
    row = of_flat(numbers)
    assert row is not None
    assert flat(row) == numbers
    for one in found(("app", model, row), ("other", model, Sums(requests=5))):
        assert one.usd_month is None or one.usd_month >= 1 or (one.tpm or 0) >= 0.05
        assert one.usd_month or one.tpm or one.rpm
        assert one.advice
        assert one.how
        assert max(one.facts.get("requests", LEAST_REQUESTS), one.facts.get("alike", 0)) >= 0


def test_those_that_save_most_come_first():
    rows = [(name, "m", repeating(500, usd=usd)) for name, usd in (("a", 1.0), ("b", 5.0), ("c", 2.0))]
    assert [one.client for one in found(*rows, ("d", "m2", limited(4096, [10] * 200)))] == ["b", "c", "a", "d"]
