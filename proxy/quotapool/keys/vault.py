"""The vault: upstream keys added at run time, kept in the store under a master key. What is stored: `lua/vault.lua`.

Workers never import this: the supervisor opens the vault and gives them secrets over their pipe, as it does with the
configured ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from quotapool.keys.seal import MasterKey, SealBroken
from quotapool.store.store import Script, Store

_AT_ONCE: Final = 500  # keys of one script call: some milliseconds of the store's time
_PROOF: Final = "this is the master key of this pool"
_pack: Final = msgspec.msgpack.Encoder().encode
_words: Final = msgspec.json.Encoder(order="sorted").encode  # the same words for the same values, whoever writes


class VaultLocked(Exception):
    """The keys in the store were sealed with a master key that is not here. Nothing was changed."""


class VaultChanged(Exception):
    """Somebody added or removed a key at the same moment; nothing was done, try again."""


class Sealed(msgspec.Struct, frozen=True):
    """One key as it is stored. `print`: the secret's fingerprint; `about`: JSON of its attributes (account, ...), which
    nobody can change without the master key; `master`: id of the master key; `added`: Unix seconds."""

    print: str
    about: str
    sealed: str
    master: str
    added: float


class _InForce(msgspec.Struct, frozen=True):
    id: str
    check: str


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key on its way into the vault. `about`: the attributes of a configured key but for id and secret."""

    id: str
    secret: str = field(repr=False)
    print: str
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Opened:
    """A key out of the vault. `secret` is "" where it could not be opened."""

    id: str
    secret: str = field(repr=False)
    print: str
    about: Mapping[str, Any]
    added: float


@dataclass(frozen=True, slots=True)
class Contents:
    """The whole vault, still sealed. `version` None: this store knows of no vault. `master`: whose keys these are."""

    version: int | None = None
    master: str = ""
    records: Mapping[str, Sealed] = field(default_factory=dict)
    accounts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: str = field(default="", repr=False)


class Vault:
    """One pool's vault. Every method raises StoreLost where the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._pool = pool
        self._prefix = f"qp:{{{pool}}}"
        self._script = Script.of(__package__, "vault")

    async def version(self) -> int | None:
        """Counts changes; None where this store knows of no vault."""
        raw = await self._store.guard(self._store.client.get(f"{self._prefix}:vault:version"))
        return None if raw is None else int(raw)

    async def read(self) -> Contents:
        guard, client, vault = self._store.guard, self._store.client, f"{self._prefix}:vault"
        version = await self.version()  # first: what changes while we read is read again
        raw_master = await guard(client.get(f"{vault}:master"))
        raw = await guard(client.hgetall(vault))
        accounts = await guard(client.hgetall(f"{vault}:accounts"))
        master = msgspec.msgpack.decode(_bytes(raw_master), type=_InForce) if raw_master else _InForce("", "")
        return Contents(
            version,
            master.id,
            {_text(name): msgspec.msgpack.decode(_bytes(value), type=Sealed) for name, value in raw.items()},
            {_text(name): msgspec.json.decode(value) for name, value in accounts.items()},
            master.check,
        )

    def right_key(self, contents: Contents, masters: Iterable[MasterKey]) -> MasterKey | None:
        """The one of `masters` that is in force; None where the vault has no keys yet. Raises VaultLocked."""
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
            f"the {len(contents.records)} keys in the store were sealed with the master key {contents.master}, and the "
            f"one given here is another (given: {have}). They are left as they are. Give the right one by master_key "
            "or master_key_file"
        )

    def open(self, contents: Contents, masters: Iterable[MasterKey]) -> list[Opened]:
        """Every key, with its secret; those whose seal is broken have none. Raises VaultLocked."""
        master = self.right_key(contents, masters)
        return [self._opened(name, record, master) for name, record in sorted(contents.records.items())]

    def _opened(self, name: str, record: Sealed, master: MasterKey | None) -> Opened:
        secret = ""
        if master is not None:
            try:
                secret = master.open(record.sealed, self._pool, name, record.about)
            except SealBroken:
                secret = ""
        return Opened(name, secret, record.print, msgspec.json.decode(record.about), record.added)

    async def put(
        self,
        keys: Sequence[NewKey],
        master: MasterKey,
        *,
        accounts: Mapping[str, Mapping[str, Any]] | None = None,
        replace: bool = False,
    ) -> list[str]:
        """One word for each key: added, unchanged, updated (its attributes), replaced (its secret; only with
        `replace`), taken (its id, by another secret), `twin:<id>` (its secret, by another id).

        `accounts`: settings of accounts, each replacing what was stored. Raises VaultLocked.
        """
        proof = _pack(_InForce(master.id, master.seal(_PROOF, self._pool, _PROOF)))
        words: list[str] = []
        settings = [word for name, value in (accounts or {}).items() for word in (name, _words(value).decode())]
        for start in range(0, max(1, len(keys)), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            records = [word for key in part for word in (key.id, _pack(self._sealed(key, master, time.time())))]
            args = ["put", master.id, proof, "1" if replace else "0", len(part), *records, *settings]
            code, answer = await self._store.evalsha(self._script, [self._prefix], args)
            if code == 0:
                raise VaultLocked(
                    f"the keys in the store are sealed with the master key {_text(answer)}, not with {master.id}"
                )
            words += [_text(word) for word in answer]
            settings = []
        return words

    async def forget(self, *names: str) -> int:
        """Delete these keys and their secrets; how many there were."""
        _, gone = await self._store.evalsha(self._script, [self._prefix], ["forget", *names])
        return int(gone)

    async def rotate(self, masters: Iterable[MasterKey], new: MasterKey) -> int:
        """Seal every key with `new`, all at once or none; how many. Raises VaultLocked, VaultChanged."""
        contents = await self.read()
        old = self.right_key(contents, masters)
        if old is None or old.id == new.id:
            return 0
        args: list[bytes | str] = ["rotate", old.id, _pack(_InForce(new.id, new.seal(_PROOF, self._pool, _PROOF)))]
        for name, record in contents.records.items():
            opened = self._opened(name, record, old)
            if not opened.secret:
                raise VaultLocked(f"the key {name} cannot be opened; remove it first (quotapool keys remove --forget)")
            key = NewKey(name, opened.secret, record.print, opened.about)
            args += [name, _pack(record), _pack(self._sealed(key, new, record.added))]
        code, *rest = await self._store.evalsha(self._script, [self._prefix], args)
        if code != 1:
            raise VaultChanged("a key was added or removed at the same moment; nothing was changed, try again")
        return int(rest[0])

    async def restore(self, contents: Contents) -> None:
        """Give a store that lost its memory the sealed keys back; a key that is there already stays as it is."""
        proof = _pack(_InForce(contents.master, contents.check))
        pairs = [word for name, record in contents.records.items() for word in (name, _pack(record))]
        accounts = [word for name, value in contents.accounts.items() for word in (name, _words(value).decode())]
        head: list[str | bytes | int] = ["put", contents.master, proof, "0", len(contents.records)]
        await self._store.evalsha(self._script, [self._prefix], [*head, *pairs, *accounts])

    def _sealed(self, key: NewKey, master: MasterKey, added: float) -> Sealed:
        about = _words(key.about).decode()
        return Sealed(key.print, about, master.seal(key.secret, self._pool, key.id, about), master.id, added)


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else raw.decode()


def _bytes(raw: bytes | str) -> bytes:
    return raw.encode() if isinstance(raw, str) else raw
