"""What holds under load, at a length for every day; tests/soak runs the same scenarios at full length."""

from __future__ import annotations

import pytest

from tests.scenarios import budgets, dying_keys, faults, kills

pytestmark = pytest.mark.alone


def test_a_pool_offered_too_much_uses_its_budget_and_upstream_refuses_next_to_nothing(start_simulator, start_proxy):
    # Ten keys of 60 RPM, offered 4,500 RPM, so that their full buckets are used up within seconds.
    figures = budgets.overload(start_simulator, start_proxy, offered_rpm=4500, seconds=12)
    assert figures.used >= 0.93, figures  # the breath below upstream's depth weighs more in a short run


def test_streams_cut_by_clients_leave_no_more_than_their_own_tokens_uncounted(start_simulator, start_proxy):
    budgets.clients_that_leave(start_simulator, start_proxy, seconds=3)


def test_four_of_ten_keys_die_and_no_client_of_four_workers_notices(start_simulator, start_proxy):
    dying_keys.four_keys_die(start_simulator, start_proxy, workers=4)


def test_four_of_ten_keys_die_and_no_client_of_two_replicas_notices(start_simulator, start_proxy, valkey_url):
    dying_keys.four_keys_die(start_simulator, start_proxy, replicas=2, redis=valkey_url)


def test_a_killed_worker_takes_only_its_own_connections_with_it(start_simulator, start_proxy):
    kills.a_worker_is_killed(start_simulator, start_proxy)


def test_a_killed_embedded_store_is_a_pause_and_nothing_else(start_simulator, start_proxy, tmp_path):
    kills.the_store_is_killed(start_simulator, start_proxy, tmp_path)


def test_after_a_killed_supervisor_a_fresh_start_remembers_all(start_simulator, start_proxy, tmp_path):
    kills.the_supervisor_is_killed(start_simulator, start_proxy, tmp_path)


def test_a_stop_under_load_ends_without_a_client_error(start_simulator, start_proxy):
    kills.it_is_stopped(start_simulator, start_proxy)


def test_upstream_failures_before_the_first_byte_are_not_noticed(start_simulator, start_proxy):
    faults.nobody_notices(start_simulator, start_proxy)


def test_a_stream_that_upstream_breaks_off_never_looks_whole(start_simulator, start_proxy):
    faults.broken_streams_look_broken(start_simulator, start_proxy)
