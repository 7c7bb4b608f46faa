"""What clients and teams have used of their limits and budgets, read from the store for people; a request never does.

The format is `lua/ledger/rules.lua`'s. What that script would bring up to date with the next request is brought up to
date here: rates refill, a budget whose period has ended is unused, and what dead workers held is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from quotapool.domain.periods import Per, ends
from quotapool.domain.rules import Kind, Rule
from quotapool.store.store import Store, text_of

_LIVES_S: Final = 10.0  # a worker without a sign of life is missed after so long
_MISSED_FOR_S: Final = 5.0  # and what it held is free, so much later
_AT_ONCE: Final = 200  # subjects that are read in one call

_unpack = msgspec.msgpack.Decoder().decode


class Level(msgspec.Struct, frozen=True):
    """How a rule stands, in units of its measure. `held`: by requests under way. `left`: what a request may still ask
    for. `resets_at`: when all of it is there again, Unix seconds by the store's clock; None: nothing to wait for, or
    never."""

    rule: Rule
    used: float
    held: float
    left: float
    resets_at: float | None


class Reading(msgspec.Struct, frozen=True):
    """The counters of some subjects. `now`: the store's time; `seen`: when each worker gave a sign of life."""

    now: float
    seen: Mapping[str, float]
    counters: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]

    def levels(self, subject: str, rules: Iterable[Rule], zone: tzinfo) -> list[Level]:
        """Of each rule, in this order. `zone`: of its budgets' periods."""
        counters, held = self.counters.get(subject, ({}, {}))
        alive = [_members(h[2]) for worker, h in held.items() if self._may_hold(worker, *h[:2])]
        return [self._level(rule, counters.get(rule.id), alive, zone) for rule in rules]

    def _may_hold(self, worker: str, born: float, missed: float) -> bool:
        """Not what the script would free with the next request, at the latest."""
        last = self.seen.get(worker, 0.0)
        if last >= self.now - _LIVES_S:
            return True
        if 0 < missed <= self.now:
            return self.now - missed < _MISSED_FOR_S
        return self.now - max(last, min(born, self.now)) < _LIVES_S + _MISSED_FOR_S

    def _level(
        self, rule: Rule, counter: Sequence[float] | None, held: list[Mapping[str, float]], zone: tzinfo
    ) -> Level:
        now = self.now
        if rule.kind is Kind.RATE:
            left = rule.limit
            if counter is not None:
                gained = max(0.0, now - counter[1]) * rule.limit / rule.period_s
                left = min(rule.limit, counter[0] + gained)
            used = rule.limit - left
            resets_at = now + used / rule.limit * rule.period_s if used > 0 else None
            return Level(rule, used, 0.0, max(0.0, left), resets_at)
        if rule.kind is Kind.SLOTS:
            taken = sum(amounts.get(rule.id, 0.0) for amounts in held)
            return Level(rule, 0.0, taken, max(0.0, rule.limit - taken), None)
        lasts = counter is not None and counter[1] > now
        used = counter[0] if counter is not None and lasts else 0.0
        # Before the first request there is no counter, and nothing held; after its end both belong to the past.
        taken = sum(amounts.get(rule.id, 0.0) for amounts in held) if lasts else 0.0
        resets_at = None if rule.per is Per.TOTAL else ends(rule.per, zone, now)[0]
        return Level(rule, used, taken, max(0.0, rule.limit - used - taken), resets_at)


class StoredRules:
    """The counters of one pool's clients and teams. Every call raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._prefix = f"qp:{{{pool}}}"

    async def read(self, subjects: Sequence[str]) -> Reading:
        """`subjects`: `c/<client>` and `t/<team>`, each once."""
        client = self._store.client
        counters: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
        for start in range(0, len(subjects), _AT_ONCE):
            part = subjects[start : start + _AT_ONCE]
            values: list[Any] = await self._store.guard(client.mget([f"{self._prefix}:rules:{name}" for name in part]))
            for name, raw in zip(part, values, strict=True):
                if raw is not None:
                    stored = _unpack(raw)
                    counters[name] = _members(stored[0]), _members(stored[1])
        workers: Any = await self._store.guard(client.zrange(f"{self._prefix}:replicas", 0, -1, withscores=True))
        seconds, micros = await self._store.guard(client.time())
        seen = {text_of(worker): float(second) for worker, second in workers}
        return Reading(seconds + micros / 1e6, seen, counters)


def _members(table: Any) -> Mapping[str, Any]:
    """A table of Lua; an empty one is written as a list."""
    return table if isinstance(table, dict) else {}


def zone_named(name: str) -> tzinfo:
    """UTC needs no data from the system."""
    return UTC if name == "UTC" else ZoneInfo(name)
