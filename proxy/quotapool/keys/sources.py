"""Where the pool's keys come from: the configuration and the vault, merged into one configuration for all processes.

A key of the vault that cannot be opened stays in the store as it is; the pool goes on with all others, and logs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import msgspec
import structlog
from pydantic import ValidationError

from quotapool.domain.counted import counted
from quotapool.keys.master_keys import NoMasterKey, master_keys
from quotapool.keys.seal import MasterKey
from quotapool.keys.vault import Contents, Opened, Vault, VaultLocked
from quotapool.settings import Account, Settings, UpstreamKey, with_more
from quotapool.store.store import StoreError
from quotapool.upstream.credentials import fingerprint

_log = structlog.get_logger()
_CHECK_S: Final = 0.5
_TRY_AGAIN_S: Final = 5.0  # a master key file may have been corrected


class Log(Protocol):
    """What is used of a logger."""

    def warning(self, event: str) -> Any: ...
    def error(self, event: str) -> Any: ...


class KeySources:
    """`configured`: the configuration as it was loaded. `on_secret` receives every secret, for the redactor."""

    def __init__(
        self,
        vault: Vault,
        configured: Settings,
        *,
        on_secret: Callable[[str], object] = lambda _: None,
        log: Log = _log,
    ) -> None:
        self.vault = vault
        self.configured = configured
        self.contents = Contents()
        self.problem = ""  # why keys of the vault are missing
        self.missing: dict[str, str] = {}  # those keys: id -> account
        self._on_secret = on_secret
        self._log = log
        self._keys: dict[str, tuple[str, UpstreamKey]] = {}  # id -> (as it is stored, the key)
        self._logged: set[str] = set()
        self._reading = asyncio.Lock()
        self._changed = False  # since `watch` last reported a change

    async def read(self) -> None:
        """Read the vault; a store that lost its keys gets them back. Raises StoreLost; anything else that is wrong is
        logged, and `problem` has it.

        Thousands of keys are opened in a thread; of two at the same time, the second waits."""
        async with self._reading:
            before = self._keys, self.contents.accounts
            contents = await self.vault.read()
            if _lost(self.contents, contents):
                await self.vault.restore(self.contents)
                self._log.warning("the store had lost the keys that were added at run time; they are restored")
                contents = await self.vault.read()
            opened: Mapping[str, tuple[Opened, UpstreamKey | None]] = {}
            try:
                if contents.records:
                    masters = master_keys(self.configured, self._on_secret)
                    self.vault.current_master(contents, masters)
                    opened = await asyncio.to_thread(self._open, self._not_yet_opened(contents), masters)
                self.problem = ""
            except (VaultLocked, NoMasterKey) as error:
                self.problem = str(error)
            self.contents = contents
            self._update(opened)
            self._changed |= before != (self._keys, self.contents.accounts)
            if self.problem:
                self._log_once(f"{self.problem}. Not served: {counted(len(self.missing), 'key')}", error=True)

    def _not_yet_opened(self, contents: Contents) -> Contents:
        known = self._keys
        new = {
            name: record
            for name, record in contents.records.items()
            if name not in known or known[name][0] != record.sealed
        }
        return replace(contents, records=new)

    def _open(self, contents: Contents, masters: Sequence[MasterKey]) -> dict[str, tuple[Opened, UpstreamKey | None]]:
        """By id, each with the key that it is; None: this version does not understand it. Raises VaultLocked."""
        found: dict[str, tuple[Opened, UpstreamKey | None]] = {}
        for opened in self.vault.open(contents, masters):
            try:
                found[opened.id] = opened, key_of(opened) if opened.secret else None
            except ValidationError:
                found[opened.id] = opened, None
        return found

    def _update(self, opened: Mapping[str, tuple[Opened, UpstreamKey | None]]) -> None:
        keys: dict[str, tuple[str, UpstreamKey]] = {}
        self.missing = {}
        for name, record in self.contents.records.items():
            known = self._keys.get(name)
            if name in opened and opened[name][0].secret:
                key = opened[name][1]
                if key is not None:
                    keys[name] = record.sealed, key
                    self._on_secret(opened[name][0].secret)
                    continue
                self.problem = f"the stored key {name} is not understood by this version"
            elif known is not None and fingerprint(known[1].secret.get_secret_value()) == record.fingerprint:
                keys[name] = known  # opened before its master key was changed
                continue
            elif not self.problem:
                self.problem = f"the stored key {name} was changed without the master key"
            self.missing[name] = msgspec.json.decode(record.attributes).get("account") or name
        self._keys = keys

    async def reload(self, configured: Settings) -> None:
        """Use this configuration from now on, which may have another master key. Raises StoreLost."""
        self.configured = configured
        await self.read()

    def merged(self) -> Settings:
        """The configuration with the vault's keys."""
        by_id = {key.id for key in self.configured.keys}
        by_secret = {key.secret.get_secret_value(): key.id for key in self.configured.keys}
        keys = []
        for name, (_, key) in sorted(self._keys.items()):
            duplicate = by_secret.get(key.secret.get_secret_value())
            if name in by_id:
                self._log_once(f"the key {name} is in the configuration and in the store; the configured one is used")
            elif duplicate is not None:
                self._log_once(f"the stored key {name} has the secret of the configured key {duplicate}, which is used")
            else:
                keys.append(key)
        return with_more(self.configured, keys, self._accounts())

    def _accounts(self) -> dict[str, Account]:
        """Stored settings of accounts; those in the configuration take precedence, option by option."""
        accounts: dict[str, Account] = {}
        for name, stored in self.contents.accounts.items():
            written = self.configured.accounts.get(name)
            own = {field: getattr(written, field) for field in written.model_fields_set} if written else {}
            try:
                account = account_of({**stored, **own})
            except ValidationError:
                self._log_once(f"the stored settings of the account {name} are not understood by this version")
                continue
            if account.tier is not None and account.tier not in self.configured.tiers:
                self._log_once(f"the account {name} was added with the tier {account.tier}, which is not configured")
                account = account.model_copy(update={"tier": None})
            accounts[name] = account
        return accounts

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` after each change of the vault."""
        tried = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_CHECK_S)
            try:
                version = await self.vault.version()
                again = bool(self.problem) and loop.time() > tried + _TRY_AGAIN_S
                if version != self.contents.version or again:
                    tried = loop.time()
                    await self.read()
            except StoreError:
                continue  # the ledger reports it
            if self._changed:
                self._changed = False
                on_change()

    def _log_once(self, text: str, *, error: bool = False) -> None:
        if text not in self._logged:
            self._logged.add(text)
            (self._log.error if error else self._log.warning)(text)


def _lost(before: Contents, now: Contents) -> bool:
    """Whether the store was emptied in between. The check of its master key tells, which is made anew for an empty
    vault: a key may have been added since, and then the vault has a version again."""
    return bool(before.records) and now.master in {"", before.master} and now.check != before.check


def key_of(opened: Opened) -> UpstreamKey:
    """A stored key as a configured one. Raises ValidationError."""
    return UpstreamKey.model_validate({**opened.attributes, "id": opened.id, "secret": opened.secret})


def account_of(values: Mapping[str, Any]) -> Account:
    """Settings of an account, as far as this version knows them. Raises ValidationError."""
    return Account.model_validate({name: value for name, value in values.items() if name in Account.model_fields})
