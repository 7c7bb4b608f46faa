"""A store that is slow, hangs, goes, fails over or forgets, under load: what operations.md promises of two replicas.

One pool suffers all of it, one fault after the other; tests/soak/test_store_faults.py has each at full length.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import fetch
from tests.scenarios.store_faults import Pool, log_events, pool_under_load

pytestmark = pytest.mark.alone

SLACK_S = 2.0  # of a machine that has more to do


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    directory: Path = tmp_path_factory.mktemp("faults")
    with pool_under_load(directory, replicas=2, seconds=120) as made:
        yield made


def test_a_slow_store_costs_time_and_nothing_else(pool):
    figures = pool.suffer(lambda: pool.store.slow(0.1), 2.0)
    assert figures.errors == 0, figures
    assert figures.oversold <= 0.01, figures
    assert figures.used >= 0.9, figures  # ten answers a second, yet more than ten requests


def test_while_the_store_hangs_each_replica_serves_its_share(pool):
    figures = pool.suffer(pool.store.hang, 4.0)
    assert figures.errors == 0, figures
    assert figures.alone > 20, figures
    assert figures.oversold <= 0.02, figures
    assert figures.silence_s <= 2.25 + SLACK_S, figures  # store_patience, and the last call's deadline
    assert figures.back_s <= 1.5 + SLACK_S, figures
    assert all(pool.metric("quotapool_store_errors_total", kind="timeout"))


def test_while_the_store_is_gone_each_replica_serves_its_share_and_says_so(pool):
    said = []

    def look() -> None:
        said.append(pool.metric("quotapool_store_up"))
        said.append([fetch(f"{proxy.admin_url}/readyz")[0] for proxy in pool.proxies])
        said.append(pool.still_knows_the_client())

    figures = pool.suffer(pool.store.go, 5.0, meanwhile=look)
    assert said == [[0.0, 0.0], [200, 200], True]
    assert figures.errors == 0, figures
    assert figures.alone > 40, figures
    assert figures.oversold <= 0.02, figures
    assert figures.silence_s <= 2.25 + SLACK_S, figures  # store_patience, and the last call's deadline
    assert figures.back_s <= 1.5 + SLACK_S, figures
    assert pool.metric("quotapool_store_up") == [1.0, 1.0]
    assert all(pool.metric("quotapool_store_errors_total", kind="connection"))
    for proxy in pool.proxies:
        events = log_events(proxy)
        assert events.count("the store is away") == events.count("the store is back") >= 1


def test_a_failover_that_loses_the_last_second_oversells_no_more_than_that_second(pool):
    figures = pool.suffer(lambda: pool.store.fail_over(1.0), 1.5)
    assert figures.errors == 0, figures
    assert figures.oversold <= 1.5 / 60, figures
    assert figures.back_s <= 1.5 + SLACK_S, figures


def test_roles_that_are_swapped_behind_a_name_cost_no_answer(pool):
    figures = pool.suffer(pool.store.swap_roles, 1.5)
    assert figures.errors == 0, figures
    assert figures.oversold <= 0.02, figures
    assert figures.back_s <= 1.5 + SLACK_S, figures
    assert pool.metric("quotapool_store_up") == [1.0, 1.0]


def test_one_error_reply_is_over_with_the_next_look(pool):
    figures = pool.suffer(lambda: pool.store.answer_once("ERR user_script:1: no such thing script: f"), 1.5)
    assert figures.errors == 0, figures
    assert figures.oversold <= 0.02, figures
    assert figures.back_s <= 1.5 + SLACK_S, figures


@pytest.mark.parametrize("by_s", [3600, -3600])
def test_a_clock_that_is_set_sells_nothing_twice_and_stops_nobody(pool, by_s):
    figures = pool.suffer(lambda: pool.store.set_clock(by_s), 3.0)
    assert figures.errors == 0, figures
    assert figures.oversold <= 0.01, figures
    assert figures.used >= 0.75, figures
    assert figures.alone == 0, figures


def test_a_store_that_comes_back_empty_is_told_again_who_is_dead_and_who_may_come_in(pool):
    figures = pool.suffer(pool.store.restart_empty, 1.5)
    assert figures.errors == 0, figures
    assert figures.oversold <= 0.02, figures
    assert figures.back_s <= 1.5 + SLACK_S, figures
    assert pool.died_once()
    assert pool.still_knows_the_client()
    assert pool.metric("quotapool_keys", state="removed") == [1.0, 1.0]
    assert list(pool.store.client.hkeys("qp:{default}:clients")) == [b"team"]
    assert pool.store.client.get("qp:{default}:epoch").startswith(b"r:")  # new buckets start low for a while
