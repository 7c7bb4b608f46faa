"""What operators do to teams, whose limits and budgets clients share; the commands and the admin API both do it through
this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from quotapool.ledger.clients import ClientStore
from quotapool.ledger.teams import TeamRecord
from quotapool.operators.rule_levels import RuleLevels
from quotapool.settings import Settings
from quotapool.settings.draft import problems_of
from quotapool.settings.rules import RuleOptions
from quotapool.settings.values import check_name
from quotapool.store.store import Store


class InvalidTeam(Exception):
    """What was given is no team; the message says what is wrong."""


class UnknownTeam(Exception):
    """There is no such team; or, to change, none in the store."""


class TeamConflict(Exception):
    """It contradicts what is there: the name is taken, the team is in the configuration, or it still has clients."""


class TeamOperations:
    """The teams of one pool: those of the configuration are shown, those in the store changed. Every method raises
    StoreLost while the store is away."""

    def __init__(self, settings: Callable[[], Settings], store: Store) -> None:
        """`settings`: those in force, which a reload replaces."""
        self._settings = settings
        self._clients = ClientStore(store, settings().pool)
        self._teams = self._clients.teams
        self._levels = RuleLevels(settings, store)

    async def rows(self) -> list[dict[str, Any]]:
        """Each team: where it comes from, its options, its clients, and how its `rules` stand (`RuleRow`). Times are
        Unix seconds."""
        settings, members = self._settings(), await self._members()
        stored = await self._teams.all()
        rows = [
            {"id": name, "source": "store", **_options(record), "added": record.added}
            for name, record in sorted(stored.items())
            if name not in settings.teams
        ]
        rows += [
            {"id": name, "source": "configuration", **team.model_dump(mode="json"), "added": None}
            for name, team in settings.teams.items()
        ]
        rules = await self._levels.of_teams([row["id"] for row in rows])
        return [{**row, "clients": members.get(row["id"], []), "rules": rules.get(row["id"], [])} for row in rows]

    async def row(self, name: str) -> dict[str, Any]:
        """One of them. Raises UnknownTeam."""
        for row in await self.rows():
            if row["id"] == name:
                return row
        raise UnknownTeam(name)

    async def add(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """Returns those of its options that are no defaults. Raises InvalidTeam, TeamConflict."""
        try:
            check_name(name)
            checked = RuleOptions.model_validate(options)
        except ValidationError as error:
            raise InvalidTeam(problems_of(error, RuleOptions)) from None
        except ValueError as error:
            raise InvalidTeam(f"id {error}") from None
        if name in self._settings().teams:
            raise TeamConflict(f"a team {name} is in the configuration")
        if not await self._teams.add(name, checked):
            raise TeamConflict(f"a team {name} exists already; change it, or remove it first")
        return checked.model_dump(mode="json", exclude_defaults=True)

    async def set(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """Change some of its options; the others stay. Returns those that are no defaults now.

        Raises InvalidTeam, UnknownTeam, TeamConflict."""
        self._check_stored(name)
        try:
            record: TeamRecord | None = await self._teams.set(name, options)
        except ValidationError as error:
            raise InvalidTeam(problems_of(error, RuleOptions)) from None
        if record is None:
            raise UnknownTeam(name)
        return record.options

    async def remove(self, name: str) -> None:
        """Forget it and what it used. Raises UnknownTeam, and TeamConflict while clients name it."""
        self._check_stored(name)
        if members := (await self._members()).get(name):
            shown = ", ".join(members[:10]) + (f" and {len(members) - 10} more" if len(members) > 10 else "")
            raise TeamConflict(f"team {name} still has clients: {shown}; revoke them, or give them another team first")
        if not await self._teams.remove(name):
            raise UnknownTeam(name)

    def _check_stored(self, name: str) -> None:
        if name in self._settings().teams:
            raise TeamConflict(f"team {name} is in the configuration; change it there")

    async def _members(self) -> dict[str, list[str]]:
        """Clients by team, those of the configuration too."""
        configured = {client.id: client.team for client in self._settings().clients}
        stored = {name: record.options.get("team") for name, record in (await self._clients.all()).items()}
        members: dict[str, list[str]] = {}
        for name, team in sorted({**stored, **configured}.items()):
            if team is not None:
                members.setdefault(team, []).append(name)
        return members


def _options(record: TeamRecord) -> dict[str, Any]:
    """All of them; of one that a newer version wrote, as it wrote them."""
    try:
        return record.team().model_dump(mode="json")
    except ValidationError:
        return {**RuleOptions().model_dump(mode="json"), **record.options}
