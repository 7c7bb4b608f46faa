"""Guessing is slow; whoever does not guess does not notice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.failed_logins import MOST_ADDRESSES, FailedLogins


def failing(failed: FailedLogins, address: str, times: int, now: float) -> None:
    for _ in range(times):
        failed.note(address, now)


def test_ten_failures_within_a_minute_are_enough():
    failed = FailedLogins()
    failing(failed, "192.0.2.1", 9, 100.0)
    assert failed.wait_s("192.0.2.1", 100.0) == 0
    failed.note("192.0.2.1", 110.0)
    assert failed.wait_s("192.0.2.1", 110.0) == 50.0  # until the first is a minute old
    assert failed.wait_s("192.0.2.1", 159.9) > 0
    assert failed.wait_s("192.0.2.1", 160.0) == 0
    assert failed.wait_s("192.0.2.2", 110.0) == 0


def test_a_network_of_one_caller_is_one_address():
    failed = FailedLogins()
    for n in range(10):
        failed.note(f"2001:db8:0:1::{n}", 0.0)
    assert failed.wait_s("2001:db8:0:1:ffff::9%eth0", 1.0) == 59.0
    assert failed.wait_s("2001:db8:0:2::1", 1.0) == 0
    failing(failed, "::ffff:192.0.2.1", 10, 0.0)
    assert failed.wait_s("192.0.2.1", 1.0) == 59.0


def test_many_addresses_that_guess_together_wait_together_and_the_holder_does_not():
    failed = FailedLogins()
    for n in range(100):
        failed.note(f"192.0.2.{n}", 0.0)
    assert failed.wait_s("192.0.2.7", 1.0) == 59.0
    assert failed.wait_s("198.51.100.1", 1.0) == 0
    assert failed.wait_s("192.0.2.7", 60.0) == 0


def test_what_did_not_fail_is_forgiven():
    failed = FailedLogins()
    for _ in range(50):
        failed.note("192.0.2.1", 0.0)
        failed.forgive("192.0.2.1")
    assert failed.wait_s("192.0.2.1", 0.0) == 0


@given(st.lists(st.tuples(st.integers(0, 3000), st.floats(0, 10)), max_size=200))
def test_memory_is_bounded(tries):
    failed, now = FailedLogins(), 0.0
    for number, later in [*tries, *((n, 0.01) for n in range(MOST_ADDRESSES + 10))]:
        now += later
        failed.note(f"10.0.{number // 256}.{number % 256}", now)
    assert len(failed._by_address) <= MOST_ADDRESSES
    assert len(failed._all) <= 100
