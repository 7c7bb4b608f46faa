"""The limits and budgets of all clients and teams, as they stand: for metrics and alerts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from quotapool.domain.rules import Measure
from quotapool.domain.wallet import PICO
from quotapool.ledger.clients import ClientDirectory
from quotapool.ledger.rules import CLIENT, TEAM
from quotapool.ledger.stored_rules import Level, StoredRules, zone_named
from quotapool.observe.labels import OTHER
from quotapool.observe.metrics import PoolMetrics
from quotapool.settings import Client, Settings
from quotapool.settings.rules import RuleOptions

_MOST_SHOWN: Final = 200  # rules with series of their own: those of which most is taken
_EXPIRES_WITHIN_S: Final = 14 * 86_400.0
_AT_ONCE: Final = 200  # subjects in one turn of the loop


@dataclass(frozen=True, slots=True)
class SubjectLevel:
    """A rule as it stands. `subject`: `client app` or `team search`."""

    subject: str
    level: Level

    @property
    def share(self) -> float:
        """How much of it is taken, 1: all."""
        limit = self.level.rule.limit
        return (self.level.used + self.level.held) / limit if limit > 0 else 1.0


class ClientRules:
    """Those of one pool. `settings`: those in force; `directory`: the clients and teams of the store."""

    def __init__(self, settings: Callable[[], Settings], clients: ClientDirectory, stored: StoredRules) -> None:
        self._settings = settings
        self.directory = clients
        self._stored = stored

    @property
    def clients(self) -> Mapping[str, Client]:
        """All that may call, by id; those of the configuration win."""
        written = {client.id: client for client in self._settings().clients}
        return {**self.directory.clients, **written}

    async def levels(self) -> list[SubjectLevel]:
        """All rules, as they stand. Raises StoreLost."""
        settings = self._settings()
        subjects: dict[str, RuleOptions] = {f"{CLIENT}{name}": client for name, client in self.clients.items()}
        subjects |= {f"{TEAM}{name}": team for name, team in {**self.directory.teams, **settings.teams}.items()}
        subjects = {name: options for name, options in subjects.items() if options.limits_anything}
        reading = await self._stored.read(list(subjects)) if subjects else None
        found: list[SubjectLevel] = []
        for number, (name, options) in enumerate(subjects.items()):
            if reading is None:
                break
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            zone = zone_named(options.time_zone or settings.spend.time_zone)
            whose = f"{'team' if name.startswith(TEAM) else 'client'} {name.partition('/')[2]}"
            found += (SubjectLevel(whose, level) for level in reading.levels(name, options.rules(), zone))
        return found

    def expiries(self) -> dict[str, float]:
        """Unix seconds by client: when a client that has an end is refused."""
        return {
            name: datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
            for name, client in self.clients.items()
            if (day := client.expires_on) is not None
        }


def show(levels: Sequence[SubjectLevel], expiries: Mapping[str, float], now: float, metrics: PoolMetrics) -> None:
    """Put them into `metrics`: the fullest one by one, the others added up by rule. `now`: Unix seconds."""
    used: dict[tuple[str, str], float] = {}
    limits: dict[tuple[str, str], float] = {}
    ordered = sorted(levels, key=lambda one: (-one.share, one.subject, one.level.rule.id))
    for number, one in enumerate(ordered):
        rule = one.level.rule
        name = (one.subject if number < _MOST_SHOWN else OTHER), rule.id
        unit = PICO if rule.measure is Measure.USD else 1
        used[name] = used.get(name, 0.0) + (one.level.used + one.level.held) / unit
        limits[name] = limits.get(name, 0.0) + rule.limit / unit
    metrics.client_rule_used.show(used)
    metrics.client_rule_limit.show(limits)
    soon = {name: at for name, at in expiries.items() if -math.inf < at - now <= _EXPIRES_WITHIN_S}
    metrics.client_expires.show(soon)
