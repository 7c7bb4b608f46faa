"""Counting in shared memory shows what the library's own counting shows, and no series is created too early."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from quotapool.domain.quantities import Certainty, Usage
from quotapool.observe.metrics import ANSWER_BUCKETS, WORK_BUCKETS, Metrics
from quotapool.observe.series import SlotCounter, SlotHistogram, counting, observing
from quotapool.observe.shared_text import shared_text
from quotapool.observe.shared_values import install, prepare


@contextmanager
def shared_memory() -> Iterator[Callable[[], str]]:
    """The page of what is counted in metrics made inside the block."""
    before = values.ValueClass
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place))
        slot = install(Path(place), "0")
        try:
            yield lambda: "".join(shared_text(Path(place)))
        finally:
            slot.close()
            values.ValueClass = before


def lines_of(page: str) -> set[str]:
    """The lines with numbers, but for the moments at which the library made its objects."""
    return {line for line in page.splitlines() if not line.startswith("#") and "_created" not in line}


SECONDS = st.one_of(
    st.floats(0, 1000), st.sampled_from((0.0, float("inf"), *ANSWER_BUCKETS)), st.sampled_from((-1e-9, 1e-300, 1e300))
)


@given(st.lists(SECONDS, max_size=30), st.lists(st.integers(0, 10**9), max_size=10), st.lists(st.integers(-9, 9)))
def test_ours_and_the_librarys_counts_are_the_same_numbers(seconds, amounts, changes):
    # Given the same three metrics twice, one counted in by the library's calls and one by ours
    theirs = CollectorRegistry()
    took = Histogram("took_seconds", "t", ["who"], registry=theirs, buckets=ANSWER_BUCKETS).labels("me")
    done = Counter("done_total", "d", registry=theirs)
    busy = Gauge("busy", "b", registry=theirs)
    with shared_memory() as ours:
        histogram = Histogram("took_seconds", "t", ["who"], registry=None, buckets=ANSWER_BUCKETS).labels("me")
        our_took = observing(histogram)
        our_done = counting(Counter("done_total", "d", registry=None))
        our_busy = counting(Gauge("busy", "b", registry=None, multiprocess_mode="livesum"))
        # Then the quick way is taken at all
        assert isinstance(our_took, SlotHistogram)
        assert isinstance(our_done, SlotCounter)
        assert isinstance(our_busy, SlotCounter)
        for one in seconds:
            took.observe(one)
            our_took.observe(one)
        for amount in amounts:
            done.inc(amount)
            our_done.inc(amount)
        for change in changes:
            busy.inc(change)
            our_busy.inc(change)
        assert lines_of(ours()) == lines_of(generate_latest(theirs).decode())


def count_some(metrics: Metrics) -> None:
    ok = metrics.request_tallies["chat", "gpt-4o", 200, "team-a"]
    for total in (0.4, 0.5, 700.0):
        ok.answered.inc()
        ok.took(total, WORK_BUCKETS[3])
        ok.first_byte_after(total / 2)
    metrics.request_tallies["other", "", 401, "anonymous"].answered.inc()
    calls = metrics.attempt_tallies["alpha", "gpt-4o", "ok"]
    calls.calls.inc()
    calls.used(Usage(Certainty.EXACT, 221, 27, 100, 5))
    calls.used(Usage(Certainty.EXACT, 3, 0))
    metrics.attempt_tallies["beta", "gpt-4o", "network"].calls.inc()
    metrics.requests_in_flight.inc()
    metrics.requests_in_flight.inc()
    metrics.requests_in_flight.inc(-1)
    metrics.queue_wait.observe(0.3)
    metrics.store.observe(0.0004)


def test_a_worker_shows_what_the_library_alone_would_show():
    alone = CollectorRegistry()
    count_some(Metrics(alone))
    with shared_memory() as page:
        count_some(Metrics(CollectorRegistry()))
        shown = lines_of(page())
    assert shown == lines_of(generate_latest(alone).decode())
    assert 'quotapool_request_duration_seconds_bucket{endpoint="chat",le="0.5",model="gpt-4o"} 2.0' in shown
    assert 'quotapool_tokens_total{key="alpha",kind="prompt",model="gpt-4o"} 224.0' in shown
    assert "quotapool_requests_in_flight 1.0" in shown


@pytest.mark.parametrize(
    ("count", "absent"),
    [
        (lambda m: m.request_tallies["chat", "gpt-4o", 503, "a"].answered.inc(), "quotapool_request_duration_seconds"),
        (lambda m: m.request_tallies["chat", "gpt-4o", 503, "a"].took(1, 0), "quotapool_time_to_first_byte_seconds"),
        (lambda m: m.attempt_tallies["a", "gpt-4o", "ok"].calls.inc(), "quotapool_tokens_total"),
        (lambda m: m.attempt_tallies["a", "gpt-4o", "ok"].used(Usage(Certainty.EXACT, 5)), 'kind="completion"'),
    ],
)
def test_a_series_is_created_when_something_is_counted_in_it(count: Callable[[Metrics], None], absent: str):
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    count(metrics)
    assert [line for line in lines_of(generate_latest(registry).decode()) if absent in line] == []
