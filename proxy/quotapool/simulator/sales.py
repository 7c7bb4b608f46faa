"""What the simulated OpenAI has sold, by day and key, and what it charges for it.

The prices are typed by hand from OpenAI's price list, independently of the proxy's price data, so that each can prove
the other wrong. Money is in picodollars (1e-12 USD): a price of 2.50 USD per million tokens is 2,500,000 per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple

from quotapool.simulator.answers import Usage
from quotapool.simulator.parsed_request import model_group

DAY_S: Final = 86_400
PICODOLLARS: Final = 10**12
STANDARD: Final = "default"


class Price(NamedTuple):
    """USD per million tokens: of the prompt, of its cached part, of the answer."""

    prompt: str
    cached: str
    completion: str

    def of(self, usage: Usage) -> int:
        """Picodollars; reasoning tokens are a part of the answer and cost the same."""
        parts = (
            (self.prompt, usage.prompt - usage.cached),
            (self.cached, usage.cached),
            (self.completion, usage.completion),
        )
        return sum(int(Decimal(price) * 10**6) * tokens for price, tokens in parts)


PRICES: Final[dict[str, dict[str, Price]]] = {
    "gpt-4o": {STANDARD: Price("2.50", "1.25", "10.00"), "priority": Price("4.25", "2.125", "17.00")},
    "gpt-4o-mini": {STANDARD: Price("0.15", "0.075", "0.60"), "priority": Price("0.25", "0.125", "1.00")},
    "gpt-4.1": {STANDARD: Price("2.00", "0.50", "8.00"), "priority": Price("3.50", "0.875", "14.00")},
    "gpt-4.1-mini": {STANDARD: Price("0.40", "0.10", "1.60"), "priority": Price("0.70", "0.175", "2.80")},
    "gpt-5.5": {
        STANDARD: Price("5.00", "0.50", "30.00"),
        "flex": Price("2.50", "0.25", "15.00"),
        "priority": Price("12.50", "1.25", "75.00"),
    },
    "gpt-3.5-turbo-instruct": {STANDARD: Price("1.50", "1.50", "2.00")},
    "text-embedding-3-small": {STANDARD: Price("0.02", "0.02", "0")},
    "text-embedding-3-large": {STANDARD: Price("0.13", "0.13", "0")},
}
FREE: Final = Price("0", "0", "0")  # moderations, and models without a price


def price_of(model: str, tier: str) -> Price:
    """A tier without a price of its own is charged as the standard one."""
    tiers = PRICES.get(model_group(model), {})
    return tiers.get(tier) or tiers.get(STANDARD, FREE)


class SaleKey(NamedTuple):
    """What sales are grouped by. `day` is its first second (Unix, UTC); `kind` the endpoint's name, such as chat."""

    day: int
    account: str
    key: int
    kind: str
    model: str
    tier: str


@dataclass(slots=True)
class SaleTotals:
    """Requests, tokens and picodollars of one group."""

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    amount: int = 0


@dataclass(slots=True)
class Sales:
    totals: dict[SaleKey, SaleTotals] = field(default_factory=dict)
    last_used: dict[int, int] = field(default_factory=dict)  # key's index -> Unix seconds

    def record(self, account: str, key: int, kind: str, model: str, tier: str, usage: Usage, at: float) -> None:
        """Record one answer, complete or cut, at the Unix time `at`."""
        sale = SaleKey(int(at) // DAY_S * DAY_S, account, key, kind, model, tier)
        sold = self.totals.setdefault(sale, SaleTotals())
        sold.requests += 1
        sold.prompt += usage.prompt
        sold.cached += usage.cached
        sold.completion += usage.completion
        sold.amount += price_of(model, tier).of(usage)
        self.last_used[key] = int(at)

    def sold(self, start: int, end: int, accounts: frozenset[str]) -> Iterator[tuple[SaleKey, SaleTotals]]:
        """What these accounts bought on days that begin in [start, end)."""
        return (
            (sale, sold) for sale, sold in self.totals.items() if start <= sale.day < end and sale.account in accounts
        )

    def total(self, account: str, start: int = 0, end: int = 2**40) -> int:
        """Picodollars of one account."""
        return sum(sold.amount for _, sold in self.sold(start, end, frozenset((account,))))
