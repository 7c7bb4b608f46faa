"""What operators do to the proxy's clients; the commands and the admin API both do it through this."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from quotapool.ledger.clients import ClientRecord, ClientStore, digest, new_key
from quotapool.money.last_seen import last_seen
from quotapool.operators.rule_levels import RuleLevels
from quotapool.settings import Client, ClientOptions, Settings
from quotapool.settings.clients import SHORTEST_CLIENT_KEY
from quotapool.settings.draft import problems_of
from quotapool.settings.errors import nearest
from quotapool.settings.values import check_name
from quotapool.store.store import Store

_OPTIONS: Final = set(ClientOptions.model_fields)


class InvalidClient(Exception):
    """What was given is no client; the message says what is wrong, without secrets."""


class UnknownClient(Exception):
    """The store has no such client."""


class ClientConflict(Exception):
    """It contradicts what is there: the id or the key is taken, or the client is in the configuration."""


class ClientOperations:
    """The clients of one pool: those of the configuration are shown, those in the store changed. Every method raises
    StoreLost while the store is away."""

    def __init__(self, settings: Callable[[], Settings], store: Store) -> None:
        """`settings`: those in force, which a reload replaces."""
        self._settings = settings
        self._store = store
        self._clients = ClientStore(store, settings().pool)
        self._levels = RuleLevels(settings, store)

    def _is_configured(self, name: str) -> bool:
        return any(client.id == name for client in self._settings().clients)

    async def rows(self) -> list[dict[str, Any]]:
        """Each client: where it comes from, its options, whether it is suspended, until when an old key is served, the
        day (UTC) of its last request, and how its `rules` stand (`RuleRow`), its team's included. Times are Unix
        seconds."""
        return await self._rows(await self._clients.all(), self._settings().clients)

    async def row(self, name: str) -> dict[str, Any]:
        """One of them. Raises UnknownClient."""
        stored = {other: record for other, record in (await self._clients.all()).items() if other == name}
        rows = await self._rows(stored, [client for client in self._settings().clients if client.id == name])
        if not rows:
            raise UnknownClient(name)
        return rows[0]

    async def _rows(self, stored: Mapping[str, ClientRecord], written: Sequence[Client]) -> list[dict[str, Any]]:
        readable = _readable(stored)
        rows = []
        for name, record in sorted(stored.items()):
            options = readable[name].model_dump(mode="json", include=_OPTIONS) if name in readable else record.options
            rows.append(self._row(name, "store", options, record))
        rows += [
            self._row(client.id, "configuration", client.model_dump(mode="json", include=_OPTIONS))
            for client in written
        ]
        suspended, names = await self._clients.suspended(), [row["id"] for row in rows]
        rules = await self._levels.of_clients({**readable, **{client.id: client for client in written}})
        seen = await last_seen(self._store, self._settings().pool, names, datetime.now(UTC).date())
        for row in rows:
            name = row["id"]
            row["suspended"] = suspended[name].reason if name in suspended else None
            row["last_seen"] = seen[name].isoformat() if name in seen else None
            row["rules"] = rules.get(name, [])
        return rows

    @staticmethod
    def _row(name: str, source: str, options: dict[str, Any], record: ClientRecord | None = None) -> dict[str, Any]:
        row = {"id": name, "source": source, **ClientOptions().model_dump(mode="json"), **options}
        row["added"] = None if record is None else record.added
        row["old_key_until"] = record.old_until if record is not None and record.old_until > time.time() else None
        return row

    async def is_first(self) -> bool:
        """Whether there is no client yet: until there is one, callers without a key may be served."""
        return not self._settings().clients and not await self._clients.all()

    async def check_new(self, name: str, options: dict[str, Any]) -> ClientOptions:
        """The options that a new client would have, without adding it. Raises InvalidClient, ClientConflict."""
        try:
            check_name(name)
        except ValueError as error:
            raise InvalidClient(f"id {error}") from None
        checked = _checked(options)
        if self._is_configured(name):
            raise ClientConflict(f"a client {name} is in the configuration")
        await self._check_team(checked.team)
        return checked

    async def check_key(self, key: str) -> None:
        """Raises InvalidClient, ClientConflict if no new client could have this key."""
        await self._key(key, None)

    async def add(
        self, name: str, options: dict[str, Any], *, key: str | None = None, key_hash: str | None = None
    ) -> str | None:
        """Add a client with a new key, or with one that it has. Returns a new key, which is never shown again.

        Raises InvalidClient, ClientConflict."""
        checked = await self.check_new(name, options)
        new, hashed = await self._key(key, key_hash)
        if not await self._clients.add(name, hashed, checked):
            raise ClientConflict(f"a client {name} exists already; revoke it first, or rotate its key")
        return new

    async def set(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """Change some of its options; the others stay. Returns those that are no defaults now.

        Raises InvalidClient, UnknownClient, ClientConflict."""
        await self._check_team(options.get("team"))
        try:
            record = await self._clients.set(name, options)
        except ValidationError as error:
            raise InvalidClient(problems_of(error, ClientOptions)) from None
        return self._known(name, record).options

    async def rotate(
        self, name: str, overlap_s: float, *, key: str | None = None, key_hash: str | None = None
    ) -> tuple[str | None, float]:
        """Give it another key. Returns a new one, which is never shown again, and until when the old one is served.

        Raises InvalidClient, UnknownClient, ClientConflict."""
        new, hashed = await self._key(key, key_hash)
        record = self._known(name, await self._clients.rotate(name, hashed, overlap_s))
        return new, record.old_until

    async def suspend(self, name: str, reason: str) -> bool:
        """Refuse it until it is resumed, one of the configuration too. False if it was so before. Raises
        UnknownClient."""
        if not self._is_configured(name) and name not in await self._clients.all():
            raise UnknownClient(name)
        return await self._clients.suspend(name, reason)

    async def resume(self, name: str) -> bool:
        """Serve it again. False if it was not suspended."""
        return await self._clients.resume(name)

    async def revoke(self, name: str) -> None:
        """Take its key from it, and forget it. Raises UnknownClient, ClientConflict."""
        if not await self._clients.revoke(name):
            self._known(name, None)

    async def _key(self, key: str | None, key_hash: str | None) -> tuple[str | None, str]:
        """A new key if none was given, and the hash of whichever it is. Raises InvalidClient, ClientConflict."""
        if key is not None and len(key) < SHORTEST_CLIENT_KEY:
            raise InvalidClient(f"a client key needs at least {SHORTEST_CLIENT_KEY} characters")
        new = new_key() if key is None and key_hash is None else None
        hashed = key_hash or digest(key or new or "")
        if any(hashed == digest(upstream.secret.get_secret_value()) for upstream in self._settings().keys):
            raise ClientConflict("that is a key of the pool; clients must not have one")
        stored = [
            hashed_key
            for record in (await self._clients.all()).values()
            for hashed_key in (record.hash, record.old_hash)
        ]
        if hashed in {*stored, *(client.key_hash for client in self._settings().clients)}:
            raise ClientConflict("a client has that key already, or had it before its last rotation")
        return new, hashed

    async def _check_team(self, name: object) -> None:
        """A client of a team that is nowhere would be refused. Raises InvalidClient."""
        if not isinstance(name, str):
            return
        known = {*self._settings().teams, *await self._clients.teams.all()}
        if name not in known:
            hint = f"; did you mean {meant}?" if (meant := nearest(name, known)) else ""
            raise InvalidClient(f"team: there is no such team; `quotapool teams add` makes one{hint}")

    def _known(self, name: str, record: ClientRecord | None) -> ClientRecord:
        if record is not None:
            return record
        if self._is_configured(name):
            raise ClientConflict(f"client {name} is in the configuration; change it there")
        raise UnknownClient(name)


def _readable(records: Mapping[str, ClientRecord]) -> dict[str, ClientOptions]:
    """Without those that a newer version wrote."""
    found: dict[str, ClientOptions] = {}
    for name, record in records.items():
        with contextlib.suppress(ValidationError):
            found[name] = record.client(name)
    return found


def _checked(options: dict[str, Any]) -> ClientOptions:
    """Raises InvalidClient."""
    try:
        return ClientOptions.model_validate(options)
    except ValidationError as error:
        raise InvalidClient(problems_of(error, ClientOptions)) from None
