"""What the store answers: the script, in its own words; and what that is to who looks an entry up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from quotapool.cache.entry import Entry


class Answer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Of `lua/cache.lua`, without the texts."""

    now: float
    epoch: int
    results: list[int]
    expired: list[str]
    oldest: list[str]


unpack_answer: Final = msgspec.msgpack.Decoder(Answer).decode


class Found(msgspec.Struct, frozen=True, gc=False):
    """There is an answer. `age_s`: seconds since it was stored."""

    entry: Entry
    age_s: float


@dataclass(frozen=True, slots=True)
class Lead:
    """There is none, and this process has the lease: it asks upstream, then calls `put` or `release`."""


@dataclass(frozen=True, slots=True)
class Led:
    """There is none yet, and another request for it is under way: `wait`."""


@dataclass(frozen=True, slots=True)
class Missing:
    """There is none, and no lease: none was asked for, or the store is away, full or late. Ask upstream."""


LEAD: Final = Lead()
LED: Final = Led()
MISSING: Final = Missing()
