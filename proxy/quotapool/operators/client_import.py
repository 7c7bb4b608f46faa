"""Adds many teams, and clients that have keys already: in batches; when repeated, nothing is done twice."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from quotapool.ledger.clients import ClientRecord, ClientStore, digest
from quotapool.operators.big_answers import in_turns
from quotapool.settings import ClientOptions, Settings
from quotapool.settings.draft import problems_of
from quotapool.settings.rules import RuleOptions
from quotapool.settings.values import check_name
from quotapool.store.store import Store


@dataclass(frozen=True, slots=True)
class NewClient:
    """`suspended`: why it is out from the beginning, "": it is not."""

    id: str
    key_hash: str
    options: Mapping[str, Any]
    suspended: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one: `added`, `unchanged` (its key, or the team, is here already), `refused`; for people, why."""

    what: str
    why: str = ""


UNCHANGED: Final = Result("unchanged")
ADDED: Final = Result("added")


class ClientImport:
    """One import into a pool. `secrets`: those of upstream keys that are added with it, which no client may have.

    What is here already stays as it is, whatever options are given for it now. `dry_run`: nothing is written."""

    def __init__(self, settings: Settings, store: Store, *, secrets: Iterable[str] = (), dry_run: bool) -> None:
        self._settings = settings
        self._clients = ClientStore(store, settings.pool)
        self._dry_run = dry_run
        self._upstream = {digest(key.secret.get_secret_value()) for key in settings.keys} | set(map(digest, secrets))
        self._hashes: dict[str, str] = {}  # -> client
        self._names: dict[str, str] = {}  # -> hash
        self._teams: set[str] = set()

    async def begin(self) -> None:
        """Read what is here. Raises StoreLost."""
        stored = await self._clients.all()
        for name, record in stored.items():
            self._names[name] = record.hash
            self._hashes |= {hashed: name for hashed in (record.hash, record.old_hash) if hashed}
        for client in self._settings.clients:
            self._names[client.id], self._hashes[client.key_hash] = client.key_hash, client.id
        self._teams = {*self._settings.teams, *await self._clients.teams.all()}

    async def add_teams(self, teams: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Result]:
        """(id, options) of each. Raises StoreLost."""
        results, new = list[Result](), dict[str, RuleOptions]()
        async for name, options in in_turns(teams):
            if name in self._teams:
                results.append(UNCHANGED)
                continue
            try:
                check_name(name)
                new[name] = RuleOptions.model_validate(dict(options))
            except ValidationError as error:
                results.append(Result("refused", problems_of(error, RuleOptions)))
            except ValueError as error:
                results.append(Result("refused", f"id {error}"))
            else:
                results.append(ADDED)
                self._teams.add(name)
        if new and not self._dry_run:
            await self._clients.teams.add_all(new)
        return results

    async def add(self, clients: Sequence[NewClient]) -> list[Result]:
        """Raises StoreLost."""
        results, new, suspended = list[Result](), dict[str, ClientRecord](), dict[str, str]()
        async for client in in_turns(clients):
            checked = self._checked(client)
            results.append(checked if isinstance(checked, Result) else ADDED)
            if isinstance(checked, Result):
                continue
            written = checked.model_dump(mode="json", exclude_defaults=True, include=set(ClientOptions.model_fields))
            new[client.id] = ClientRecord(client.key_hash, time.time(), written)
            self._names[client.id], self._hashes[client.key_hash] = client.key_hash, client.id
            if client.suspended:
                suspended[client.id] = client.suspended
        if new and not self._dry_run:
            await self._clients.add_all(new, suspended)
        return results

    def _checked(self, client: NewClient) -> ClientOptions | Result:
        if client.key_hash in self._upstream:
            return Result("refused", "its key is one of the pool's upstream keys, which no client may have")
        if client.key_hash in self._hashes:
            return UNCHANGED
        if client.id in self._names:
            return Result("refused", f"there is a client {client.id} with another key")
        try:
            check_name(client.id)
            options = ClientOptions.model_validate(dict(client.options))
        except ValidationError as error:
            return Result("refused", problems_of(error, ClientOptions))
        except ValueError as error:
            return Result("refused", f"id {error}")
        if options.team is not None and options.team not in self._teams:
            return Result("refused", f"its team {options.team} was not taken")
        return options
