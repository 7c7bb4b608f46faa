"""Offered more than the pool's budget: upstream refuses next to nothing, next to nothing is wasted, the books agree."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.fakes.load import End, Load
from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.scenarios.bookkeeping import (
    expect_equal_books,
    proxy_book,
    refused_upstream,
    upstream_book,
    upstream_sum,
)


@dataclass(frozen=True, slots=True)
class Figures:
    """`used`: granted requests as a share of what the keys' full buckets and their refill would have allowed."""

    attempts: int
    refused_upstream: int
    used: float
    line: str


def overload(
    start_simulator: Callable[..., Simulator],
    start_proxy: Callable[..., RunningProxy],
    *,
    keys: int = 10,
    rpm: int = 60,
    offered_rpm: float,
    seconds: float,
    workers: int = 1,
    charging: str = "keep",
    max_wait: str = "1s",
) -> Figures:
    """Given `keys` of `rpm`, if `offered_rpm` are offered for `seconds`, I expect at most 0.1 % refused upstream,
    clients that see nothing but answers and the proxy's own 429, and equal books."""
    simulator = start_simulator(keys, "--rpm", str(rpm), "--latency-ms", "20", "--charging", charging)
    proxy = start_proxy(pool_config(simulator, workers=workers, queue={"max_wait": max_wait}))
    began = time.monotonic()
    with Load(proxy.base_url, rate=offered_rpm / 60, seconds=seconds) as load:
        pass
    last = max(record.ended for record in load.records if record.end is End.OK)
    assert set(load.ends) <= {"ok", "429"}, load
    book = expect_equal_books(simulator, proxy)
    refused = refused_upstream(simulator)
    assert refused <= book.attempts * 0.001, f"{refused} of {book.attempts} refused upstream"
    assert book.attempts - refused == load.ends["ok"]
    possible = min(load.done, keys * (rpm + rpm / 60 * (last - began)))
    return Figures(book.attempts, refused, load.ends["ok"] / possible, str(load))


def clients_that_leave(
    start_simulator: Callable[..., Simulator],
    start_proxy: Callable[..., RunningProxy],
    *,
    seconds: float,
    workers: int = 1,
) -> None:
    """If clients break streams off, I expect the books to differ by no more than those streams' own tokens."""
    simulator = start_simulator(10, "--rpm", "100000", "--tpm", "0", "--tokens-per-second", "100")
    proxy = start_proxy(pool_config(simulator, workers=workers))
    with Load(proxy.base_url, clients=16, seconds=seconds, leave=0.5) as load:
        pass
    assert set(load.ends) == {"ok", "left"}, load
    wait_until(lambda: upstream_sum(simulator, "open_streams") == 0, "upstream's streams end", 15)
    wait_until(lambda: proxy_book([proxy]).attempts == upstream_book(simulator).attempts, "equal attempts", 15)
    wait_until(lambda: proxy.total("quotapool_requests_in_flight") == 0, "nothing is in flight", 15)
    assert upstream_sum(simulator, "cut_streams") == load.ends["left"]
    unseen = upstream_book(simulator).tokens - proxy_book([proxy]).tokens
    of_cut_ones = upstream_sum(simulator, "cut_prompt_tokens") + upstream_sum(simulator, "cut_completion_tokens")
    assert 0 <= unseen <= of_cut_ones, (unseen, of_cut_ones)
