"""What the last minute's requests add up to: rates by arithmetic, whether all of them were read or only a part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.wallet import PICO
from quotapool.reports.recent import MOST_TROUBLES, Recent

from tests.fakes.kept_requests import kept, tried

NOW = 1_800_000_000.0


def ended(seconds_ago: float, **changed):
    """A request that took no time and ended so long ago."""
    return kept(at=NOW - seconds_ago, total_us=0, queued_us=0, **changed)


def began(*requests, is_all: bool = True) -> Recent:
    recent = Recent()
    recent.begin(sorted(requests, key=lambda one: one.ended), NOW, is_all=is_all)
    return recent


def test_the_first_reading_knows_the_minute_before():
    # Given 30 requests in the last ten seconds and 30 in the fifty before
    recent = began(*(ended(n / 3) for n in range(30)), *(ended(10.5 + n) for n in range(30)))
    assert recent.traffic(NOW).requests_per_s == pytest.approx(3.0)
    (client,) = recent.clients(NOW)
    assert client.requests_per_minute == pytest.approx(60.0)


def test_what_ended_more_than_a_minute_ago_counts_no_more_but_its_error_is_shown():
    recent = began(ended(61, status=503, code="no_usable_key"), ended(3_600))
    assert recent.traffic(NOW).requests_per_s == 0
    assert recent.clients(NOW) == []
    (trouble,) = recent.troubles()
    assert (trouble.status, trouble.why) == (503, "no_usable_key")


def test_of_a_pool_so_busy_that_only_some_seconds_are_kept_the_rate_is_of_these():
    # Given that the ring holds the last 400 requests, 20 seconds of them
    recent = began(*(ended((n + 0.5) / 20) for n in range(400)), is_all=False)
    assert recent.traffic(NOW).requests_per_s == pytest.approx(20.0)
    (client,) = recent.clients(NOW)
    assert client.requests_per_minute == pytest.approx(1_200.0, rel=0.01)  # 19 whole seconds are known


def test_a_reading_counts_from_the_one_before():
    recent = began()
    for n in range(1, 6):
        recent.add([ended(0)] * 10, NOW + 2 * n, 10)
    assert recent.traffic(NOW + 10).requests_per_s == pytest.approx(5.0)
    # 50 in the last minute, most of which was before
    (client,) = recent.clients(NOW + 10)
    assert client.requests_per_minute == pytest.approx(50.0)
    recent.add([], NOW + 80, 0)
    assert recent.traffic(NOW + 80).requests_per_s == 0
    assert recent.clients(NOW + 80) == []


def test_if_only_a_part_is_read_each_counts_for_several():
    recent = began()
    # Given 1,000 that ended, of which the 100 that were read were refused in one of four cases
    some = [ended(0, status=429 if n % 4 == 0 else 200, prompt=10, completion=0, pico=PICO // 100) for n in range(100)]
    recent.add(some, NOW + 2, 1_000)
    (client,) = recent.clients(NOW + 2)
    assert client.requests_per_minute == pytest.approx(1_000)
    assert client.refused_per_minute == pytest.approx(250)
    assert client.tokens_per_minute == pytest.approx(10_000)
    assert client.usd_per_hour == pytest.approx(60 * 10)


@pytest.mark.parametrize(
    ("changed", "refused", "failed"),
    [
        ({"status": 200}, 0, 0),
        ({"status": 429}, 1, 0),
        ({"status": 500}, 0, 1),
        ({"status": 404}, 0, 1),
        ({"status": 200, "cut": True}, 0, 1),
        ({"status": 429, "cut": True}, 1, 0),
    ],
)
def test_refused_is_429_and_failed_is_every_other_error_and_what_was_cut(changed, refused, failed):
    (client,) = began(ended(1, **changed)).clients(NOW)
    assert (client.requests_per_minute, client.refused_per_minute, client.failed_per_minute) == (1, refused, failed)


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [("ok", 0), ("cancelled", 0), ("request", 0), ("wait", 1), ("dead", 1), ("money", 1), ("network", 1)],
)
def test_a_key_fails_by_what_is_its_own_or_upstreams_fault(outcome, failed):
    recent = began(ended(1, attempts=(tried("alpha", outcome), tried("beta", "ok"))))
    assert recent.keys(NOW) == {"alpha": (1, failed), "beta": (1, 0)}


def test_percentiles_are_of_the_last_minutes_requests():
    recent = began(*(kept(at=NOW - 2, queued_us=1_000 * n, total_us=2_000 * n) for n in range(1, 102)))
    traffic = recent.traffic(NOW)
    assert (traffic.wait_p50_ms, traffic.wait_p99_ms) == (51, 100)
    assert (traffic.total_p50_ms, traffic.total_p99_ms) == (102, 200)
    recent.add([], NOW + 120, 0)
    assert recent.traffic(NOW + 120).total_p50_ms is None


def test_an_error_says_who_and_why_and_what_was_tried_the_newest_first():
    recent = began(
        ended(9, id="qp_1", status=502, attempts=(tried("alpha", "network"), tried("beta", "service", "overloaded"))),
        ended(8, id="qp_2", status=429, code="client_limit", attempts=(), client="app", cut=False),
        ended(7, id="qp_3", status=200, cut=True),
        ended(6, id="qp_4"),
    )
    found = recent.troubles()
    assert [(one.id, one.status, one.why) for one in found] == [
        ("qp_3", 200, "cut"),
        ("qp_2", 429, "client_limit"),
        ("qp_1", 502, "overloaded"),
    ]
    assert found[2].tried == "alpha:network beta:service"
    recent.add([ended(0, id=f"new-{n}", status=500) for n in range(60)], NOW + 2, 60)
    assert [one.id for one in recent.troubles()][:2] == ["new-59", "new-58"]
    assert len(recent.troubles()) == MOST_TROUBLES


@given(st.lists(st.tuples(st.floats(0.1, 30), st.integers(0, 20), st.integers(1, 5)), min_size=1, max_size=40))
def test_clients_add_up_to_what_ended_in_the_minute(readings):
    recent, at = Recent(), NOW
    recent.begin([], at, is_all=True)
    counted: list[tuple[float, int]] = [(NOW - n, 0) for n in range(60)]
    for seconds, read, times in readings:
        at += seconds
        recent.add([ended(0, client=f"c-{n % 3}") for n in range(read)], at, read * times)
        counted.append((at, read * times))
    # Readings count as a whole: those of the last 60 s, over the time since the last one before them.
    began_at = max((end for end, _ in counted if end <= at - 60), default=NOW - 60)
    expected = sum(number for end, number in counted if end > at - 60) * 60 / (at - began_at)
    assert sum(one.requests_per_minute for one in recent.clients(at)) == pytest.approx(expected)
