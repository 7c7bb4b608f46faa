"""What can be changed about a key, a client, a team or an account, as it stands, without secrets: before and after a
change.

A secret shows only by a mark, which differs when the secret does; `told` then says that it is a new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from quotapool.domain.changes import HIDDEN, Changes, changed
from quotapool.ledger.clients import ClientStore
from quotapool.operators.keys import KeyOperations
from quotapool.settings import Settings
from quotapool.store.store import Store

KEY: Final = "k/"
CLIENT: Final = "c/"
TEAM: Final = "t/"
ACCOUNT: Final = "a/"
_SECRETS: Final = {KEY: "secret", CLIENT: "key"}  # the option that a mark stands for
_MARK: Final = "\0mark"


class Snapshots:
    """Of one pool. `keys`: those of the caller; without, keys and accounts have no options here."""

    def __init__(self, settings: Callable[[], Settings], store: Store, keys: KeyOperations | None = None) -> None:
        self._clients = ClientStore(store, settings().pool)
        self._keys = keys

    async def of(self, subject: str) -> dict[str, Any]:
        """The options of a subject (`k/alpha`); {}: there is none, or it has none. Raises StoreLost."""
        kind, name = subject[:2], subject[2:]
        if not name:
            return {}
        if kind == CLIENT:
            record = await self._clients.get(name)
            suspension = await self._clients.suspension(name)
            found = {"suspended": suspension.reason} if suspension is not None else {}
            return found if record is None else {**record.options, **found, _MARK: _mark(record.hash)}
        if kind == TEAM:
            team = await self._clients.teams.get(name)
            return {} if team is None else {"there": True, **team.options}
        if kind == KEY and self._keys is not None:
            await self._keys.overview.sync.refresh()
            return self._of_key(self._keys, name)
        if kind == ACCOUNT and self._keys is not None:
            return dict(self._keys.sources.contents.accounts.get(name, {}))
        return {}

    @staticmethod
    def _of_key(keys: KeyOperations, name: str) -> dict[str, Any]:
        pool, contents = keys.overview.roster.pool, keys.sources.contents
        key, stored = pool.keys.get(name), contents.records.get(name)
        found: dict[str, Any] = {}
        if stored is not None:
            found = {**keys.stored_attributes(name), _MARK: _mark(stored.fingerprint)}
        if key is not None:
            found["state"] = pool.state_of(key).value
        account = found.get("account") or (key.account if key is not None else "")
        own = contents.accounts.get(account, {}) if account else {}
        return {**found, **{f"account.{option}": value for option, value in own.items()}}


def told(subject: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Option -> [old, new] for a record; of a secret only that it is a new one, or gone."""
    changes = changed(before, after)
    if (marks := changes.pop(_MARK, None)) is not None:
        old, new = marks
        shown = [HIDDEN if old else None, "new key" if new else None]
        changes = {_SECRETS.get(subject[:2], "secret"): shown, **changes}
    return changes


def _mark(text: str) -> str:
    """Of a hash, another one: a mark that escapes by mistake is worth nothing."""
    return hashlib.sha256(f"mark {text}".encode()).hexdigest()[:16]
