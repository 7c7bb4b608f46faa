"""The series that one request and one call upstream count in, found together by one lookup.

A tally takes a series from its family when it first counts in it, so that none is created too early, and keeps it.
There are never more tallies than series of `requests_total` and `upstream_attempts_total`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quotapool.domain.quantities import Usage
from quotapool.domain.verdict import Kind
from quotapool.observe.series import Counts, Observes

if TYPE_CHECKING:
    from quotapool.observe.metrics import Metrics


class RequestTally:
    """Requests of one (endpoint, model, status, client)."""

    __slots__ = ("_duration", "_endpoint", "_first_byte", "_metrics", "_model", "_overhead", "answered")

    def __init__(self, metrics: Metrics, endpoint: str, model: str, status: int, client: str) -> None:
        self.answered: Counts = metrics.requests[endpoint, model, status, client]
        self._metrics = metrics
        self._endpoint = endpoint
        self._model = model
        self._duration: Observes | None = None
        self._overhead: Observes | None = None
        self._first_byte: Observes | None = None

    def took(self, total_s: float, overhead_s: float) -> None:
        """How long a request took that went upstream."""
        if self._duration is None or self._overhead is None:
            self._duration = self._metrics.duration[self._endpoint, self._model]
            self._overhead = self._metrics.overhead[self._endpoint]
        self._duration.observe(total_s)
        self._overhead.observe(overhead_s)

    def first_byte_after(self, seconds: float) -> None:
        if self._first_byte is None:
            self._first_byte = self._metrics.time_to_first_byte[self._endpoint, self._model]
        self._first_byte.observe(seconds)


class RequestTallies(dict[tuple[str, str, int, str], RequestTally]):
    """`tallies[endpoint, model, status, client]`"""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def __missing__(self, key: tuple[str, str, int, str]) -> RequestTally:
        tally = self[key] = RequestTally(self._metrics, *key)
        return tally


class AttemptTally:
    """Calls upstream of one (key, model, outcome)."""

    __slots__ = ("_completion", "_key", "_model", "_prompt", "_settled", "_tokens", "calls")

    def __init__(self, metrics: Metrics, key: str, model: str, outcome: str) -> None:
        if (key, model, outcome) not in metrics.attempts:
            # Created at 0 together with the others, or `rate()` would miss the first refusal of each key.
            metrics.attempts[key, model, Kind.WAIT.value]
        self.calls: Counts = metrics.attempts[key, model, outcome]
        self._key = key
        self._model = model
        self._tokens = metrics.tokens
        self._settled = metrics.settled_tokens
        self._prompt: Counts | None = None
        self._completion: Counts | None = None

    def used(self, usage: Usage) -> None:
        """Count one settled call's tokens. Kinds without tokens create no series."""
        prompt, completion = usage.prompt, usage.completion
        if prompt:
            if self._prompt is None:
                self._prompt = self._tokens[self._key, self._model, "prompt"]
            self._prompt.inc(prompt)
        if completion:
            if self._completion is None:
                self._completion = self._tokens[self._key, self._model, "completion"]
            self._completion.inc(completion)
        if usage.cached_prompt:
            self._tokens[self._key, self._model, "cached_prompt"].inc(usage.cached_prompt)
        if usage.reasoning:
            self._tokens[self._key, self._model, "reasoning"].inc(usage.reasoning)
        self._settled[usage.certainty].inc(prompt + completion)


class AttemptTallies(dict[tuple[str, str, str], AttemptTally]):
    """`tallies[key, model, outcome]`"""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def __missing__(self, key: tuple[str, str, str]) -> AttemptTally:
        tally = self[key] = AttemptTally(self._metrics, *key)
        return tally
