"""A client's budget in dollars holds, and the books are upstream's bill, whatever happens. SOAK_SECONDS (180): each."""

from __future__ import annotations

import os

from tests.scenarios.client_budgets import Trial

SECONDS = float(os.environ.get("SOAK_SECONDS", "180"))
DOLLARS_A_SECOND = 0.15  # less than the load would spend, so that the budget is used up on the way


def test_streams_cut_streams_and_failing_upstreams(start_simulator, start_proxy, tmp_path):
    figures = Trial(usd=SECONDS * DOLLARS_A_SECOND, seconds=SECONDS).run(start_simulator, start_proxy, tmp_path)
    print(f"\n{figures}")
    assert figures.most_booked <= figures.limit
    assert figures.booked >= 0.97 * figures.limit
    assert round(figures.booked, 6) == round(figures.billed, 6)


def test_the_store_is_killed(start_simulator, start_proxy, tmp_path):
    figures = Trial(usd=SECONDS * DOLLARS_A_SECOND, seconds=SECONDS, store_kills=3).run(
        start_simulator, start_proxy, tmp_path
    )
    print(f"\n{figures}")
    assert figures.most_booked <= figures.limit
    assert figures.booked >= 0.97 * figures.limit
    assert round(figures.booked, 6) == round(figures.billed, 6)


def test_workers_are_killed(start_simulator, start_proxy, tmp_path):
    trial = Trial(usd=SECONDS * DOLLARS_A_SECOND, seconds=SECONDS, worker_kills=3, store_kills=1)
    figures = trial.run(start_simulator, start_proxy, tmp_path)
    print(f"\n{figures}")
    assert figures.most_booked <= figures.limit
    assert figures.booked >= 0.97 * figures.limit
    assert figures.held == 0
    # What was under way in a worker that was killed is billed, and nobody is left who could book it.
    assert -1e-9 <= figures.billed - figures.booked <= 3 * trial.concurrent / trial.replicas * 0.005
