"""Store faults at full length, with one replica and with two: the table of docs/operations.md. About 15 minutes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.scenarios.store_faults import Pool, pool_under_load

FAULTS: dict[str, tuple[float, Callable[[Pool], None]]] = {
    "slow": (30.0, lambda pool: pool.store.slow(0.1)),
    "hung": (60.0, lambda pool: pool.store.hang()),
    "gone": (60.0, lambda pool: pool.store.go()),
    "empty": (10.0, lambda pool: pool.store.restart_empty()),
    "failover": (10.0, lambda pool: pool.store.fail_over(1.0)),
    "roles swapped behind the name": (10.0, lambda pool: pool.store.swap_roles()),
    "clock an hour forward": (30.0, lambda pool: pool.store.set_clock(3600)),
    "clock an hour back": (30.0, lambda pool: pool.store.set_clock(-3600)),
    "one error reply": (5.0, lambda pool: pool.store.answer_once("ERR max number of clients reached")),
    "one error of a script": (5.0, lambda pool: pool.store.answer_once("ERR user_script:1: no such thing script: f")),
    "no scripts": (30.0, lambda pool: pool.store.forbid_scripts()),
}


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_serve(tmp_path, fault, replicas):
    seconds, begin = FAULTS[fault]
    with pool_under_load(tmp_path, replicas=replicas, seconds=seconds + 60) as pool:
        figures = pool.suffer(lambda: begin(pool), seconds)
        afterwards = pool.suffer(lambda: None, 5.0)
        print(f"{fault}, {replicas} replicas: {figures}; afterwards {afterwards}")
        assert figures.errors == afterwards.errors == 0
        assert figures.oversold <= (0.03 if fault == "failover" else 0.02)
        assert figures.used >= 0.85
        assert figures.back_s <= 2.5
        assert afterwards.alone == 0
        assert afterwards.oversold <= 0.005
        assert pool.died_once()
        assert pool.still_knows_the_client()


def test_a_long_line_does_not_rush_in_when_the_store_is_back(tmp_path):
    # Given 150 % of the budget and so much patience that hundreds wait
    with pool_under_load(tmp_path, replicas=2, seconds=90, offered=1.5, max_wait="20s") as pool:
        figures = pool.suffer(pool.store.go, 60.0)
        print(f"gone, 2 replicas, 150 % offered: {figures}")
        assert figures.errors == 0
        assert figures.oversold <= 0.02


@pytest.mark.parametrize("fault", ["hung", "gone"])
def test_refuse(tmp_path, fault):
    seconds, begin = FAULTS[fault]
    with pool_under_load(tmp_path, replicas=2, seconds=seconds + 60, on_loss="refuse") as pool:
        figures = pool.suffer(lambda: begin(pool), seconds)
        print(f"{fault}, refuse: {figures}")
        assert set(figures.ends) <= {"ok", "429", "503"}
        assert figures.ends["503"] > 10 * figures.ends["429"]
        assert (figures.oversold, figures.alone) == (0, 0)
        assert figures.back_s <= 2.5
