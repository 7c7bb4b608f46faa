"""Outside use that is named: which account, which model group, how much; and who is new or gone since before. Pure.

`outside_use.py` finds it. What is here is what operators are told of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

MOST: Final = 100
"""So many are kept and shown; they are those with the highest rates."""
KIND: Final = "outside_use"
"""The kind of its events, the reason of a drained account, the word for alerts."""


class OutsideUse(msgspec.Struct, frozen=True):
    """Somebody uses `account` for models of `group` (a model group) without us.

    `since`: when the evidence began; `named`: when operators were told, 0: not yet (both Unix seconds). The rates are
    of the others alone; 0: not known. `key`: the account's only key, "": it has several. `usd_per_hour`: what that
    costs at most, if it is like the pool's own use of these models in the last day; None: that has no known price.
    `drained`: the account was taken out of service for it.
    """

    account: str
    group: str
    since: float
    requests_per_minute: float
    tokens_per_minute: float
    key: str = ""
    usd_per_hour: float | None = None
    named: float = 0.0
    drained: bool = False

    @property
    def name(self) -> tuple[str, str]:
        return self.account, self.group

    @property
    def rates(self) -> str:
        """`about 40 requests and 12,000 tokens a minute`; what is not known is left out."""
        known = [
            f"{round(rate):,} {unit}{'s' * (round(rate) != 1)}"
            for rate, unit in ((self.requests_per_minute, "request"), (self.tokens_per_minute, "token"))
            if round(rate) > 0
        ]
        return f"about {' and '.join(known)} a minute" if known else "at a rate that is not known yet"

    @property
    def words(self) -> str:
        """The same with the model group, and what it costs."""
        cost = "" if self.usd_per_hour is None else f", up to ${self.usd_per_hour:,.2f} an hour"
        return f"{self.rates} of {self.group}{cost}"


class Changes(msgspec.Struct, frozen=True):
    """`began`: as they are after; `ended`: as they were before."""

    began: list[OutsideUse]
    ended: list[OutsideUse]


def changes(before: Iterable[OutsideUse], after: Iterable[OutsideUse]) -> Changes:
    """Who is new, and who is gone, by account and model group; both in the order given."""
    earlier, later = {one.name: one for one in before}, {one.name: one for one in after}
    return Changes(
        [one for name, one in later.items() if name not in earlier],
        [one for name, one in earlier.items() if name not in later],
    )


def bounded(named: Sequence[OutsideUse]) -> list[OutsideUse]:
    """At most `MOST`, one for each account and group, by name. Those that were told of before keep their place."""
    unique = {one.name: one for one in named}.values()
    first = sorted(unique, key=lambda one: (not one.named, -one.tokens_per_minute, -one.requests_per_minute, one.name))
    return sorted(first[:MOST], key=lambda one: one.name)


class Usual(msgspec.Struct):
    """What the pool's own priced calls of a model group used in some time: `pico`: picodollars."""

    pico: int = 0
    requests: int = 0
    tokens: int = 0


_PICO_PER_USD: Final = 10**12


def usd_per_hour(requests_per_minute: float, tokens_per_minute: float, usual: Usual) -> float | None:
    """The higher one of two estimates: each of their tokens costs what ours do, each of their requests does. None: no
    call of ours has a known price."""
    if not usual.pico:
        return None
    by_tokens = tokens_per_minute * usual.pico / usual.tokens if usual.tokens else 0.0
    by_requests = requests_per_minute * usual.pico / usual.requests if usual.requests else 0.0
    return max(0.0, by_tokens, by_requests) * 60 / _PICO_PER_USD


class Drain(msgspec.Struct, frozen=True):
    """`accounts`: to take out of service now; `spared`: those that are due, and why they stay, in words."""

    accounts: list[str]
    spared: dict[str, str]


def to_drain(
    named: Sequence[OutsideUse], now: float, *, after_s: float, usable: Iterable[str], drained: int, most: int
) -> Drain:
    """Those named for `after_s`, the longest first, as long as another account is usable, and at most `most` are out
    for this reason. `usable`: all accounts that serve; `drained`: how many are out for it already.

    Where an operator has enabled an account again, that is not for us to undo: once for each time it is named.
    """
    serving, was_drained = set(usable), {one.account for one in named if one.drained}
    accounts: list[str] = []
    spared: dict[str, str] = {}
    for one in sorted(named, key=lambda one: (one.named, one.name)):
        due = one.named > 0 and now - one.named >= after_s
        if not due or one.account in was_drained or one.account not in serving:
            continue
        if len(serving) == 1:
            spared[one.account] = "no other account serves"
        elif drained + len(accounts) >= most:
            spared[one.account] = f"max_removals is {most}, and so many accounts are out for this already"
        else:
            serving.discard(one.account)
            accounts.append(one.account)
    return Drain(accounts, spared)
