"""The two books: what the proxy counted and what upstream counted, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.fakes.processes import RunningProxy, Simulator, wait_until


@dataclass(frozen=True, slots=True)
class Book:
    """Requests sent upstream, and tokens billed for them."""

    attempts: int
    tokens: int


def upstream_sum(simulator: Simulator, field: str) -> int:
    return sum(int(account[field]) for account in simulator.stats()["accounts"])


def upstream_book(simulator: Simulator) -> Book:
    return Book(upstream_sum(simulator, "attempts"), upstream_sum(simulator, "total_tokens"))


def proxy_book(proxies: Iterable[RunningProxy]) -> Book:
    """Prompt and completion: cached and reasoning tokens are parts of these two."""
    attempts = tokens = 0.0
    for proxy in proxies:
        samples = proxy.metrics()
        for (name, labels), value in samples.items():
            if name == "quotapool_upstream_attempts_total":
                attempts += value
            elif name == "quotapool_tokens_total" and dict(labels)["kind"] in {"prompt", "completion"}:
                tokens += value
    return Book(int(attempts), int(tokens))


def expect_equal_books(simulator: Simulator, *proxies: RunningProxy) -> Book:
    """All that was begun is settled, and both sides say the same to the last token."""
    wait_until(lambda: upstream_sum(simulator, "open_streams") == 0, "upstream's streams end", 15)
    wait_until(
        lambda: proxy_book(proxies) == upstream_book(simulator),
        "the books are equal",
        5,
    )
    return upstream_book(simulator)


def refused_upstream(simulator: Simulator) -> int:
    """How often upstream's own limiter said no."""
    return sum(sum(account["refused"].values()) for account in simulator.stats()["accounts"])


def key_row(simulator: Simulator, index: int) -> dict[str, Any]:
    """One key's counts."""
    return next(k for a in simulator.stats()["accounts"] for k in a["keys"] if k["index"] == index)


def after_deaths(simulator: Simulator, indices: Iterable[int]) -> dict[int, int]:
    """Per dead key: how many attempts came after it had died."""
    return {index: int(key_row(simulator, index)["after_death"]) for index in indices}


def levels(proxy: RunningProxy, dimension: str = "rpm", model: str = "gpt-4o-mini") -> dict[str, float]:
    """Per account: what is left in its bucket."""
    return {
        dict(labels)["account"]: value
        for (name, labels), value in proxy.metrics().items()
        if name == "quotapool_bucket_level"
        and dict(labels)["dimension"] == dimension
        and dict(labels)["model"] == model
    }
