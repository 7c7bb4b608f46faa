"""Puts many keys into the vault: checked in parallel, stored in batches; when repeated, nothing is done twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from quotapool.domain.verdict import Kind
from quotapool.keys.check import NO_ANSWER, KeyCheck, KeyChecker, check_all
from quotapool.keys.seal import MasterKey
from quotapool.openai.advice import advice
from quotapool.operators.big_answers import in_turns
from quotapool.operators.key_file import Line
from quotapool.operators.keys import InvalidKey, KeyConflict, KeyOperations, vault_key
from quotapool.settings import UpstreamKey
from quotapool.upstream.credentials import fingerprint

_BATCH: Final = 2_000  # each batch is a reload for the replicas
_LINES_AT_ONCE: Final = 50  # in one turn of the loop, some milliseconds

# What became of a line. The first five leave the key in the pool.
DONE: Final = ("added", "updated", "replaced", "unchanged", "configured")
LEFT_OUT: Final = ("bad line", "duplicate", "clash", "refused", "doubtful", "no answer")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one line. `why` is for people and contains no secret."""

    line: int
    result: str
    id: str = ""
    why: str = ""


@dataclass
class Report:
    """`bad` has the lines whose key is not in the pool now."""

    counts: Counter[str] = field(default_factory=Counter)
    bad: list[Outcome] = field(default_factory=list)
    dry_run: bool = False

    @property
    def lines(self) -> int:
        return self.counts.total()

    @property
    def changed(self) -> bool:
        """Whether the vault is another one now."""
        return any(self.counts[result] for result in ("added", "updated", "replaced"))

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.result] += 1
        if outcome.result in LEFT_OUT:
            self.bad.append(outcome)

    def as_json(self) -> dict[str, Any]:
        bad = [
            {"line": o.line, "result": o.result, "id": o.id, "why": o.why}
            for o in sorted(self.bad, key=lambda outcome: outcome.line)
        ]
        return {"lines": self.lines, "dry_run": self.dry_run, "counts": dict(self.counts), "not_imported": bad}


@dataclass(frozen=True, slots=True)
class _Candidate:
    line: int
    key: UpstreamKey
    settings: dict[str, Any]
    disabled: bool


class Importer:
    """One import. `on_progress` is called once for each line."""

    def __init__(
        self,
        keys: KeyOperations,
        *,
        check: bool,
        dry_run: bool,
        replace: bool,
        on_progress: Callable[[], None],
        upstreams: Iterable[str] = (),
        actor: str = "",
    ) -> None:
        """`upstreams`: those that keys of this import have for themselves. `actor`: the name of whoever imports."""
        self._keys = keys
        self._upstreams = tuple(upstreams)
        self._check = check
        self._dry_run = dry_run
        self._replace = replace
        self._actor = actor
        self._on_progress = on_progress
        self.report = Report(dry_run=dry_run)
        self._seen: dict[str, int] = {}  # fingerprint -> line
        self._ids: dict[str, int] = {}
        self._by_fingerprint = {record.fingerprint: name for name, record in keys.sources.contents.records.items()}

    async def run(self, lines: Iterable[Line], *, at_once: int, per_second: float) -> Report:
        """At most `at_once` checks at the same time, `per_second` of them a second. Raises NoMasterKey, VaultLocked,
        StoreLost, BadFile."""
        master = None if self._dry_run else self._keys.master_key()
        batch: list[_Candidate] = []
        checker = KeyChecker(self._keys.settings, self._keys.redactor, per_second=per_second, upstreams=self._upstreams)
        try:
            async for one in self._accepted(checker, self._candidates(lines), at_once):
                self._on_progress()
                batch.append(one)
                if len(batch) >= _BATCH:
                    await self._store(batch, master)
        finally:
            await checker.aclose()
            if batch:  # an interrupted import keeps what it has found out
                await self._store(batch, master)
        return self.report

    def _finish(self, outcome: Outcome) -> None:
        self.report.add(outcome)
        self._on_progress()

    async def _accepted(
        self, checker: KeyChecker, candidates: AsyncIterator[_Candidate], at_once: int
    ) -> AsyncIterator[_Candidate]:
        """Those that upstream accepts, or all if none are to be checked; the outcome of the others is reported."""
        if not self._check:
            async for one in candidates:
                yield one
            return
        async for one, check in check_all(checker, candidates, lambda one: one.key, at_once=at_once):
            if (outcome := _refusal(one, check)) is None:
                yield one
            else:
                self._finish(outcome)

    async def _candidates(self, lines: Iterable[Line]) -> AsyncIterator[_Candidate]:
        """The lines that are left to check and store; the outcome of the others is reported."""
        async for line in in_turns(lines, _LINES_AT_ONCE):
            found = self._candidate(line)
            if isinstance(found, _Candidate):
                yield found
            else:
                self._finish(found)

    def _candidate(self, line: Line) -> _Candidate | Outcome:
        keys, entry = self._keys, line.entry
        if entry is None:
            return Outcome(line.number, "bad line", why=line.problem)
        try:
            key = keys.validated(entry)
        except InvalidKey as error:
            return Outcome(line.number, "bad line", why=str(error))
        keys.redactor.add(key.secret.get_secret_value())
        secret_print = fingerprint(key.secret.get_secret_value())
        if (first := self._seen.setdefault(secret_print, line.number)) != line.number:
            return Outcome(line.number, "duplicate", key.id, f"the same secret as line {first}")
        key = keys.with_own_id(key, entry, self._ids.__contains__)
        if (first := self._ids.setdefault(key.id, line.number)) != line.number:
            return Outcome(line.number, "duplicate", key.id, f"the same id as line {first}")
        try:
            if keys.duplicate_of(key) is not None:
                return Outcome(line.number, "configured", key.id)
        except KeyConflict as error:
            return Outcome(line.number, "clash", key.id, str(error))
        owner = self._by_fingerprint.get(secret_print)
        if owner is not None and owner != key.id:
            return Outcome(line.number, "clash", key.id, f"that secret is in the pool already, as {owner}")
        if owner is not None and self._is_same(key, dict(entry.account_settings)):
            return Outcome(line.number, "unchanged", key.id)
        return _Candidate(line.number, key, dict(entry.account_settings), entry.disabled)

    def _is_same(self, key: UpstreamKey, settings: dict[str, Any]) -> bool:
        """Whether the vault has exactly this, so that neither upstream nor the store needs to be asked again."""
        contents = self._keys.sources.contents
        stored = contents.accounts.get(key.account, {})
        same_settings = all(_includes(stored.get(name), value) for name, value in settings.items())
        return same_settings and self._keys.stored_attributes(key.id) == vault_key(key).attributes

    async def _store(self, batch: list[_Candidate], master: MasterKey | None) -> None:
        candidates, batch[:] = list(batch), []
        if master is None:
            for one in candidates:
                self.report.add(Outcome(one.line, "added", one.key.id))
            return
        given: dict[str, dict[str, Any]] = {}
        async for one in in_turns(candidates):
            _merge(given.setdefault(one.key.account, {}), one.settings)
        stored = self._keys.sources.contents.accounts
        for name, settings in given.items():
            if grants := settings.get("grants"):
                settings["grants"] = _union(stored.get(name, {}).get("grants", []), grants)
        accounts = self._keys.account_settings(given)
        if disabled := [one.key for one in candidates if one.disabled]:
            await self._keys.disable_beforehand(disabled, self._actor)
        results = await self._keys.sources.vault.put(
            [vault_key(one.key) async for one in in_turns(candidates)], master, accounts=accounts, replace=self._replace
        )
        async for one, result in in_turns(zip(candidates, results, strict=True)):
            self.report.add(_outcome(one, result))
        await self._keys.sources.read()


def _outcome(one: _Candidate, result: str) -> Outcome:
    """Of Vault.put's result."""
    if result == "taken":
        why = "the store has another secret under this id; --replace takes the new one"
        return Outcome(one.line, "clash", one.key.id, why)
    if result.startswith("duplicate:"):
        owner = result.removeprefix("duplicate:")
        return Outcome(one.line, "clash", one.key.id, f"that secret is in the pool already, as {owner}")
    return Outcome(one.line, result, one.key.id)


def _refusal(one: _Candidate, check: KeyCheck) -> Outcome | None:
    if check.ok:
        return None
    next_ = advice(check.reason, kind=check.kind)
    why = "; ".join(filter(None, (check.answer, check.detail, next_)))
    result = "refused" if check.kind == Kind.DEAD else "doubtful" if check.kind else NO_ANSWER
    return Outcome(one.line, result, one.key.id, why)


def _merge(settings: dict[str, Any], more: dict[str, Any]) -> None:
    """Several keys of one account: the last tier and weight count, grants are added up."""
    grants = _union(settings.get("grants", []), more.get("grants", []))
    settings.update(more)
    if grants:
        settings["grants"] = grants


def _union(first: list[Any], second: list[Any]) -> list[Any]:
    return [*first, *(grant for grant in second if grant not in first)]


def _includes(stored: Any, value: Any) -> bool:
    if isinstance(value, list):
        return isinstance(stored, list) and all(item in stored for item in value)
    return bool(stored == value)
