"""The pool's own `x-ratelimit-*` headers: what a client may use, in the shape that OpenAI's clients read.

One key's headers show nothing of the pool. So the buckets that grants show are added up for each model group, at
most once a second, and the lines are kept; a request pays for a look in a dictionary. Accounts that this process has
not used lately, and those beyond a few hundred, are taken to be like the others: with 10,000 added up each second, that
took a fifth of a worker's time and held up all its clients. `reset` is the time until full, as OpenAI's is.
A client with limits of its own is told the tighter ones of its own and the pool's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from quotapool.domain.pool import Pool
from quotapool.domain.quantities import Dimension
from quotapool.domain.rules import Measure, Mode
from quotapool.ledger.budgets import Granted
from quotapool.ledger.rules import Charge, RuleSet
from quotapool.openai.head import Header
from quotapool.openai.ratelimits import format_duration

_EVERY_S: Final = 1.0
_OWN_EVERY_S: Final = 0.05  # they are used again: a client that sends thousands a second looks at few of them
_MOST_OWN: Final = 10_000
_MOST_GROUPS: Final = 1_000
_MOST_SEEN: Final = 256  # accounts that are added up: enough to speak for the others, and few enough to never be felt
_SHOWN: Final = ((Dimension.RPM, b"requests"), (Dimension.TPM, b"tokens"))
_OF_CLIENTS: Final = {Measure.REQUESTS: b"requests", Measure.TOKENS: b"tokens"}


@dataclass(frozen=True, slots=True)
class _Shown:
    """What three headers show: of requests or of tokens."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(slots=True)
class _Group:
    seen: dict[str, tuple[Granted, float]] = field(default_factory=dict)  # account -> its last grant, and when
    shown: dict[bytes, _Shown] = field(default_factory=dict)  # by what is counted
    lines: list[Header] = field(default_factory=list)
    due: float = 0.0


class PoolRateHeaders:
    """By model group."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._groups: dict[str, _Group] = {}
        self._own: dict[tuple[RuleSet, str], tuple[float, list[Header]]] = {}  # until when, and the lines

    def observe(self, granted: Granted) -> None:
        """A grant shows what its account has left."""
        group = self._groups.get(granted.group)
        if group is None:
            if len(self._groups) > _MOST_GROUPS:
                self._groups.clear()
            group = self._groups[granted.group] = _Group()
        group.seen[granted.candidate.account] = granted, time.monotonic()

    def lines(self, name: str, charge: Charge | None = None, *, fresh: bool = False) -> list[Header]:
        """The headers for an answer about this model group; none where no limits are known. `charge`: what the request
        took of its client's rules; None: it has none. `fresh`: not even a moment old."""
        group = self._groups.get(name)
        if group is not None and (now := time.monotonic()) >= group.due:
            group.due = now + _EVERY_S
            group.shown = self._add_up(group, now)
            group.lines = _lines(group.shown)
        if charge is None:
            return [] if group is None else group.lines
        own = self._own.get((charge.rules, name))
        now = time.monotonic()
        if own is None or now >= own[0] or fresh:
            if len(self._own) > _MOST_OWN:
                self._own.clear()
            lines = _lines(_tighter({} if group is None else group.shown, charge))
            own = self._own[charge.rules, name] = now + _OWN_EVERY_S, lines
        return own[1]

    def _add_up(self, group: _Group, now: float) -> dict[bytes, _Shown]:
        accounts = self._pool.accounts
        beyond = max(0, len(group.seen) - _MOST_SEEN)  # who came first goes first
        group.seen = {name: seen for name, seen in islice(group.seen.items(), beyond, None) if name in accounts}
        shown: dict[bytes, _Shown] = {}
        for dimension, what in _SHOWN:
            seen = [
                (limit, granted.moments[dimension].kept + (now - at) * limit / 60)
                for name, (granted, at) in group.seen.items()
                if accounts[name].usable and (limit := _limit(granted, dimension)) is not None
            ]
            if not seen:
                continue
            limit = sum(limit for limit, _ in seen)
            level = sum(min(limit, max(0.0, level)) for limit, level in seen)
            scale = max(1.0, self._pool.size / len(seen))
            reset_s = (limit - level) / limit * 60 if limit else 0.0
            shown[what] = _Shown(int(limit * scale), int(level * scale), reset_s)
        return shown


def _lines(shown: dict[bytes, _Shown]) -> list[Header]:
    limits, rest, resets = list[Header](), list[Header](), list[Header]()
    for what, one in shown.items():
        limits.append((b"x-ratelimit-limit-" + what, b"%d" % one.limit))
        rest.append((b"x-ratelimit-remaining-" + what, b"%d" % one.remaining))
        resets.append((b"x-ratelimit-reset-" + what, format_duration(one.reset_s).encode()))
    return [*limits, *rest, *resets]


def _tighter(pool: dict[bytes, _Shown], charge: Charge) -> dict[bytes, _Shown]:
    """Of each of these two, whichever has the least left: the pool's, or one of the client's rules."""
    shown = dict(pool)
    for standing in charge.standings:
        what = _OF_CLIENTS.get(standing.rule.measure)
        if what is None or standing.rule.mode is not Mode.HARD or not standing.seen_at:
            continue
        left = int(standing.left_at(standing.seen_at))
        if what not in shown or left < shown[what].remaining:
            shown[what] = _Shown(int(standing.rule.limit), left, standing.resets_in_s(standing.seen_at))
    return {what: shown[what] for _, what in _SHOWN if what in shown}


def _limit(granted: Granted, dimension: Dimension) -> float | None:
    """The account's limit; None where it is our own guess, which is nothing to tell."""
    if dimension not in granted.moments:
        return None
    written = granted.candidate.written[0 if dimension is Dimension.RPM else 1]
    return min((limit for limit in (written, granted.learned[dimension]) if limit >= 0), default=None)
