"""How the limits and budgets of clients and their teams stand, for operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import ValidationError

from quotapool.ledger.rules import CLIENT, TEAM
from quotapool.ledger.stored_rules import Reading, StoredRules, zone_named
from quotapool.ledger.teams import TeamStore
from quotapool.request.rule_rows import RuleRow, row_of
from quotapool.settings import ClientOptions, Settings
from quotapool.settings.rules import RuleOptions
from quotapool.store.store import Store


class RuleLevels:
    """Those of one pool. Every call raises StoreLost while the store is away."""

    def __init__(self, settings: Callable[[], Settings], store: Store) -> None:
        self._settings = settings
        self._teams = TeamStore(store, settings().pool)
        self._stored = StoredRules(store, settings().pool)

    async def of_clients(self, clients: Mapping[str, ClientOptions]) -> dict[str, list[RuleRow]]:
        """All rules of each client, its own first, then its team's."""
        teams = await self.teams()
        subjects = [f"{CLIENT}{name}" for name, options in clients.items() if options.rules()]
        subjects += [f"{TEAM}{team}" for team in sorted({c.team for c in clients.values() if c.team in teams})]
        reading = await self._stored.read(subjects)
        of_team = {name: self._rows(reading, f"{TEAM}{name}", team) for name, team in teams.items()}
        return {
            name: self._rows(reading, f"{CLIENT}{name}", own) + (of_team.get(own.team, []) if own.team else [])
            for name, own in clients.items()
        }

    async def of_teams(self, names: list[str]) -> dict[str, list[RuleRow]]:
        """The rules of each team that is there and can be read."""
        teams = await self.teams()
        reading = await self._stored.read([f"{TEAM}{name}" for name in names])
        return {name: self._rows(reading, f"{TEAM}{name}", teams[name]) for name in names if name in teams}

    async def teams(self) -> dict[str, RuleOptions]:
        """Those of the store and of the configuration, which wins; without those that a newer version wrote."""
        found: dict[str, RuleOptions] = {}
        for name, record in (await self._teams.all()).items():
            try:
                found[name] = record.team()
            except ValidationError:
                continue
        return {**found, **self._settings().teams}

    def _rows(self, reading: Reading, subject: str, options: RuleOptions) -> list[RuleRow]:
        zone = zone_named(options.time_zone or self._settings().spend.time_zone)
        return [row_of(subject, level) for level in reading.levels(subject, options.rules(), zone)]
