"""What is kept of a request for operators to look at later. Neither prompts nor answers, nor secrets.

As stored, each is a MessagePack array of these fields in this order: new ones come last, with a default, so that
an older and a newer version read each other's.
"""

from __future__ import annotations

import msgspec

from quotapool.domain.request_record import AskedFor
from quotapool.domain.waited_for import WaitedFor


class KeptAttempt(msgspec.Struct, frozen=True, array_like=True):
    """One call upstream. Times in microseconds; `wait_us`: in the queue before it, all attempts together; `status`: 0
    if no answer came."""

    key: str
    account: str
    outcome: str
    reason: str
    status: int
    wait_us: int
    took_us: int
    upstream_request_id: str


class KeptSaved(msgspec.Struct, frozen=True, array_like=True):
    """What the cache saved: calls upstream, tokens, picodollars (None: no price is known)."""

    requests: int
    prompt: int
    completion: int
    pico: int | None


class KeptRequest(msgspec.Struct, frozen=True, array_like=True):
    """One request. `at`: Unix seconds of its arrival, by the clock of the replica that served it; other times are
    microseconds, and the first byte's is counted from the arrival. `code`: of the proxy's own error, if it answered
    with one. `pico`: picodollars; None: a part of it has no known price. `certainty`: of the tokens; "": none were
    used. `cache`: hit, miss, coalesced or bypass; "": there is none for it; `kept`: why the answer of a miss is not
    kept, or a bypass was not looked up. `asked_for`: None: it never asked for room, or an older version kept it.
    `trace_id`: 32 hexadecimal digits; "": its spans are not kept."""

    id: str
    at: float
    client: str
    endpoint: str
    model: str
    status: int
    code: str
    rules: tuple[str, ...]
    streamed: bool
    cut: bool
    source: str
    attempts: tuple[KeptAttempt, ...]
    waited_for: WaitedFor | None
    queued_us: int
    first_byte_us: int | None
    total_us: int
    overhead_us: int
    prompt: int
    cached: int
    completion: int
    certainty: str
    pico: int | None
    cache: str = ""
    kept: str = ""
    saved: KeptSaved | None = None
    asked_for: AskedFor | None = None
    trace_id: str = ""

    @property
    def ended(self) -> float:
        """Unix seconds."""
        return self.at + self.total_us / 1e6
