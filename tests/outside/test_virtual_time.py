"""Outside use in virtual time: 20 % is named within five minutes, and nobody is named who is not there.

Many more seeds, loads and hours: `benchmarks/outside_use_in_virtual_time.py`; its figures are in docs/outside-use.md.
"""

from __future__ import annotations

import pytest

from benchmarks.outside_use_in_virtual_time import NETWORKS, Case, World

BEGINS = 600.0
WITHIN = 300.0


@pytest.mark.parametrize("charging", ["keep", "correct"])
@pytest.mark.parametrize("own", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("load", ["rpm", "tpm", "mixed"])
def test_20_percent_of_outside_use_are_named_within_five_minutes(load, own, charging):
    case = Case(charging, load, own, outside=0.2, outside_from=BEGINS, seconds=BEGINS + WITHIN, replicas=2, seed=7)
    outcome = World(case).run()
    # A negative time would be a false alarm.
    assert outcome.named_at is not None
    assert 0 < outcome.named_at - BEGINS <= WITHIN
    # ... and about when it began
    assert abs(outcome.found.since - BEGINS) <= 120


@pytest.mark.parametrize("load", ["rpm", "tpm"])
def test_the_rate_that_is_told_is_about_the_true_one(load):
    case = Case("keep", load, 0.5, outside=0.2, outside_from=BEGINS, seconds=BEGINS + 1_200, seed=3)
    world = World(case)
    outcome = world.run()
    (judged,) = (world.watch.judged(name) for name in world.watch.named)
    if load == "rpm":
        assert judged.requests_per_minute == pytest.approx(outcome.requests, rel=0.35)
    assert judged.tokens_per_minute == pytest.approx(outcome.tokens, rel=0.35)


def test_its_end_is_told():
    case = Case("keep", "rpm", 0.4, outside=0.2, outside_from=BEGINS, outside_until=1_200.0, seconds=3_000.0, seed=5)
    world = World(case)
    outcome = world.run()
    assert outcome.named_at is not None
    # Ten minutes after the evidence is gone, which takes a while
    assert 1_200 + 600 <= outcome.ended_at <= 1_200 + 1_200
    assert not world.watch.named


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize(("load", "charging"), [("rpm", "keep"), ("mixed", "keep"), ("mixed", "correct")])
@pytest.mark.parametrize("own", [0.5, 1.3])
def test_who_is_not_there_is_not_named_whatever_the_network_does(load, charging, own, options):
    outcome = World(Case(charging, load, own, rpm=60, tpm=40_000, seconds=4 * 3600.0, seed=11, **options)).run()
    assert outcome.named_at is None
    assert outcome.served > 500


def test_when_our_requests_wait_no_longer_what_the_network_does_then_is_nobody():
    # Given a quarter of an hour in which they wait for tokens, so that nothing differs, then a third of the load
    network = NETWORKS["the same in bursts of 10, 4 replicas, delays up to 100 ms, pauses of up to 2 s"]
    outcome = World(Case("correct", "mixed", 1.3, seed=7, **network)).run()
    assert outcome.named_at is None


@pytest.mark.parametrize("own", [0.3, 0.9])
def test_an_upstream_that_counts_a_quarter_more_tokens_than_we_do_is_nobody(own):
    outcome = World(Case("keep", "mixed", own, seconds=3600.0, counts=1.25, seed=13)).run()
    assert outcome.named_at is None
