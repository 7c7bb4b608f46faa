"""The operators' desk: everything they can do to the pool's keys. The command line and the admin API are ways to it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.verdict import Kind, Verdict
from quotapool.keys.check import KeyCheck, KeyChecker, said
from quotapool.keys.master_keys import make_one, master_keys
from quotapool.keys.seal import MasterKey
from quotapool.keys.sources import KeySources, account_of
from quotapool.keys.vault import NewKey
from quotapool.observe.redaction import Redactor
from quotapool.openai.advice import advice
from quotapool.operators.overview import Overview
from quotapool.probes.prober import NotProbed
from quotapool.settings import Settings, UpstreamKey
from quotapool.settings.draft import Draft
from quotapool.upstream.credentials import fingerprint

SAYINGS: Final = {
    "enable": None,  # active again, whatever was observed or said before
    "disable": State.DISABLED,
    "drain": State.DRAINING,
    "remove": State.REMOVED,
}
_NUMBER: Final = re.compile(r"([0-9]{1,18})")
LOCKED: Final = "locked"  # state of a stored key that cannot be opened

ProbeNow = Callable[[str], Awaitable[Verdict]]


class Unknown(Exception):
    """No such key."""


class Unfit(Exception):
    """What was given cannot be used; the text never holds a secret."""


class Clash(Exception):
    """It would contradict what is there already."""


class Rejected(Exception):
    """Upstream does not take the secret. `asked` says what it said."""

    def __init__(self, asked: KeyCheck) -> None:
        super().__init__(f"upstream says {asked.word}" + (f" ({asked.detail})" if asked.detail else ""))
        self.asked = asked


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as somebody gave it. `account_settings`: tier, weight, grants of its account."""

    secret: str = field(repr=False)
    id: str | None = None
    account: str | None = None
    account_settings: Mapping[str, Any] = field(default_factory=dict)


class KeyOperations:
    """`overview` has merged settings; `sources` knows which keys are whose."""

    def __init__(
        self, overview: Overview, sources: KeySources, redactor: Redactor, probe_now: ProbeNow | None = None
    ) -> None:
        self.overview = overview
        self.sources = sources
        self.redactor = redactor
        self.probe_now = probe_now

    @property
    def settings(self) -> Settings:
        return self.overview.settings

    # ---- looking

    async def rows(self) -> list[dict[str, Any]]:
        """Each key: state, reason, what is left, what to do, where it is kept. Raises StoreUnavailable."""
        rows = await self.overview.rows()
        for row in rows:
            row["source"] = "store" if self._is_stored(row["id"]) else "configuration"
            row["next"] = next_step(row)
        for name, account in self.sources.missing.items():
            row = {"id": name, "account": account, "organization": None, "state": LOCKED, "reason": "master_key"}
            row |= {"cooling_s": 0.0, "credit": {}, "budgets": []}
            rows.append({**row, "source": "store", "next": advice("master_key")})
        # As people wrote them, then as people count: the store keeps its keys in no order.
        configured = [row for row in rows if row["source"] != "store"]
        return configured + sorted((row for row in rows if row["source"] == "store"), key=_counted)

    async def row(self, name: str) -> dict[str, Any]:
        """One key. Raises Unknown."""
        for row in await self.rows():
            if row["id"] == name:
                return row
        raise Unknown(name)

    def _is_stored(self, name: str) -> bool:
        return name in self.sources.contents.records and not self._is_configured(name)

    def _is_configured(self, name: str) -> bool:
        return any(key.id == name for key in self.sources.configured.keys)

    def stored_about(self, name: str) -> dict[str, Any]:
        """The attributes of a stored key; {} where there is none."""
        record = self.sources.contents.records.get(name)
        return dict(msgspec.json.decode(record.about)) if record is not None else {}

    # ---- saying

    async def say(self, saying: str, name: str) -> State:
        """Carry out one of SAYINGS; the key's state then. `enable` also lifts what holds for its account. Raises
        Unknown, StoreUnavailable."""
        pool, ledger = self.overview.roster.pool, self.overview.ledger
        key = pool.keys.get(name)
        if key is None:
            raise Unknown(name)
        state = SAYINGS[saying]
        if state is None:
            account, lift = pool.accounts[key.account], ledger.registry.change_state
            if account.organization:
                await ledger.registry.change_state(
                    Subject.of_organization(account.organization), None, by=OPERATOR, fingerprint=""
                )
            await ledger.registry.change_state(
                Subject.of_account(account.id), None, by=OPERATOR, fingerprint=account.fingerprint
            )
            await lift(Subject.of_key(key.id), None, by=OPERATOR, fingerprint=key.fingerprint)
        else:
            record = Record(state, "operator", 0.0, by=OPERATOR, fingerprint=key.fingerprint)
            await ledger.registry.change_state(Subject.of_key(key.id), record, fingerprint=key.fingerprint)
        await self.overview.sync.refresh()
        return pool.state_of(key)

    async def forget(self, name: str) -> None:
        """Delete a stored key, its secret and its state. Raises Unknown, Clash (a configured one), StoreLost."""
        record = self.sources.contents.records.get(name)
        if self._is_configured(name):
            raise Clash(f"the key {name} stands in the configuration; take it out there")
        if record is None:
            raise Unknown(name)
        await self.overview.ledger.registry.change_state(
            Subject.of_key(name), None, by=OPERATOR, fingerprint=record.print
        )
        await self.sources.vault.forget(name)
        await self.sources.read()

    async def probe(self, name: str) -> KeyCheck:
        """Ask upstream about one key now. Raises Unknown, Clash (an operator removed it)."""
        key = next((key for key in self.settings.keys if key.id == name), None)
        if key is None:
            raise Unknown(name)
        if self.probe_now is not None:
            try:
                verdict = await self.probe_now(name)
                return replace(said(verdict), ok=verdict.kind is Kind.OK)
            except NotProbed as why:
                raise Clash(str(why)) from why
        return await self.ask(key)

    async def ask(self, key: UpstreamKey) -> KeyCheck:
        """Ask upstream whether it takes this key, in the pool or not."""
        asker = KeyChecker(self.settings, self.redactor)
        try:
            return await asker.ask(key)
        finally:
            await asker.close()

    # ---- adding

    async def add(self, entry: Entry, *, check: bool = True, replace: bool = False) -> tuple[str, str]:
        """Keep a key in the vault: (its id, one of Vault.put's words). Raises Unfit, Clash, Rejected, NoMasterKey,
        VaultLocked, StoreLost."""
        self.redactor.add(entry.secret)
        key = self.checked(entry)
        master = self.master()
        twin = self.twin_of(key)
        if twin is not None:
            raise Clash(f"that secret is in the pool already, as {twin}")
        if check:
            asked = await self.ask(key)
            if not asked.ok:
                raise Rejected(asked)
        (word,) = await self.sources.vault.put(
            [new_key(key)],
            master,
            accounts=self.account_settings({key.account: entry.account_settings}),
            replace=replace,
        )
        if word == "taken":
            raise Clash(f"there is a key {key.id} with another secret; to change its secret, say so (replace)")
        if word.startswith("twin:"):
            raise Clash(f"that secret is in the pool already, as {word[5:]}")
        await self.sources.read()
        return key.id, word

    def checked(self, entry: Entry) -> UpstreamKey:
        """The key as a configured one would be. Raises Unfit."""
        given = {"secret": entry.secret, "id": entry.id, "account": entry.account}
        draft = Draft()
        try:
            key = UpstreamKey.model_validate({name: value for name, value in given.items() if value})
            account = account_of(entry.account_settings)
        except ValidationError as error:
            draft.refuse_invalid(error, UpstreamKey)
            raise Unfit("; ".join(str(problem) for problem in draft.problems)) from None
        if account.tier is not None and account.tier not in self.sources.configured.tiers:
            raise Unfit("tier: no such tier under tiers: in the configuration")
        return key

    def twin_of(self, key: UpstreamKey) -> str | None:
        """A configured key with the same id or secret."""
        for other in self.sources.configured.keys:
            if other.secret.get_secret_value() == key.secret.get_secret_value():
                return other.id
            if other.id == key.id:
                raise Clash(f"the id {key.id} stands in the configuration")
        return None

    def account_settings(self, given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """What is to be stored of these accounts: what was stored, with what is given over it."""
        stored = self.sources.contents.accounts
        return {name: {**stored.get(name, {}), **settings} for name, settings in given.items() if settings}

    def master(self) -> MasterKey:
        """The master key to seal with. Raises NoMasterKey, VaultLocked."""
        if not self.sources.contents.master:
            return make_one(self.sources.configured, self.redactor.add)
        masters = master_keys(self.sources.configured, self.redactor.add)
        found = self.sources.vault.right_key(self.sources.contents, masters)
        if found is None:
            raise AssertionError("a vault with a master key has one")
        return found


def new_key(key: UpstreamKey) -> NewKey:
    """For the vault: everything but id and secret is an attribute."""
    secret = key.secret.get_secret_value()
    about = key.model_dump(mode="json", exclude={"id", "secret", "secret_file"}, exclude_none=True)
    return NewKey(key.id, secret, fingerprint(secret), about)


def _counted(row: Mapping[str, Any]) -> list[str | int]:
    """For sorting by id: key-2 is before key-10."""
    parts = _NUMBER.split(row["id"])
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def next_step(row: Mapping[str, Any], asked: KeyCheck | None = None) -> str:
    """What to do about a key of `rows`, and about what upstream says of it now; "" where nothing is to be done."""
    if row["state"] != State.ACTIVE.value:
        return advice(row.get("reason", ""), state=row["state"], until=row.get("next_try") or 0.0)
    if asked is not None and not asked.ok:
        return advice(asked.reason, kind=asked.kind)
    return ""
