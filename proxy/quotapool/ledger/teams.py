"""Teams made while the proxy runs: limits and budgets that clients share. Stored: `qp:{pool}:teams`, hash: team ->
JSON of `TeamRecord`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from quotapool.ledger.records import StoredRecords, merged
from quotapool.ledger.rules import TEAM
from quotapool.settings.rules import RuleOptions
from quotapool.store.store import Store


class TeamRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`added`: Unix seconds; `options`: those of `RuleOptions` that are no defaults."""

    added: float
    options: dict[str, Any] = {}

    def team(self) -> RuleOptions:
        """As the configuration would describe it. Raises ValidationError: a newer version wrote it."""
        return RuleOptions.model_validate(self.options)


class TeamStore:
    """The teams of one pool in the store. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._rules = f"qp:{{{pool}}}:rules:{TEAM}"
        self._records = StoredRecords(store, pool, "teams", TeamRecord)

    async def add(self, name: str, options: RuleOptions) -> bool:
        """False if the name is taken. What one of this name used before is forgotten."""
        record = TeamRecord(time.time(), _stored(options))
        return await self._records.put(name, record, without=[self._rules + name])

    async def add_all(self, teams: Mapping[str, RuleOptions]) -> set[str]:
        """Add many; the names that were taken."""
        records = {name: TeamRecord(time.time(), _stored(options)) for name, options in teams.items()}
        return await self._records.put_new(records, lambda name: [self._rules + name])

    async def put(self, name: str, record: TeamRecord) -> bool:
        """Write a record as it was, into a store that forgot it. False if the name is taken."""
        return await self._records.put(name, record)

    async def set(self, name: str, changed: dict[str, Any]) -> TeamRecord | None:
        """Change some options; None if there is no such team. Raises ValidationError, and then changes nothing."""

        def change(record: TeamRecord) -> TeamRecord:
            options = RuleOptions.model_validate(merged(record.options, changed))
            return msgspec.structs.replace(record, options=_stored(options))

        return await self._records.change(name, change)

    async def remove(self, name: str) -> bool:
        """Forget a team and what it used. False if there is none of this name."""
        return await self._records.remove(name, with_it=[self._rules + name])

    async def get(self, name: str) -> TeamRecord | None:
        return await self._records.get(name)

    async def all(self) -> dict[str, TeamRecord]:
        return await self._records.all()


def _stored(options: RuleOptions) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude_defaults=True)
