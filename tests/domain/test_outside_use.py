"""When outside use is named: what is evidence, how it adds up and fades, and what contradicts it."""

from __future__ import annotations

import math

import pytest
from quotapool.domain.outside_use import (
    MOST_A_SLICE,
    NAMED,
    QUIET_S,
    SLICE_S,
    UNSEEN_S,
    Judgement,
    Slice,
    Slices,
    is_named,
    likelihood,
)

T0 = 1_700_000_000.0
RPM, TPM = 60.0, 60_000.0


def requests(n: int, more: int = 0, less: int = 0, *, answers: int = 20, busy: int = 0, taught: float = 0.0) -> Slice:
    """The n-th slice of ten seconds."""
    return Slice(answers, more, less, busy + more, busy, 0, RPM, T0 + n * SLICE_S, taught)


def tokens(n: int, more: int = 0, less: int = 0, *, busy: int = 0, exact: int = 10) -> Slice:
    """`exact`: upstream counts as we do."""
    return Slice(20, more, less, busy + more, busy, exact, TPM, T0 + n * SLICE_S, 0.0)


def both(n: int, kept: Slice, corrected: Slice, *, more: int = 0, overruns: float = 0.0) -> Slices:
    return Slices(requests(n, more), kept, corrected, None, overruns)


def judged(*slices: Slices) -> Judgement:
    judgement = Judgement()
    for one in slices:
        judgement.take(one)
    return judgement


def of_requests(count: int, more: int, less: int = 0, start: int = 0) -> list[Slices]:
    return [Slices(requests(n, more, less)) for n in range(start, start + count)]


def test_the_likelihood_ratio_by_hand():
    # 3 of 10 where 1 in 10 is noise, and a share of 0.1 more is looked for: 3 ln(0.2/0.1) + 7 ln(0.8/0.9)
    assert likelihood(3, 10, 0.1, 0.1) == pytest.approx(3 * math.log(2) + 7 * math.log(8 / 9))
    assert likelihood(0, 10, 0.1, 0.1) < 0


def test_five_slices_that_agree_are_needed_whatever_they_show():
    assert 4 < NAMED / MOST_A_SLICE <= 5
    four, five = judged(*of_requests(4, 20)), judged(*of_requests(5, 20))
    assert not is_named(four, before=False, now=T0 + 40)
    assert is_named(five, before=False, now=T0 + 50)
    # ... since the first of them began.
    assert five.since == T0 - SLICE_S


def test_what_overtakes_is_overtaken_and_proves_nothing():
    assert judged(*of_requests(200, 5, 5)).strength == 0
    assert judged(*of_requests(200, 0, 0)).strength == 0


def test_while_our_requests_wait_for_the_limit_a_network_that_shuffles_them_is_not_forgotten():
    # Given a network that shows one in ten too high and one too low, and chance, by which it is four and one of 20
    network, chance = of_requests(50, 2, 2), of_requests(5, 4, 1, start=150)
    # ... with 1,000 s between them in which each request finds the bucket in use, so that nothing differs
    waiting = [Slices(requests(n, busy=20)) for n in range(50, 150)]
    between = judged(*network, *waiting, *chance)
    assert not is_named(between, before=False, now=T0 + 1_550)
    assert between.strength == judged(*network, *chance).strength


def test_what_one_slice_proves_in_a_network_that_shuffles_by_hand():
    # Of about 500 answers that are remembered, 48 + 1 were too low: 0.005 + 0.6 * 0.098 of them are noise. Four too
    # high, less 1.3 times the one that is too low, where a share of 0.12 more is looked for
    judgement = judged(*of_requests(300, 2, 2), *of_requests(1, 4, 1, start=300))
    expected = 2.7 * math.log(0.1838 / 0.0638) + 17.3 * math.log(0.8162 / 0.9362)
    assert judgement.strength == pytest.approx(expected, rel=1e-3)


def test_a_pause_now_and_then_is_forgotten():
    # Given one slice in ten in which all that came after a pause lacks more
    slices = [Slices(requests(n, 20 if n % 10 == 0 else 0)) for n in range(500)]
    judgement = Judgement()
    for one in slices:
        judgement.take(one)
        assert judgement.strength <= MOST_A_SLICE


def test_a_level_that_has_to_follow_upstream_down_is_evidence_too():
    # Given a bucket that we use without a pause, so that nothing lacks more, but each slice teaches it 2 requests less,
    # which is 20 % of the 10 that refill
    slices = [Slices(requests(n, busy=20, taught=-2.0 * n)) for n in range(7)]
    assert is_named(judged(*slices), before=False, now=T0 + 70)
    # A fiftieth of the refill is what rounding and delays make of it.
    assert judged(*(Slices(requests(n, busy=20, taught=-0.2 * n)) for n in range(50))).strength == 0


def test_the_rates_by_hand():
    # A quarter of the answers find a request of others (5 of 20), which takes a second to refill: 0.25 of 60 a minute.
    assert judged(*of_requests(6, 5)).requests_per_minute == pytest.approx(15.0)
    # Always in use, and corrected by 2 requests in ten seconds
    busy = judged(*(Slices(requests(n, busy=20, taught=-2.0 * n)) for n in range(100)))
    assert busy.requests_per_minute == pytest.approx(12.0, rel=0.05)


def test_of_a_day_each_request_that_is_missing_counts():
    def day(n: int, taught: float) -> Slices:
        return Slices(day=Slice(5, 0, 0, 5, 5, 0, 200.0, T0 + n * SLICE_S, taught))

    # 3 requests in each slice, of which 0.5 (a tenth of our 5 answers) would be noise: 2.5, 6 times
    assert not is_named(judged(*(day(n, -3.0 * n) for n in range(6))), before=False, now=T0 + 60)
    assert is_named(judged(*(day(n, -3.0 * n) for n in range(7))), before=False, now=T0 + 70)
    assert judged(*(day(n, 0.0) for n in range(100))).strength == 0


class TestTokens:
    def test_alone_they_name_others_who_make_few_requests(self):
        slices = [both(n, tokens(n, 8), tokens(n, 8)) for n in range(5)]
        assert is_named(judged(*slices), before=False, now=T0 + 50)

    def test_while_neither_prediction_fits_better_both_have_to_show_it(self):
        slices = [both(n, tokens(n, 0), tokens(n, 2)) for n in range(20)]
        assert judged(*slices).by_tokens == 0

    def test_the_prediction_that_upstream_refutes_says_nothing(self):
        # Given an upstream that corrects: what keeps the estimate lacks more than upstream does, again and again
        for_months = [both(n, tokens(n, 0, 8), tokens(n)) for n in range(50)]
        others = [both(n, tokens(n, 2, 6), tokens(n, 8)) for n in range(50, 60)]
        assert is_named(judged(*for_months, *others), before=False, now=T0 + 600)

    def test_they_prove_nothing_of_an_upstream_that_counts_in_another_way(self):
        # Given none of the requests that found the bucket full that makes it lack what we had estimated
        assert judged(*(both(n, tokens(n, 8, exact=0), tokens(n, 8, exact=0)) for n in range(50))).strength == 0
        # ... or none that found it full
        assert judged(*(both(n, tokens(n, 8, busy=20), tokens(n, 8, busy=20)) for n in range(50))).strength == 0

    def test_the_prediction_that_is_never_full_does_not_hide_that_upstream_counts_as_we_do(self):
        # Given an upstream that corrects, so that what keeps the estimate thinks it is always in use
        for_months = [both(n, tokens(n, 0, 8, busy=20, exact=0), tokens(n)) for n in range(50)]
        others = [both(n, tokens(n, 2, 6, busy=20, exact=0), tokens(n, 8)) for n in range(50, 60)]
        assert is_named(judged(*for_months, *others), before=False, now=T0 + 600)

    def test_that_others_use_it_all_the_time_does_not_hide_that_upstream_counts_as_we_do(self):
        ours_alone = [both(n, tokens(n), tokens(n)) for n in range(20)]
        others = [both(n, tokens(n, 15, exact=0), tokens(n, 15, exact=0), more=3) for n in range(20, 100)]
        assert is_named(judged(*ours_alone, *others), before=False, now=T0 + 1_000)

    def test_they_do_not_count_where_more_was_used_than_estimated(self):
        # Given pictures, which no estimate foresees
        slices = [both(n, tokens(n, 8), tokens(n, 8), overruns=4) for n in range(50)]
        assert judged(*slices).strength == 0

    def test_they_are_contradicted_when_nobody_makes_requests(self):
        # Given an upstream that counts far more tokens than we do, and 2,000 answers without one request too many
        slices = [both(n, tokens(n, 8), tokens(n, 8)) for n in range(100)]
        assert judged(*slices).by_tokens < NAMED

    def test_what_waits_for_one_limit_is_heard_by_that_limit_alone(self):
        # Given requests that come as evenly as their limit refills, and tokens of which delays now make a difference
        slices = [Slices(requests(n, busy=20), tokens(n, 6), tokens(n, 6)) for n in range(50)]
        assert judged(*slices).strength == 0


class TestItsEnd:
    def test_it_is_over_when_the_evidence_is_gone_and_some_time_has_passed(self):
        named = [*of_requests(10, 20)]
        # The evidence is 2 x 13 at most. 20 answers that show nothing take 20 ln(0.875 / 0.995) = 2.57 of it, seven
        # times, until less is left than chance alone may have (6): at the eighth quiet slice.
        quiet = judged(*named, *of_requests(30, 0, start=10))
        assert quiet.strength == 0
        last = T0 + 16 * SLICE_S
        assert is_named(quiet, before=True, now=last + QUIET_S - 1)
        assert not is_named(quiet, before=True, now=last + QUIET_S)

    def test_without_answers_of_ours_nobody_can_say_any_more(self):
        named = judged(*of_requests(10, 20))
        assert is_named(named, before=True, now=named.seen + UNSEEN_S - 1)
        assert not is_named(named, before=True, now=named.seen + UNSEEN_S)
        assert not is_named(named, before=False, now=named.seen + UNSEEN_S)  # or it would be named again at once

    def test_it_comes_back_by_as_much_evidence_as_at_first(self):
        over = judged(*of_requests(10, 20), *of_requests(30, 0, start=10))
        for one in of_requests(4, 20, start=40):
            over.take(one)
        assert not is_named(over, before=False, now=T0 + 500)


def test_a_slice_without_answers_and_one_of_a_new_bucket_change_nothing():
    judgement = judged(*of_requests(3, 20))
    before = judgement.strength
    judgement.take(Slices())
    assert judgement.strength == before
    # A store that was emptied counts from 0 again: -500 before, 0 now
    fresh = judged(Slices(requests(0, taught=-500.0)), Slices(requests(1, taught=0.0)))
    assert fresh.strength == 0
