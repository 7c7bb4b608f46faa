"""What is asked of the ledger, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

import msgspec

from proxy.domain.bucket import DIMENSIONS, UNKNOWN, Moment
from proxy.domain.quantities import Cost, Dimension, Limits

Written = tuple[float, float, float, float, float]


@lru_cache(maxsize=1024)
def written_limits(limits: Limits) -> Written:
    """`limits` as the script wants them. Equal ones are one object: in a large pool each is a wait for memory less."""
    values = [float(v) if (v := limits.of(d)) is not None else UNKNOWN for d in DIMENSIONS]
    return (values[0], values[1], values[2], values[3], values[4])


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key that may serve a request. `written` are the limits somebody wrote, UNKNOWN where nobody did."""

    account: str
    key: str
    account_fingerprint: str
    key_fingerprint: str
    written: Written
    burst_s: float = 60.0  # how many seconds of a minute's limit may come at once
    organization: str = ""  # "": not known
    packed: msgspec.Raw = field(init=False, compare=False, repr=False)  # as the script reads it

    def __post_init__(self) -> None:
        prints = self.account_fingerprint, self.key_fingerprint
        whole = (self.account, self.key, *prints, self.burst_s, *self.written, self.organization)
        object.__setattr__(self, "packed", msgspec.Raw(msgspec.msgpack.encode(whole)))


class Granted(msgspec.Struct, eq=False):
    """A reservation. `at` is the store's time; `moments` are the account's bounded buckets right after it, and
    `learned` the limits upstream has named for them. `local`: granted by this process alone, the store being away."""

    id: str
    group: str
    cost: Cost
    candidate: Candidate
    at: float
    headroom: float
    is_trial: bool
    moments: dict[Dimension, Moment]
    learned: dict[Dimension, float]
    settled: bool = False
    local: bool = False


class Refused(msgspec.Struct, frozen=True):
    """No candidate has room. `wait_s` None: no waiting helps; `dead`: candidates the store knows as not usable.

    `refill_s`: in which the account that decides gains this cost once more; 0: not known.
    """

    wait_s: float | None
    dimension: Dimension | None
    hints: tuple[str, ...] = ()
    dead: tuple[Candidate, ...] = ()
    refill_s: float = 0.0


class Observed(msgspec.Struct, frozen=True, gc=False):
    """What upstream's headers said of one dimension, at the moment it admitted the request (or refused it)."""

    dimension: Dimension
    limit: float
    remaining: float


class Event(IntEnum):
    """What else an answer taught about the account, besides its headers."""

    NOTHING = 0
    HEADERLESS = 1  # upstream answered well and named no limits
    SLOW_DOWN = 2  # traffic grew too fast for it
    SHORTER_SPAN = 3  # it refused while it had enough left for the minute
