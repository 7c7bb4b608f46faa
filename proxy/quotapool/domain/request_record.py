"""What happened to one request, from arrival to settlement: the source of its log line and its metrics.

Times are seconds of one monotonic clock. Nothing here can hold a prompt, a completion or a secret.
"""

from __future__ import annotations

from typing import Final

import msgspec

from quotapool.domain.quantities import Usage
from quotapool.domain.trace import Trace
from quotapool.domain.waited_for import WaitedFor

ANONYMOUS: Final = ""  # the client id if no client keys are in use


class AttemptRecord(msgspec.Struct, eq=False):
    """One attempt upstream."""

    key: str
    account: str
    waited_s: float  # in the queue, before this attempt
    outcome: str = ""  # a verdict's kind, a failure's reason, or "cancelled"
    reason: str = ""  # the verdict's reason
    status: int = 0
    upstream_request_id: str = ""
    took_s: float = 0.0
    usage: Usage | None = None
    tier: str = ""  # the service tier that answered, else the one asked for; "": the standard one
    prompt_estimate: int = 0  # tokens of the prompt, until upstream reports them
    asked: float = 0.0  # when its account was asked for
    began: float = 0.0  # when it went upstream
    model: str = ""  # that answered, where a trace is to tell it


class Saved(msgspec.Struct, frozen=True, gc=False):
    """Calls upstream, tokens and picodollars (None: no price is known) that a request did not use."""

    requests: int = 0
    prompt: int = 0
    completion: int = 0
    pico: int | None = 0


class AskedFor(msgspec.Struct, frozen=True, array_like=True, gc=False):  # one for every request
    """The room that a request asked the pool for, whether it got it or not: what `quotapool plan` asks again.

    `group`: the model group whose limits it uses; "": the model's own name. `tokens`: the estimate that is reserved.
    `max_wait_s`: how long it would wait. `only`: the account that has the stored objects it names; "": any will do.
    """

    group: str
    tokens: int
    images: int = 0
    priority: int = 0
    max_wait_s: float = 0.0
    only: str = ""


class RequestRecord(msgspec.Struct, eq=False):
    """One request of one client."""

    id: str
    started: float
    method: str = ""
    path: str = ""  # of its operation, such as `files/{id}/content`; "": unknown
    client: str = ""
    endpoint: str = ""
    model: str = ""
    streamed: bool = False
    status: int = 0
    source: str = "proxy"  # where the client's answer came from: proxy | upstream | cache
    cache: str = ""  # what the cache did for it: hit | miss | coalesced | bypass; "": there is none for it
    kept: str = ""  # one word: why a miss is not kept, or a bypass was not looked up; "": it is kept, or was before
    saved: Saved | None = None  # what its answer would have used, had it not been in the cache or on its way
    code: str = ""  # the proxy's own error code, if it answered with one
    rules: tuple[str, ...] = ()  # with `code`: the client's own limits that refused it, such as "rpm" or "usd/month"
    beyond: tuple[str, ...] = ()  # its client's budgets without force (soft, shadow) that it went beyond
    about: str = ""  # with `code`: the kind of id that led to it, and where it was read
    waited_for: WaitedFor | None = None  # what it waited for, or was refused by; None: neither, or not by the pool
    cut: bool = False  # the client left, or upstream broke off after the first byte
    queued_s: float = 0.0
    upstream_s: float = 0.0
    first_byte: float | None = None
    ended: float = 0.0
    pico: int | None = 0  # picodollars, as far as it was counted; None: a part of it has no known price
    asked: float = 0.0  # when an account was asked for last
    trace: Trace | None = None  # None: its spans are not kept
    attempts: list[AttemptRecord] = msgspec.field(default_factory=list)
    asked_for: AskedFor | None = None  # None: it never came to that, or it needs none

    @property
    def total_s(self) -> float:
        return self.ended - self.started

    @property
    def overhead_s(self) -> float:
        """The proxy's own part: neither waiting in the queue nor waiting for upstream."""
        return max(0.0, self.ended - self.started - self.queued_s - self.upstream_s)
