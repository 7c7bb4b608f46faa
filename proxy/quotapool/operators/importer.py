"""Many keys at once into the vault: checked in parallel, stored in batches; repeated, it finds its work done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from quotapool.domain.verdict import Kind
from quotapool.keys.check import AT_ONCE, NO_ANSWER, PER_SECOND, KeyCheck, KeyChecker, ask_all
from quotapool.keys.seal import MasterKey
from quotapool.openai.advice import advice
from quotapool.operators.key_file import Line
from quotapool.operators.keys import Clash, KeyOperations, Unfit, new_key
from quotapool.settings import UpstreamKey
from quotapool.upstream.credentials import fingerprint

_BATCH: Final = 2_000  # each batch is a reload for the replicas

# What became of a line. The first five leave the key in the pool.
DONE: Final = ("added", "updated", "replaced", "unchanged", "configured")
LEFT_OUT: Final = ("bad line", "duplicate", "clash", "refused", "doubtful", "no answer")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one line. `why` is for people and holds no secret."""

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

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.result] += 1
        if outcome.result in LEFT_OUT:
            self.bad.append(outcome)

    def as_json(self) -> dict[str, Any]:
        bad = [{"line": o.line, "result": o.result, "id": o.id, "why": o.why} for o in sorted(self.bad, key=_by_line)]
        return {"lines": self.lines, "dry_run": self.dry_run, "counts": dict(self.counts), "not_imported": bad}


@dataclass(frozen=True, slots=True)
class _Wanted:
    line: int
    key: UpstreamKey
    settings: dict[str, Any]


class Importer:
    """One import. `told` hears of each line's outcome, for a progress bar."""

    def __init__(
        self, desk: KeyOperations, *, check: bool = True, dry_run: bool = False, replace: bool = False
    ) -> None:
        self._desk = desk
        self._check = check
        self._dry_run = dry_run
        self._replace = replace
        self._report = Report(dry_run=dry_run)
        self._seen: dict[str, int] = {}  # fingerprint -> line
        self._ids: dict[str, int] = {}
        self._by_print = {record.print: name for name, record in desk.sources.contents.records.items()}

    async def run(
        self,
        lines: Iterable[Line],
        *,
        at_once: int = AT_ONCE,
        per_second: float = PER_SECOND,
        told: Callable[[], None] = lambda: None,
    ) -> Report:
        """Raises NoMasterKey, VaultLocked, StoreLost, BadFile."""
        master = None if self._dry_run else self._desk.master()
        batch: list[_Wanted] = []
        asker = KeyChecker(self._desk.settings, self._desk.redactor, per_second=per_second)
        try:
            wanted = self._sifted(lines, told)
            if self._check:
                async for one, asked in ask_all(asker, wanted, lambda one: one.key, at_once=at_once):
                    told()
                    if (outcome := _refusal(one, asked)) is not None:
                        self._report.add(outcome)
                        continue
                    batch.append(one)
                    if len(batch) >= _BATCH:
                        await self._store(batch, master)
            else:
                for one in wanted:
                    told()
                    batch.append(one)
                    if len(batch) >= _BATCH:
                        await self._store(batch, master)
        finally:
            await asker.close()
            if batch:  # an interrupted import keeps what it has found out
                await self._store(batch, master)
        return self._report

    def _sifted(self, lines: Iterable[Line], told: Callable[[], None]) -> Iterator[_Wanted]:
        """The lines that upstream is to be asked about; the others' outcome is reported."""
        for line in lines:
            found = self._sift(line)
            if isinstance(found, _Wanted):
                yield found
            else:
                self._report.add(found)
                told()

    def _sift(self, line: Line) -> _Wanted | Outcome:
        desk, entry = self._desk, line.entry
        if entry is None:
            return Outcome(line.number, "bad line", why=line.problem)
        try:
            key = desk.checked(entry)
        except Unfit as error:
            return Outcome(line.number, "bad line", why=str(error))
        desk.redactor.add(key.secret.get_secret_value())
        print_ = fingerprint(key.secret.get_secret_value())
        if (first := self._seen.setdefault(print_, line.number)) != line.number:
            return Outcome(line.number, "duplicate", key.id, f"the same secret as line {first}")
        if (first := self._ids.setdefault(key.id, line.number)) != line.number:
            return Outcome(line.number, "duplicate", key.id, f"the same id as line {first}")
        try:
            if desk.twin_of(key) is not None:
                return Outcome(line.number, "configured", key.id)
        except Clash as error:
            return Outcome(line.number, "clash", key.id, str(error))
        owner = self._by_print.get(print_)
        if owner is not None and owner != key.id:
            return Outcome(line.number, "clash", key.id, f"that secret is in the pool already, as {owner}")
        if owner is not None and self._is_same(key, dict(entry.account_settings)):
            return Outcome(line.number, "unchanged", key.id)
        return _Wanted(line.number, key, dict(entry.account_settings))

    def _is_same(self, key: UpstreamKey, settings: dict[str, Any]) -> bool:
        """Whether the vault has just this, so that neither upstream nor the store need be asked again."""
        contents = self._desk.sources.contents
        stored = contents.accounts.get(key.account, {})
        same_settings = all(_includes(stored.get(name), value) for name, value in settings.items())
        return same_settings and self._desk.stored_about(key.id) == new_key(key).about

    async def _store(self, batch: list[_Wanted], master: MasterKey | None) -> None:
        wanted, batch[:] = list(batch), []
        if master is None:
            for one in wanted:
                self._report.add(Outcome(one.line, "added", one.key.id))
            return
        given: dict[str, dict[str, Any]] = {}
        for one in wanted:
            _merge(given.setdefault(one.key.account, {}), one.settings)
        stored = self._desk.sources.contents.accounts
        for name, settings in given.items():
            if grants := settings.get("grants"):
                settings["grants"] = _union(stored.get(name, {}).get("grants", []), grants)
        accounts = self._desk.account_settings(given)
        words = await self._desk.sources.vault.put(
            [new_key(one.key) for one in wanted], master, accounts=accounts, replace=self._replace
        )
        for one, word in zip(wanted, words, strict=True):
            self._report.add(_stored(one, word))
        self._desk.sources.contents = await self._desk.sources.vault.read()


def _stored(one: _Wanted, word: str) -> Outcome:
    if word == "taken":
        why = "the store has another secret under this id; --replace takes the new one"
        return Outcome(one.line, "clash", one.key.id, why)
    if word.startswith("twin:"):
        return Outcome(one.line, "clash", one.key.id, f"that secret is in the pool already, as {word[5:]}")
    return Outcome(one.line, word, one.key.id)


def _refusal(one: _Wanted, asked: KeyCheck) -> Outcome | None:
    if asked.ok:
        return None
    next_ = advice(asked.reason, kind=asked.kind)
    why = "; ".join(filter(None, (asked.word, asked.detail, next_)))
    result = "refused" if asked.kind == Kind.DEAD else "doubtful" if asked.kind else NO_ANSWER
    return Outcome(one.line, result, one.key.id, why)


def _merge(settings: dict[str, Any], more: dict[str, Any]) -> None:
    """Several keys of one account: the last tier and weight count, grants add up."""
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


def _by_line(outcome: Outcome) -> int:
    return outcome.line
