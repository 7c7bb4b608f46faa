"""The vault: upstream keys added at run time, kept in the store under a master key. What is stored: `lua/vault.lua`.

Workers never import this: the supervisor opens the vault and sends them its secrets over their pipe, like those
of configured keys.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from quotapool.domain.counted import counted
from quotapool.keys.seal import MasterKey, SealBroken
from quotapool.store.store import Script, Store, text_of

_AT_ONCE: Final = 500  # keys of one script call: some milliseconds of the store's time
_PROOF: Final = "this is the master key of this pool"
_pack: Final = msgspec.msgpack.Encoder().encode
_json: Final = msgspec.json.Encoder(order="sorted").encode  # equal values are equal texts, in whatever order they came


class VaultLocked(Exception):
    """The keys in the store were sealed with a master key that is not available here. Nothing was changed."""


class VaultChanged(Exception):
    """A key was added or removed at the same moment; nothing was changed, try again."""


class Sealed(msgspec.Struct, frozen=True):
    """One key as it is stored. `fingerprint`: the secret's; `attributes`: JSON (account, ...), which nobody can change
    without the master key; `master`: id of the master key; `added`: Unix seconds."""

    fingerprint: str = msgspec.field(name="print")
    attributes: str = msgspec.field(name="about")
    sealed: str
    master: str
    added: float


class _CurrentMaster(msgspec.Struct, frozen=True):
    id: str
    check: str


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be put into the vault. `attributes`: those of a configured key, except id and secret."""

    id: str
    secret: str = field(repr=False)
    fingerprint: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Opened(NewKey):
    """A key out of the vault. `secret` is "" if it could not be opened."""

    added: float


@dataclass(frozen=True, slots=True)
class Contents:
    """The whole vault, still sealed. `version` None: this store has no vault. `master`: id of the master key;
    `check`: proves that a master key is that one."""

    version: int | None = None
    master: str = ""
    records: Mapping[str, Sealed] = field(default_factory=dict)
    accounts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: str = field(default="", repr=False)


class Vault:
    """One pool's vault. Every method raises StoreLost if the store is unavailable."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._pool = pool
        self._prefix = f"qp:{{{pool}}}"
        self._script = Script.of(__package__, "vault")
        names = ("vault", "vault:prints", "vault:accounts", "vault:master", "vault:version", "version")
        self._keys = [f"{self._prefix}:{name}" for name in names]  # as the script numbers them

    async def version(self) -> int | None:
        """Counts changes; None if this store has no vault."""
        raw = await self._store.guard(self._store.client.get(f"{self._prefix}:vault:version"))
        return None if raw is None else int(raw)

    async def read(self) -> Contents:
        guard, client, vault = self._store.guard, self._store.client, f"{self._prefix}:vault"
        version = await self.version()  # first: what changes while this reads is read again
        raw_master = await guard(client.get(f"{vault}:master"))
        raw = await guard(client.hgetall(vault))
        accounts = await guard(client.hgetall(f"{vault}:accounts"))
        master = (
            msgspec.msgpack.decode(_bytes(raw_master), type=_CurrentMaster) if raw_master else _CurrentMaster("", "")
        )
        return Contents(
            version,
            master.id,
            {text_of(name): msgspec.msgpack.decode(_bytes(value), type=Sealed) for name, value in raw.items()},
            {text_of(name): msgspec.json.decode(value) for name, value in accounts.items()},
            master.check,
        )

    def current_master(self, contents: Contents, masters: Iterable[MasterKey]) -> MasterKey | None:
        """The one of `masters` that sealed the vault; None if it has no keys yet. Raises VaultLocked."""
        if not contents.master:
            return None
        masters = list(masters)
        for master in masters:
            if master.id == contents.master:
                try:
                    master.open(contents.check, self._pool, _PROOF)
                except SealBroken:
                    break
                return master
        have = ", ".join(master.id for master in masters) or "none"
        raise VaultLocked(
            f"the store has {counted(len(contents.records), 'key')}, sealed with the master key {contents.master}, and "
            f"the one given here is another (given: {have}). Nothing is changed. Set master_key or master_key_file to "
            "the right one"
        )

    def open(self, contents: Contents, masters: Iterable[MasterKey]) -> list[Opened]:
        """Every key, with its secret; one whose seal is broken has none. Raises VaultLocked."""
        master = self.current_master(contents, masters)
        return [self._opened(name, record, master) for name, record in sorted(contents.records.items())]

    def _opened(self, name: str, record: Sealed, master: MasterKey | None) -> Opened:
        secret = ""
        if master is not None:
            try:
                secret = master.open(record.sealed, self._pool, name, record.attributes)
            except SealBroken:
                secret = ""
        return Opened(name, secret, record.fingerprint, msgspec.json.decode(record.attributes), record.added)

    async def put(
        self,
        keys: Sequence[NewKey],
        master: MasterKey,
        *,
        accounts: Mapping[str, Mapping[str, Any]] | None = None,
        replace: bool = False,
    ) -> list[str]:
        """One result for each key: added, unchanged, updated (its attributes), replaced (its secret; only with
        `replace`), taken (its id has another secret), `duplicate:<id>` (its secret has another id).

        `accounts`: settings of accounts, each replacing what was stored. Raises VaultLocked.
        """
        proof = self._proof(master)
        results: list[str] = []
        settings = [word for name, value in (accounts or {}).items() for word in (name, _json(value).decode())]
        for start in range(0, max(1, len(keys)), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            records = [word for key in part for word in (key.id, _pack(self._sealed(key, master, time.time())))]
            args = ["put", master.id, proof, "1" if replace else "0", len(part), *records, *settings]
            code, answer = await self._store.evalsha(self._script, self._keys, args)
            if code == 0:
                raise VaultLocked(
                    f"the keys in the store are sealed with the master key {text_of(answer)}, not with {master.id}"
                )
            results += [text_of(result) for result in answer]
            settings = []
        return results

    async def forget(self, *names: str) -> int:
        """Delete these keys and their secrets; how many there were."""
        _, gone = await self._store.evalsha(self._script, self._keys, ["forget", *names])
        return int(gone)

    async def rotate(self, masters: Iterable[MasterKey], new: MasterKey) -> int:
        """Seal every key with `new`, all at once or none; how many. Raises VaultLocked, VaultChanged."""
        contents = await self.read()
        old = self.current_master(contents, masters)
        if old is None or old.id == new.id:
            return 0
        args: list[bytes | str] = ["rotate", old.id, self._proof(new)]
        for name, record in contents.records.items():
            opened = self._opened(name, record, old)
            if not opened.secret:
                raise VaultLocked(f"the key {name} cannot be opened; remove it first (quotapool keys remove --forget)")
            key = NewKey(name, opened.secret, record.fingerprint, opened.attributes)
            args += [name, _pack(record), _pack(self._sealed(key, new, record.added))]
        code, *rest = await self._store.evalsha(self._script, self._keys, args)
        if code != 1:
            raise VaultChanged("a key was added or removed at the same moment; nothing was changed, try again")
        return int(rest[0])

    async def restore(self, contents: Contents) -> None:
        """Give a store that lost its data the sealed keys back; a key that is there already stays as it is."""
        proof = _pack(_CurrentMaster(contents.master, contents.check))
        pairs = [word for name, record in contents.records.items() for word in (name, _pack(record))]
        accounts = [word for name, value in contents.accounts.items() for word in (name, _json(value).decode())]
        head: list[str | bytes | int] = ["put", contents.master, proof, "0", len(contents.records)]
        await self._store.evalsha(self._script, self._keys, [*head, *pairs, *accounts])

    def _proof(self, master: MasterKey) -> bytes:
        return _pack(_CurrentMaster(master.id, master.seal(_PROOF, self._pool, _PROOF)))

    def _sealed(self, key: NewKey, master: MasterKey, added: float) -> Sealed:
        attributes = _json(key.attributes).decode()
        sealed = master.seal(key.secret, self._pool, key.id, attributes)
        return Sealed(key.fingerprint, attributes, sealed, master.id, added)


def _bytes(raw: bytes | str) -> bytes:
    return raw.encode() if isinstance(raw, str) else raw
