"""What happened to a request, step by step, and what took most of its time. Pure."""

from __future__ import annotations

import msgspec

from quotapool.observe.kept_request import KeptAttempt, KeptRequest
from quotapool.shapes.requests import waits_us


class Step(msgspec.Struct):
    """`at_ms`: after the arrival; null: between its neighbours, no exact time is kept."""

    at_ms: float | None
    text: str


def span(microseconds: float) -> str:
    """`0.4 ms`, `12 ms`, `1.25 s`."""
    if microseconds < 9_950:
        return f"{microseconds / 1000:.1f} ms"
    return f"{microseconds / 1000:.0f} ms" if microseconds < 999_500 else f"{microseconds / 1e6:.2f} s"


def timeline(request: KeptRequest) -> list[Step]:
    """From its arrival to its end."""
    what = ", ".join(filter(None, (request.endpoint, request.model, "streamed" if request.streamed else "")))
    steps = [Step(0.0, f"arrived from {request.client or 'a client that is not known'}{what and f': {what}'}")]
    waited_us = 0
    for n, (attempt, wait_us) in enumerate(zip(request.attempts, waits_us(request.attempts), strict=True), 1):
        if wait_us > 0:
            steps.append(Step(None, _waited(request, wait_us)))
            waited_us += wait_us
        steps.append(Step(None, f"attempt {n}, {_attempt(attempt)}, {span(attempt.took_us)}"))
    if request.queued_us - waited_us > 0:
        steps.append(Step(None, f"{_waited(request, request.queued_us - waited_us)}, in vain"))
    if request.first_byte_us is not None:
        steps.append(Step(request.first_byte_us / 1000, "first byte to the client"))
    ending = f"{request.status} {request.code}".strip() + (", cut off" if request.cut else "")
    steps.append(Step(request.total_us / 1000, f"end: {ending}"))
    return steps


def longest(request: KeptRequest) -> str:
    """What took most of the time, and its share: `attempt 2 with key beta until its first byte: 1.20 s, 80 %`."""
    parts: list[tuple[float, str]] = [(request.queued_us, "waiting in the queue")]
    last = len(request.attempts)
    for n, attempt in enumerate(request.attempts, 1):
        spent, first = attempt.took_us, request.first_byte_us
        name = f"attempt {n} with key {attempt.key}"
        if n == last and first is not None and request.total_us - first < spent:
            after = request.total_us - first
            parts += [(spent - after, f"{name} until its first byte"), (after, f"{name} after its first byte")]
        else:
            parts.append((spent, name))
    parts.append((request.overhead_us, "the proxy itself" + (" and pauses before retries" if last > 1 else "")))
    took, name = max(parts, key=lambda part: part[0])
    return f"{name}: {span(took)}, {min(100, round(100 * took / max(1, request.total_us)))} %"


def _waited(request: KeptRequest, wait_us: int) -> str:
    waited = request.waited_for
    return f"waited {span(wait_us)} in the queue" + (f" for {waited.words}" if waited is not None else "")


def _attempt(attempt: KeptAttempt) -> str:
    answer = f"{attempt.outcome} {attempt.reason}".strip() or "no outcome"
    status = f" ({attempt.status})" if attempt.status else ""
    upstream = f", {attempt.upstream_request_id}" if attempt.upstream_request_id else ""
    return f"key {attempt.key} of account {attempt.account}: {answer}{status}{upstream}"
