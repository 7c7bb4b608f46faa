"""The scenarios of tests/end_to_end/test_under_load.py at full length, about twenty minutes: `pytest tests/soak -s`."""

from __future__ import annotations

import pytest

from tests.scenarios import budgets, dying_keys, faults, kills


@pytest.mark.parametrize("workers", [1, 4])
def test_ten_keys_of_60_rpm_offered_900_rpm_for_two_minutes(start_simulator, start_proxy, workers):
    print(budgets.overload(start_simulator, start_proxy, offered_rpm=900, seconds=120, workers=workers, max_wait="30s"))


@pytest.mark.parametrize("charging", ["keep", "correct"])
def test_offered_far_too_much_the_pool_uses_98_percent(start_simulator, start_proxy, charging):
    figures = budgets.overload(
        start_simulator, start_proxy, offered_rpm=3000, seconds=120, charging=charging, max_wait="5s"
    )
    print(figures)
    assert figures.used >= 0.98


def test_streams_cut_by_clients(start_simulator, start_proxy):
    budgets.clients_that_leave(start_simulator, start_proxy, seconds=60, workers=2)


@pytest.mark.parametrize("workers", [1, 4])
def test_four_of_ten_keys_die_in_one_process_group(start_simulator, start_proxy, workers):
    print(dying_keys.four_keys_die(start_simulator, start_proxy, workers=workers, seconds=90))


def test_four_of_ten_keys_die_in_two_replicas(start_simulator, start_proxy, valkey_url):
    print(dying_keys.four_keys_die(start_simulator, start_proxy, replicas=2, redis=valkey_url, seconds=90))


# Kills stand apart: what dies again within seconds of its start is replaced ever more slowly, on purpose.


def test_workers_killed_again_and_again(start_simulator, start_proxy):
    print(kills.a_worker_is_killed(start_simulator, start_proxy, kills=10, apart_s=8.0))


def test_the_store_killed_again_and_again(start_simulator, start_proxy, tmp_path):
    print(kills.the_store_is_killed(start_simulator, start_proxy, tmp_path, kills=5, apart_s=12.0, keys=10))


@pytest.mark.parametrize("run", range(5))
def test_the_supervisor_killed(start_simulator, start_proxy, tmp_path, run):
    print(run, kills.the_supervisor_is_killed(start_simulator, start_proxy, tmp_path, keys=10))


@pytest.mark.parametrize("tokens_per_second", [200.0, 32.0, 11.0, 5.0])
def test_stopped_under_load(start_simulator, start_proxy, tokens_per_second):
    print(kills.it_is_stopped(start_simulator, start_proxy, clients=30, tokens_per_second=tokens_per_second))


def test_faults_for_long(start_simulator, start_proxy):
    print(faults.nobody_notices(start_simulator, start_proxy, rounds=10))
    print(faults.broken_streams_look_broken(start_simulator, start_proxy, seconds=60))
