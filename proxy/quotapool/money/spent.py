"""What something cost: the sums that spend and usage are made of."""

from __future__ import annotations

import msgspec


class Spent(msgspec.Struct):
    """What one name cost in a period: money in picodollars, tokens as upstream counts them."""

    exact: int = 0
    estimated: int = 0
    probes: int = 0
    unpriced_requests: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total(self) -> int:
        """Picodollars, probes included."""
        return self.exact + self.estimated + self.probes

    def add(self, other: Spent) -> None:
        # Written out, since it runs for each request that is the only one of its key in half a second.
        self.exact += other.exact
        self.estimated += other.estimated
        self.probes += other.probes
        self.unpriced_requests += other.unpriced_requests
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.completion_tokens += other.completion_tokens
