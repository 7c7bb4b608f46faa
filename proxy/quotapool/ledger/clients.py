"""Clients made while the proxy runs: what they may do, and their keys, only as SHA-256.

Stored: `qp:{pool}:clients`, hash: client id -> JSON of `ClientRecord`; `qp:{pool}:suspended`, hash: client id -> JSON
{reason, since}. A change raises the pool's version, so every worker learns of it with its next request or heartbeat.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import structlog
from pydantic import ValidationError

from quotapool.ledger.records import StoredRecords, merged
from quotapool.ledger.rules import CLIENT, TEAM
from quotapool.ledger.teams import TeamRecord, TeamStore
from quotapool.settings import Client, ClientOptions
from quotapool.settings.rules import RuleOptions
from quotapool.store.store import Store, text_of

_log = structlog.get_logger()


class ClientRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`hash`: SHA-256 of the key, hex; `added`: Unix seconds; `options`: those of `ClientOptions` that are no defaults.

    `old_hash`: of the key before the last rotation, which is served until `old_until` (Unix seconds).
    """

    hash: str
    added: float
    options: dict[str, Any] = {}
    old_hash: str = ""
    old_until: float = 0.0

    def client(self, name: str) -> Client:
        """The client as the configuration would describe it. Raises ValidationError: a newer version wrote it.

        `name` may be what no id can be today: it was free once."""
        client = Client.model_validate({**self.options, "id": "-", "key_hash": self.hash})
        return client.model_copy(update={"id": name})


class Suspension(msgspec.Struct, frozen=True):
    """Why a client is suspended, and since when (Unix seconds)."""

    reason: str
    since: float


def digest(token: str) -> str:
    """The form in which a client key is stored and looked up: its SHA-256, hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class ClientStore:
    """The clients of one pool in the store, and its `teams`. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._records = StoredRecords(store, pool, "clients", ClientRecord)
        self._suspended = f"qp:{{{pool}}}:suspended"
        self._refusals = f"qp:{{{pool}}}:policy:"
        self._of_one = f"qp:{{{pool}}}:rules:{CLIENT}", f"qp:{{{pool}}}:refusals:"
        self.teams = TeamStore(store, pool)

    async def add(self, name: str, key_hash: str, options: ClientOptions | None = None) -> bool:
        """False if the name is taken. What a client of this name used before is forgotten."""
        record = ClientRecord(key_hash, time.time(), _stored(options) if options is not None else {})
        return await self._records.put(name, record, without=[prefix + name for prefix in self._of_one])

    async def add_all(self, records: Mapping[str, ClientRecord], suspended: Mapping[str, str]) -> set[str]:
        """Add many; the names that were taken. `suspended`: those that are to be out from the beginning, and why."""
        now = time.time()
        reasons = {name: msgspec.json.encode(Suspension(reason, now)).decode() for name, reason in suspended.items()}
        if reasons:  # first: none of them may be served in between
            pipeline = self._store.client.pipeline(transaction=False)
            for name, reason in reasons.items():
                pipeline.hsetnx(self._suspended, name, reason)
            await self._store.guard(pipeline.execute())
        return await self._records.put_new(records, lambda name: [prefix + name for prefix in self._of_one])

    async def put(self, name: str, record: ClientRecord) -> bool:
        """Write a record as it was, into a store that forgot it. False if the name is taken."""
        return await self._records.put(name, record)

    async def set(self, name: str, changed: dict[str, Any]) -> ClientRecord | None:
        """Change some options; None if there is no such client. Raises ValidationError, and then changes nothing."""

        def change(record: ClientRecord) -> ClientRecord:
            options = ClientOptions.model_validate(merged(record.options, changed))
            return msgspec.structs.replace(record, options=_stored(options))

        return await self._records.change(name, change)

    async def rotate(self, name: str, key_hash: str, overlap_s: float) -> ClientRecord | None:
        """Give it another key; the old one is served for `overlap_s` more. None if there is no such client."""
        until = time.time() + overlap_s

        def change(record: ClientRecord) -> ClientRecord:
            return msgspec.structs.replace(record, hash=key_hash, old_hash=record.hash, old_until=until)

        return await self._records.change(name, change)

    async def revoke(self, name: str) -> bool:
        """Forget a client and what it used. False if there is none of this name."""
        return await self._records.remove(name, with_it=[prefix + name for prefix in self._of_one])

    async def get(self, name: str) -> ClientRecord | None:
        return await self._records.get(name)

    async def all(self) -> dict[str, ClientRecord]:
        return await self._records.all()

    async def suspend(self, name: str, reason: str) -> bool:
        """False if it is suspended already. It may be a client of the configuration, too."""
        record = msgspec.json.encode(Suspension(reason, time.time())).decode()
        new = await self._store.guard(self._store.client.hsetnx(self._suspended, name, record))
        if new:
            await self._records.changed()
        return bool(new)

    async def resume(self, name: str) -> bool:
        """Serve it again, with its refusals forgotten; False if it was not suspended."""
        await self._store.guard(self._store.client.delete(self._refusals + name))
        gone = await self._store.guard(self._store.client.hdel(self._suspended, name))
        await self._records.changed()
        return bool(gone)

    async def suspension(self, name: str) -> Suspension | None:
        raw = await self._store.guard(self._store.client.hget(self._suspended, name))
        return None if raw is None else msgspec.json.decode(raw, type=Suspension)

    async def suspended(self) -> dict[str, Suspension]:
        raw = await self._store.guard(self._store.client.hgetall(self._suspended))
        return {text_of(name): msgspec.json.decode(value, type=Suspension) for name, value in raw.items()}


class ClientDirectory:
    """One process's copy of the store's clients and teams. `changed` is called when it differs from before.

    `renewed`: subjects of rules that were removed and made again under the same name since the change before, which
    have nothing in common with the earlier ones.
    """

    def __init__(self, clients: ClientStore, changed: Callable[[], None]) -> None:
        self.records: dict[str, ClientRecord] = {}
        self.clients: dict[str, Client] = {}
        self.team_records: dict[str, TeamRecord] = {}
        self.teams: dict[str, RuleOptions] = {}
        self.suspended: dict[str, Suspension] = {}
        self.renewed: frozenset[str] = frozenset()
        self._clients = clients
        self._changed = changed
        self._teamless: dict[str, str] = {}

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 -> client id, of keys and of those before them."""
        found: dict[str, str] = {}
        for name, record in self.records.items():
            found[record.hash] = name
            if record.old_hash:
                found[record.old_hash] = name
        return found

    @property
    def old_keys(self) -> dict[str, float]:
        """SHA-256 of keys that were rotated out -> when they are refused (Unix seconds)."""
        return {record.old_hash: record.old_until for record in self.records.values() if record.old_hash}

    def made_at(self, name: str) -> float:
        """When a client was made (Unix seconds); 0: it is not of the store."""
        record = self.records.get(name)
        return 0.0 if record is None else record.added

    @property
    def unreadable(self) -> frozenset[str]:
        """Clients whose options a newer version wrote. They are known, so that callers without a key stay out, and get
        no access: what is not understood might be a limit."""
        return frozenset(self.records) - frozenset(self.clients)

    async def refresh(self) -> None:
        """Read all. Raises StoreLost."""
        records, suspended = await self._clients.all(), await self._clients.suspended()
        teams = await self._clients.teams.all()  # after the clients, which are made after their teams
        if (records, suspended, teams) == (self.records, self.suspended, self.team_records):
            return
        self.clients = dict(self._readable(records))
        self.teams = dict(self._readable_teams(teams))
        self.renewed = frozenset(
            (
                *(f"{CLIENT}{name}" for name in _made_again(self.records, records)),
                *(f"{TEAM}{name}" for name in _made_again(self.team_records, teams)),
            )
        )
        self.records, self.suspended, self.team_records = records, suspended, teams
        self._changed()
        self.renewed = frozenset()

    def _readable(self, records: dict[str, ClientRecord]) -> Iterator[tuple[str, Client]]:
        for name, record in records.items():
            if name in self.clients and record == self.records[name]:  # a thousand would hold up the loop
                yield name, self.clients[name]
                continue
            try:
                yield name, record.client(name)
            except ValidationError as error:
                _log.error("a client in the store cannot be read and has no access", client=name, problem=str(error))

    def _readable_teams(self, records: dict[str, TeamRecord]) -> Iterator[tuple[str, RuleOptions]]:
        for name, record in records.items():
            try:
                yield name, record.team()
            except ValidationError as error:
                if record != self.team_records.get(name):
                    _log.error("a team in the store cannot be read", team=name, problem=str(error))

    def teamless(self, clients: Mapping[str, Client], teams: Mapping[str, RuleOptions]) -> frozenset[str]:
        """Those of the clients whose team is nowhere, or cannot be read. They are known, and get no access: the limits
        that they are to have are not known. Each is logged once."""
        found = {
            name: client.team
            for name, client in clients.items()
            if client.team is not None and client.team not in teams
        }
        for name, team in found.items():
            if self._teamless.get(name) != team:
                _log.error("a client names a team that does not exist and has no access", client=name, team=team)
        self._teamless = found
        return frozenset(found)

    async def restore(self) -> None:
        """Write teams and clients back into a store that lost its data. Raises StoreLost."""
        for team, team_record in self.team_records.items():
            await self._clients.teams.put(team, team_record)
        for name, record in self.records.items():
            await self._clients.put(name, record)
        for name, suspension in self.suspended.items():
            await self._clients.suspend(name, suspension.reason)


def _made_again(
    before: Mapping[str, ClientRecord | TeamRecord], now: Mapping[str, ClientRecord | TeamRecord]
) -> list[str]:
    """Names whose record is another one's than before."""
    return [name for name, record in now.items() if name in before and before[name].added != record.added]


def _stored(options: ClientOptions) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude_defaults=True, include=set(ClientOptions.model_fields))


def new_key() -> str:
    """A client key: 192 random bits, recognisable in leaks."""
    return f"qp-{secrets.token_urlsafe(24)}"
