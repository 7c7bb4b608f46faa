"""Everything that operators can do to the pool's keys; the command line and the admin API both call it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol

import msgspec
from pydantic import ValidationError

from quotapool.domain.pool import Key
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.verdict import Kind, Verdict
from quotapool.keys.check import KeyCheck, KeyChecker
from quotapool.keys.master_keys import first_master_key, master_keys
from quotapool.keys.seal import MasterKey
from quotapool.keys.sources import KeySources, account_of
from quotapool.keys.vault import NewKey
from quotapool.observe.redaction import Redactor
from quotapool.openai.advice import advice
from quotapool.operators.big_answers import in_turns, ordered
from quotapool.operators.overview import Overview
from quotapool.probes.prober import NotProbed
from quotapool.settings import Settings, UpstreamKey, default_key_id
from quotapool.settings.draft import Draft
from quotapool.settings.secret_kinds import is_openai, not_of_openai
from quotapool.upstream.credentials import fingerprint

KEY_ACTIONS: Final = {
    "enable": None,  # active again, whatever was observed or done before
    "disable": State.DISABLED,
    "drain": State.DRAINING,
    "remove": State.REMOVED,
}
_NUMBER: Final = re.compile(r"([0-9]{1,18})")
_ACTIONS_AT_ONCE: Final = 200  # keys in one turn of the loop and of the store
COOLING: Final = "cooling"  # how an active key is shown while its account has to wait for every model
LOCKED: Final = "locked"  # state of a stored key that cannot be opened


class ProbeNow(Protocol):
    """`Prober.probe_now`."""

    def __call__(self, key_id: str, *, refresh: bool = True, actor: str = "") -> Awaitable[Verdict]: ...


class UnknownKey(Exception):
    """No such key; its text is the id that was given."""


class InvalidKey(Exception):
    """What was given cannot be used; the text never contains a secret."""


class KeyConflict(Exception):
    """It contradicts what is there already."""


class KeyRejected(Exception):
    """Upstream does not accept the secret, or did not answer; the text is its answer."""

    def __init__(self, check: KeyCheck) -> None:
        super().__init__(f"upstream answers {check.answer}" + (f" ({check.detail})" if check.detail else ""))


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key as an operator gave it. `account_settings`: tier, weight, grants of its account. `upstream`: its own,
    instead of the pool's, as in the configuration. `disabled`: it comes into the pool disabled."""

    secret: str = field(repr=False)
    id: str | None = None
    account: str | None = None
    account_settings: Mapping[str, Any] = field(default_factory=dict)
    upstream: Mapping[str, Any] | None = None
    disabled: bool = False


class _Packed(msgspec.Struct, gc=False):
    id: str
    row: msgspec.Raw


class KeyOperations:
    """`overview` has the merged settings; `sources` knows where each key is kept."""

    def __init__(self, overview: Overview, sources: KeySources, redactor: Redactor) -> None:
        self.overview = overview
        self.sources = sources
        self.redactor = redactor
        self._indexed: Settings | None = None  # the configuration of the two below
        self._secrets: dict[str, str] = {}
        self._ids: dict[str, str] = {}

    @property
    def settings(self) -> Settings:
        return self.overview.settings

    # ---- reading

    async def rows(self) -> list[dict[str, Any]]:
        """Each key: state, reason, what is left, what to do, where it is kept. Raises StoreUnavailable."""
        return [row async for row in self.each_row()]

    async def each_row(self) -> AsyncIterator[dict[str, Any]]:
        """The same, one after the other."""
        async for row in in_turns(await self.packed_rows()):
            yield msgspec.json.decode(row)

    async def packed_rows(self, *, state: str | None = None, only: str | None = None) -> list[msgspec.Raw]:
        """The same as JSON, of the keys in `state`, of the key `only`: as hundreds of thousands of small objects they
        would keep the garbage collector busy for 50 ms."""
        # Configured ones as they were written; stored ones by number, as the store keeps them in no order.
        configured: list[msgspec.Raw] = []
        stored: list[_Packed] = []
        async for row in self.overview.rows():
            if state in {None, row["state"]} and only in {None, row["id"]}:
                source = self.source_of(row["id"])
                packed = msgspec.Raw(msgspec.json.encode({**row, "source": source, "next": next_step(row)}))
                if source == "store":
                    stored.append(_Packed(row["id"], packed))
                else:
                    configured.append(packed)
        for name, account in self.sources.missing.items() if state in {None, LOCKED} else ():
            if only not in {None, name}:
                continue
            row = {"id": name, "account": account, "organization": None, "state": LOCKED, "reason": "master_key"}
            row |= {
                "cooling_s": 0.0,
                "credit": {},
                "outside_use": [],
                "budgets": [],
                "source": "store",
                "next": advice("master_key"),
            }
            stored.append(_Packed(name, msgspec.Raw(msgspec.json.encode(row))))
        in_order = await ordered(stored, lambda one: natural_order(one.id))
        return configured + [one.row for one in in_order]

    def source_of(self, name: str) -> Literal["configuration", "store"]:
        """Where a key of the pool is kept."""
        stored = name in self.sources.contents.records and name not in self._configured_secrets()
        return "store" if stored else "configuration"

    async def row(self, name: str) -> dict[str, Any]:
        """One key. Raises UnknownKey, StoreUnavailable."""
        for row in await self.packed_rows(only=name):
            found: dict[str, Any] = msgspec.json.decode(row)
            return found
        raise UnknownKey(name)

    def stored_attributes(self, name: str) -> dict[str, Any]:
        """The attributes of a stored key; {} if there is none."""
        record = self.sources.contents.records.get(name)
        return dict(msgspec.json.decode(record.attributes)) if record is not None else {}

    # ---- changing

    async def act(self, action: str, name: str, actor: str = "") -> State:
        """Carry out one of KEY_ACTIONS, as `actor` says (an operator's name); the key's state afterwards. `enable` also
        lifts what holds for its account and organisation. Raises UnknownKey, StoreUnavailable."""
        states = await self.act_on_all(action, [name], actor=actor)
        if name not in states:
            raise UnknownKey(name)
        return states[name]

    async def act_on_all(
        self, action: str, names: Sequence[str], on_progress: Callable[[int], None] = lambda _: None, *, actor: str = ""
    ) -> dict[str, State]:
        """The same for many, in a few calls of the store: their states afterwards; those that are not in the pool are
        left out. `on_progress` hears how many more are done; what was done stays done if it is cancelled. Raises
        StoreUnavailable."""
        pool, registry = self.overview.roster.pool, self.overview.ledger.registry
        lifted: set[Subject] = set()
        try:
            for start in range(0, len(names), _ACTIONS_AT_ONCE):
                some = [key for name in names[start : start + _ACTIONS_AT_ONCE] if (key := pool.keys.get(name))]
                changes = [change for key in some for change in self._changes(action, key, lifted)]
                await registry.set_states(changes, self.redactor.clean(actor))
                on_progress(len(some))
                await asyncio.sleep(0)
        finally:
            await self.overview.sync.refresh()
        return {key.id: pool.state_of(key) for name in names if (key := pool.keys.get(name))}

    def _changes(self, action: str, key: Key, lifted: set[Subject]) -> Iterator[tuple[Subject, Record | None, str]]:
        """What to write for one of KEY_ACTIONS. `lifted`: accounts and organisations that need not be lifted again."""
        state = KEY_ACTIONS[action]
        if state is not None:
            yield _operators_state(key.id, key.fingerprint, state)
            return
        account = self.overview.roster.pool.accounts[key.account]
        above = [(Subject.of_account(account.id), account.fingerprint)]
        if account.organization:
            above.insert(0, (Subject.of_organization(account.organization), ""))
        for subject, its_print in above:
            if subject not in lifted:
                lifted.add(subject)
                yield subject, None, its_print
        yield Subject.of_key(key.id), None, key.fingerprint

    async def forget(self, name: str, actor: str = "") -> None:
        """Delete a stored key with its secret and state. Raises UnknownKey, KeyConflict (configured), StoreLost."""
        await self.forget_stored(name, actor=actor)
        await self.sources.read()

    async def forget_stored(self, *names: str, actor: str = "") -> None:
        """The same for some, in the store alone: what this process knows of the vault has to be read again afterwards.
        Raises UnknownKey, KeyConflict for the first that is none of the store, and then forgets none."""
        changes = [self._forgotten(name) for name in names]
        await self.overview.ledger.registry.set_states(changes, self.redactor.clean(actor))
        await self.sources.vault.forget(*names)

    def _forgotten(self, name: str) -> tuple[Subject, None, str]:
        """The change of state with which it goes. Raises UnknownKey, KeyConflict."""
        record = self.sources.contents.records.get(name)
        if name in self._configured_secrets():
            raise KeyConflict(f"the key {name} is in the configuration; remove it there")
        if record is None:
            raise UnknownKey(name)
        return Subject.of_key(name), None, record.fingerprint

    def can_be_forgotten(self, name: str) -> None:
        """Raises UnknownKey, KeyConflict."""
        self._forgotten(name)

    async def probe(self, name: str, probe_now: ProbeNow, actor: str = "", *, refresh: bool = True) -> KeyCheck:
        """Ask upstream about one key now, and act on the answer, as `actor` says (an operator's name). `refresh`: see
        `Prober.probe_now`. Raises UnknownKey, KeyConflict (it was removed)."""
        if name not in self.overview.roster.pool.keys:
            raise UnknownKey(name)
        try:
            verdict = await probe_now(name, refresh=refresh, actor=self.redactor.clean(actor))
        except NotProbed as why:
            raise KeyConflict(str(why)) from why
        return replace(KeyCheck.of(verdict), ok=verdict.kind is Kind.OK)

    # ---- adding

    async def disable_beforehand(self, keys: Sequence[UpstreamKey], actor: str = "") -> None:
        """Disable keys that are about to be added, so that none of them serves in between. Those that are in the vault
        already keep the state that they have. Raises StoreUnavailable."""
        new = [key for key in keys if key.id not in self.sources.contents.records]
        changes = [_operators_state(key.id, fingerprint(key.secret.get_secret_value()), State.DISABLED) for key in new]
        await self.overview.ledger.registry.set_states(changes, self.redactor.clean(actor))

    async def add(self, entry: KeyEntry, *, check: bool = True, replace: bool = False) -> tuple[str, str]:
        """Put a key into the vault: (its id, one of Vault.put's results). Raises InvalidKey, KeyConflict, KeyRejected,
        NoMasterKey, VaultLocked, StoreLost."""
        self.redactor.add(entry.secret)
        key = self.with_own_id(self.validated(entry), entry, lambda _: False)
        master = self.master_key()
        duplicate = self.duplicate_of(key)
        if duplicate is not None:
            raise KeyConflict(f"that secret is in the pool already, as {duplicate}")
        if check:
            async with aclosing(KeyChecker(self.settings, self.redactor)) as checker:
                found = await checker.check(key)
            if not found.ok:
                raise KeyRejected(found)
        (result,) = await self.sources.vault.put(
            [vault_key(key)],
            master,
            accounts=self.account_settings({key.account: entry.account_settings}),
            replace=replace,
        )
        if result == "taken":
            raise KeyConflict(f"there is a key {key.id} with another secret; use replace to change its secret")
        if result.startswith("duplicate:"):
            raise KeyConflict(f"that secret is in the pool already, as {result.removeprefix('duplicate:')}")
        await self.sources.read()
        return key.id, result

    def validated(self, entry: KeyEntry) -> UpstreamKey:
        """The key as a configured one would be. Raises InvalidKey."""
        given = {"secret": entry.secret, "id": entry.id, "account": entry.account, "upstream": entry.upstream}
        draft = Draft()
        try:
            key = UpstreamKey.model_validate({name: value for name, value in given.items() if value})
            upstream = key.upstream.url if key.upstream else self.settings.upstream
            if is_openai(upstream) and (why := not_of_openai(key.secret.get_secret_value())):
                raise InvalidKey(f"secret: {why}")
            account = account_of(entry.account_settings)
        except ValidationError as error:
            draft.refuse_invalid(error, UpstreamKey)
            raise InvalidKey("; ".join(str(problem) for problem in draft.problems)) from None
        if account.tier is not None and account.tier not in self.sources.configured.tiers:
            raise InvalidKey("tier: there is no such tier under tiers: in the configuration")
        return key

    def with_own_id(self, key: UpstreamKey, entry: KeyEntry, is_taken: Callable[[str], bool]) -> UpstreamKey:
        """`key` as `validated` made it of `entry`, or with a longer default id if another secret has that: one in the
        pool, or one for which `is_taken` is true."""
        secret = key.secret.get_secret_value()
        secret_print, configured = fingerprint(secret), self._configured_secrets()

        def has_another_secret(name: str) -> bool:
            record = self.sources.contents.records.get(name)
            in_store = record is not None and record.fingerprint != secret_print
            return in_store or configured.get(name, secret) != secret or is_taken(name)

        own = key.id if entry.id else default_key_id(secret, has_another_secret)
        return key if own == key.id else self.validated(replace(entry, id=own))

    def _configured_secrets(self) -> Mapping[str, str]:
        """By id. Made once for each configuration: an import asks for each of its lines."""
        configured = self.sources.configured
        if self._indexed is not configured:
            self._indexed = configured
            self._secrets = {key.id: key.secret.get_secret_value() for key in configured.keys}
            self._ids = {secret: name for name, secret in self._secrets.items()}
        return self._secrets

    def duplicate_of(self, key: UpstreamKey) -> str | None:
        """The id of a configured key with the same secret. Raises KeyConflict if another secret has its id."""
        taken = key.id in self._configured_secrets()
        same = self._ids.get(key.secret.get_secret_value())
        if taken and same is None:
            raise KeyConflict(f"the id {key.id} is used in the configuration")
        return same

    def account_settings(self, given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """What is to be stored for these accounts: the given settings over those that are stored."""
        stored = self.sources.contents.accounts
        return {name: {**stored.get(name, {}), **settings} for name, settings in given.items() if settings}

    def master_key(self) -> MasterKey:
        """The master key to seal with. Raises NoMasterKey, VaultLocked."""
        if not self.sources.contents.master:
            return first_master_key(self.sources.configured, self.redactor.add)
        masters = master_keys(self.sources.configured, self.redactor.add)
        found = self.sources.vault.current_master(self.sources.contents, masters)
        if found is None:
            raise AssertionError("a vault with a master key has one")
        return found


def _operators_state(key_id: str, its_print: str, state: State) -> tuple[Subject, Record, str]:
    """The change of state that an operator makes."""
    return Subject.of_key(key_id), Record(state, "operator", 0.0, by=OPERATOR, fingerprint=its_print), its_print


def vault_key(key: UpstreamKey) -> NewKey:
    """A key for the vault: everything except id and secret is an attribute."""
    secret = key.secret.get_secret_value()
    attributes = key.model_dump(mode="json", exclude={"id", "secret", "secret_file"}, exclude_none=True)
    return NewKey(key.id, secret, fingerprint(secret), attributes)


def natural_order(name: str) -> list[str | int]:
    """For sorting by id: key-2 is before key-10."""
    parts = _NUMBER.split(name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def next_step(row: Mapping[str, Any], check: KeyCheck | None = None) -> str:
    """What to do about a key of `rows`, and about upstream's answer of this moment; "" if nothing."""
    if row["state"] != State.ACTIVE.value:
        return advice(row.get("reason", ""), state=row["state"], until=row.get("next_try") or 0.0)
    if check is not None and not check.ok:
        return advice(check.reason, kind=check.kind)
    return ""
