"""What the requests of the last minute add up to: rates, waits, clients, keys, the last errors. Pure.

Requests come in readings: all that ended since the reading before. Of a busy pool a reading may hold only a part; then
each of its requests counts for several, so that sums stay true.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from quotapool.domain.wallet import PICO
from quotapool.observe.kept_request import KeptRequest
from quotapool.shapes.top import ClientUse, Traffic, Trouble

WINDOW_S: Final = 60.0
_RATE_S: Final = 10.0
_MOST_SPANS: Final = 5_000  # requests that percentiles are made of
MOST_TROUBLES: Final = 50
_NOT_THE_KEYS_FAULT: Final = frozenset({"ok", "cancelled", "request", "state"})  # outcomes: docs/metrics.md
_TOO_MANY: Final = 429
_ERROR: Final = 400


@dataclass(slots=True)
class _Use:
    requests: float = 0.0
    refused: float = 0.0
    failed: float = 0.0
    tokens: float = 0.0
    pico: float = 0.0


@dataclass(slots=True)
class _Calls:
    attempts: float = 0.0
    failed: float = 0.0


@dataclass(slots=True)
class _Slice:
    """What ended from `begin` to `end`, Unix seconds."""

    begin: float
    end: float
    clients: dict[str, _Use] = field(default_factory=dict)
    keys: dict[str, _Calls] = field(default_factory=dict)

    def add(self, request: KeptRequest, counts: float) -> None:
        use = self.clients.get(request.client)
        if use is None:
            use = self.clients[request.client] = _Use()
        use.requests += counts
        if request.status == _TOO_MANY:
            use.refused += counts
        elif request.status >= _ERROR or request.cut:
            use.failed += counts
        use.tokens += counts * (request.prompt + request.completion)
        use.pico += counts * (request.pico or 0)
        for attempt in request.attempts:
            calls = self.keys.get(attempt.key)
            if calls is None:
                calls = self.keys[attempt.key] = _Calls()
            calls.attempts += counts
            calls.failed += counts * (attempt.outcome not in _NOT_THE_KEYS_FAULT)


class Recent:
    """The last minute. All times are Unix seconds of one clock, except that of each request, which is its replica's and
    matters only in the first reading."""

    def __init__(self) -> None:
        self._slices: deque[_Slice] = deque()
        self._spans: deque[tuple[float, int, int]] = deque(maxlen=_MOST_SPANS)  # read at; waited and took, microseconds
        self._troubles: deque[Trouble] = deque(maxlen=MOST_TROUBLES)

    def begin(self, requests: Sequence[KeptRequest], now: float, *, is_all: bool) -> None:
        """The first reading: the last requests, in the order of their ends. `is_all`: none are missing of the last
        minute; else what is known begins with the first of them."""
        known_s = WINDOW_S
        if not is_all and requests:
            known_s = min(WINDOW_S, max(1.0, now - requests[0].ended))
        whole = max(1, int(known_s))
        slices = [_Slice(now - n - 1, now - n) for n in range(whole)]
        for request in requests:
            age_s = max(0.0, now - request.ended)
            if age_s < whole:
                slices[int(age_s)].add(request, 1.0)
                self._spans.append((now - age_s, request.queued_us, request.total_us))
            self._note(request)
        self._slices = deque(reversed(slices))

    def add(self, requests: Sequence[KeptRequest], now: float, number: int) -> None:
        """A reading: `number` ended since the one before, and these were read."""
        begin = self._slices[-1].end if self._slices else now
        one = _Slice(min(begin, now), now)
        counts = max(1.0, number / len(requests)) if requests else 1.0
        for request in requests:
            one.add(request, counts)
            self._spans.append((now, request.queued_us, request.total_us))
            self._note(request)
        self._slices.append(one)
        while self._slices[0].end <= now - WINDOW_S:
            self._slices.popleft()

    def _note(self, request: KeptRequest) -> None:
        if request.status >= _ERROR or request.cut:
            self._troubles.appendleft(_trouble(request))

    # ---- sums

    def traffic(self, now: float) -> Traffic:
        """Rates of the last seconds, percentiles of the minute."""
        slices = list(self._last(_RATE_S, now))
        seconds = _seconds(slices)
        uses = [use for one in slices for use in one.clients.values()]
        spans = [span for span in self._spans if span[0] > now - WINDOW_S]
        waits, totals = sorted(span[1] for span in spans), sorted(span[2] for span in spans)
        return Traffic(
            requests_per_s=sum(use.requests for use in uses) / seconds,
            refused_per_s=sum(use.refused for use in uses) / seconds,
            failed_per_s=sum(use.failed for use in uses) / seconds,
            wait_p50_ms=_percentile(waits, 0.5),
            wait_p99_ms=_percentile(waits, 0.99),
            total_p50_ms=_percentile(totals, 0.5),
            total_p99_ms=_percentile(totals, 0.99),
        )

    def clients(self, now: float) -> list[ClientUse]:
        """Each client that had a request in the last minute; nobody waits yet."""
        slices = list(self._last(WINDOW_S, now))
        sums: dict[str, _Use] = {}
        for one in slices:
            for name, use in one.clients.items():
                total = sums.setdefault(name, _Use())
                total.requests += use.requests
                total.refused += use.refused
                total.failed += use.failed
                total.tokens += use.tokens
                total.pico += use.pico
        minutes = _seconds(slices) / 60
        return [
            ClientUse(
                name,
                use.requests / minutes,
                use.refused / minutes,
                use.failed / minutes,
                use.tokens / minutes,
                60 * use.pico / PICO / minutes,
                0,
            )
            for name, use in sums.items()
        ]

    def keys(self, now: float) -> dict[str, tuple[float, float]]:
        """Of each key that was called in the last minute: attempts a minute, and those of them that failed."""
        slices = list(self._last(WINDOW_S, now))
        sums: dict[str, _Calls] = {}
        for one in slices:
            for name, calls in one.keys.items():
                total = sums.setdefault(name, _Calls())
                total.attempts += calls.attempts
                total.failed += calls.failed
        minutes = _seconds(slices) / 60
        return {name: (calls.attempts / minutes, calls.failed / minutes) for name, calls in sums.items()}

    def troubles(self) -> list[Trouble]:
        """The newest first."""
        return list(self._troubles)

    def _last(self, seconds: float, now: float) -> Iterator[_Slice]:
        return (one for one in self._slices if one.end > now - seconds)


def _seconds(slices: Iterable[_Slice]) -> float:
    return max(1.0, sum(one.end - one.begin for one in slices))


def _percentile(ordered_us: Sequence[int], share: float) -> float | None:
    """Milliseconds."""
    return ordered_us[int(share * (len(ordered_us) - 1))] / 1000 if ordered_us else None


def _trouble(request: KeptRequest) -> Trouble:
    reason = next((attempt.reason for attempt in reversed(request.attempts) if attempt.reason), "")
    return Trouble(
        at=request.ended,
        client=request.client,
        model=request.model or request.endpoint,
        status=request.status,
        why=" ".join(filter(None, (request.code or reason, "cut" if request.cut else ""))),
        tried=" ".join(f"{attempt.key}:{attempt.outcome}" for attempt in request.attempts),
        id=request.id,
    )
