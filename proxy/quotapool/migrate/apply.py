"""Puts what another program had into the pool: keys as `keys import` does, then teams, then clients.

It can be interrupted at any moment and run again: what is here already is found by its secret and left alone. A
disabled key and a suspended client are marked as such before they are added, so none serves in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, TypeVar

from quotapool.keys.check import KeyChecker
from quotapool.migrate.found import FoundClient, FoundKey, FoundTeam, NotTaken, SourceError, shown
from quotapool.migrate.program import Program
from quotapool.operators.client_import import ClientImport, NewClient
from quotapool.operators.importer import Importer
from quotapool.operators.key_file import Line
from quotapool.operators.keys import InvalidKey, KeyEntry, KeyOperations
from quotapool.settings.values import parse_upstream
from quotapool.upstream.credentials import fingerprint

_AT_ONCE: Final = 500  # clients or teams in one batch
_MOST_NAMES: Final = 2_000_000  # of models, with all keys: each key has its list in the store
_MOST_MODELS: Final = 1_000  # of a client
_ASKED: Final = 3  # keys of an upstream that are asked for its models

T = TypeVar("T")
_Named = TypeVar("_Named", FoundTeam, FoundClient)


@dataclass
class Moved:
    """What a migration did, or would do. No secret is in it."""

    dry_run: bool
    keys: Counter[str] = field(default_factory=Counter)
    teams: Counter[str] = field(default_factory=Counter)
    clients: Counter[str] = field(default_factory=Counter)
    not_taken: list[NotTaken] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether no key, team or client is left behind; settings do not count."""
        return all(one.what == "setting" for one in self.not_taken)

    @property
    def changed(self) -> bool:
        """Whether the pool is another one now."""
        words = ("added", "updated", "replaced")
        return not self.dry_run and any(
            count[word] for count in (self.keys, self.teams, self.clients) for word in words
        )

    def as_json(self, clean: Callable[[str], str]) -> dict[str, Any]:
        """Complete. `clean` takes out what looks like a secret: people give things odd names."""
        return {
            "dry_run": self.dry_run,
            "keys": dict(sorted(self.keys.items())),
            "teams": dict(sorted(self.teams.items())),
            "clients": dict(sorted(self.clients.items())),
            "notes": [clean(note) for note in self.notes],
            "not_taken": [
                {"what": one.what, "from": clean(one.origin), "why": clean(one.why), "count": one.count}
                for one in self.not_taken
            ],
        }


class Migration:
    """One migration. `on_progress` hears how many of how many keys are done."""

    def __init__(
        self,
        keys: KeyOperations,
        program: Program,
        *,
        check: bool,
        dry_run: bool,
        actor: str = "",
        on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        self._operations = keys
        self._program = program
        self._check = check
        self._dry_run = dry_run
        self._actor = actor
        self._on_progress = on_progress
        self._base = keys.settings.upstream
        self._plain = True
        self._unlisted: set[tuple[str, str]] = set()  # upstreams that did not say which models they have
        self.moved = Moved(dry_run)

    async def run(self, *, at_once: int, per_second: float) -> Moved:
        """Raises SourceError, NoMasterKey, VaultLocked, StoreLost, StoreUnavailable. What was done stays done."""
        found = self._gathered()
        self._plain = self._is_plain(found)
        if not self._plain:
            found = await self._with_models(found, per_second)
        elif not all(key.is_open for key in found):
            self.moved.notes.append(
                "all keys are the pool's own upstream's: each serves every model that its account may use, and "
                "lists of models were not taken"
            )
        await self._import_keys(found, at_once, per_second)
        secrets = [key.secret for key in found]
        clients = ClientImport(
            self._operations.settings, self._operations.overview.ledger.store, secrets=secrets, dry_run=self._dry_run
        )
        await clients.begin()
        await self._import_teams(clients)
        await self._import_clients(clients, _Reach(found))
        return self.moved

    # ---- keys

    def _gathered(self) -> list[FoundKey]:
        """Each secret once, with the upstream's address as it is written here."""
        found: dict[str, FoundKey] = {}
        for one in self._program.read_keys():
            if isinstance(one, NotTaken):
                self.moved.not_taken.append(one)
                continue
            self._operations.redactor.add(one.secret)
            try:
                key = replace(one, url=parse_upstream(one.url) if one.url else self._base)
            except ValueError as error:
                self.moved.not_taken.append(NotTaken("key", one.origin, f"its URL {error}"))
                continue
            known = found.get(key.secret)
            found[key.secret] = key if known is None else self._of_both(known, key)
        return list(found.values())

    def _of_both(self, one: FoundKey, other: FoundKey) -> FoundKey:
        """A secret that is there twice. An enabled one counts, and of two such the first; models of one upstream are
        joined."""
        if one.disabled and not other.disabled:
            one, other = other, one
        if (one.url, one.header) != (other.url, other.header):
            why = f"the same secret belongs to another upstream in {one.origin}, and a key has one"
            self.moved.not_taken.append(NotTaken("key", other.origin, why))
            return one
        if other.disabled and not one.disabled:
            why = f"disabled there; the same secret is enabled in {one.origin}, with that one's models"
            self.moved.not_taken.append(NotTaken("setting", other.origin, why))
            return one
        groups = tuple(dict.fromkeys((*one.groups, *other.groups)))
        models = {**other.models, **one.models}
        return replace(one, models=models, groups=groups, is_open=one.is_open or other.is_open)

    def _is_plain(self, found: Iterable[FoundKey]) -> bool:
        """Whether all keys are the pool's own upstream's, and models have their own names: then upstream knows best who
        has which model. With several upstreams, each key names its models, or prompts would go to a stranger."""
        return all(
            key.url == self._base and key.header == "bearer" and all(a == b for a, b in key.models.items())
            for key in found
        )

    async def _with_models(self, found: list[FoundKey], per_second: float) -> list[FoundKey]:
        """With the models that upstream lists, for those that serve more than is written."""
        listed: dict[tuple[str, str], list[str] | None] = {}
        if self._check:
            settings, redactor = self._operations.settings, self._operations.redactor
            places = {(key.url, key.header) for key in found if key.is_open}
            checker = KeyChecker(settings, redactor, per_second=per_second, upstreams={url for url, _ in places})
            async with aclosing(checker):
                for place in sorted(places):
                    its = (key for key in found if (key.url, key.header) == place and not key.disabled)
                    listed[place] = await self._listed(checker, islice(its, _ASKED))
        whole: list[FoundKey] = []
        tables: dict[tuple[Any, ...], Mapping[str, str]] = {}
        lacking = Counter[str]()
        for key in found:
            place = key.url, key.header
            names = listed.get(place) if key.is_open else ()
            if names is None:
                lacking[key.origin] += 1
                self._unlisted.add(place)
            mark = (*place, key.is_open, *key.models.items())
            table = tables.setdefault(mark, {**{name: name for name in names or ()}, **key.models})
            if table:
                whole.append(replace(key, models=table, is_open=False))
            else:
                why = "its models are not known: its upstream was not asked, or lists none"
                self.moved.not_taken.append(NotTaken("key", key.origin, why))
        for origin, count in lacking.items():
            why = "models that are not written there: its upstream was not asked for its list, or has none"
            self.moved.not_taken.append(NotTaken("setting", origin, why, count))
        if sum(len(key.models) for key in whole) > _MOST_NAMES:
            raise SourceError(
                f"{len(whole)} keys of several upstreams have more than {_MOST_NAMES} names of models in all; take "
                "over some groups at a time, with --group"
            )
        self.moved.notes.append(
            "keys have several upstreams or renamed models: each names its models, which are served by no other key "
            "unless that names them too (run this again after a model was added)"
        )
        return whole

    async def _listed(self, checker: KeyChecker, keys: Iterable[FoundKey]) -> list[str] | None:
        for key in keys:
            try:
                checked = self._operations.validated(KeyEntry(key.secret, upstream=_upstream_of(key, {})))
            except InvalidKey:
                continue
            if (names := await checker.models(checked)) is not None:
                return names
        return None

    async def _import_keys(self, found: list[FoundKey], at_once: int, per_second: float) -> None:
        done = 0

        def on_progress() -> None:
            nonlocal done
            done += 1
            self._on_progress(done, len(found))

        importer = Importer(
            self._operations,
            check=self._check,
            dry_run=self._dry_run,
            replace=False,
            on_progress=on_progress,
            upstreams={key.url for key in found},
            actor=self._actor,
        )
        try:
            await importer.run(self._lines(found), at_once=at_once, per_second=per_second)
        finally:
            self.moved.keys = Counter({_word(word): count for word, count in importer.report.counts.items()})
        for bad in sorted(importer.report.bad, key=lambda outcome: outcome.line):
            self.moved.not_taken.append(NotTaken("key", found[bad.line - 1].origin, f"{_word(bad.result)}: {bad.why}"))

    def _lines(self, found: Sequence[FoundKey]) -> Iterator[Line]:
        """A key that is here already stays as an operator may have changed it; only its models are brought up
        to date."""
        stored = {record.fingerprint: name for name, record in self._operations.sources.contents.records.items()}
        kept = 0
        for number, key in enumerate(found, start=1):
            upstream = None if self._plain else _upstream_of(key, key.models)
            name = stored.get(fingerprint(key.secret))
            if name is None:
                entry = KeyEntry(key.secret, account_settings=key.account, upstream=upstream, disabled=key.disabled)
            else:
                own = self._operations.stored_attributes(name)
                there = own.get("upstream")
                kept += there is None and upstream is not None
                known = upstream is not None and (key.url, key.header) not in self._unlisted
                if not known or there is None or there.get("url") != key.url:
                    upstream = there
                entry = KeyEntry(key.secret, name, own.get("account"), upstream=upstream)
            yield Line(number, entry)
        if kept:
            self.moved.notes.append(
                f"keys that were here before and name no models, so that they are asked for any: {kept}; to change "
                "that, `quotapool keys remove KEY --forget` and run this again"
            )

    # ---- teams and clients

    async def _import_teams(self, clients: ClientImport) -> None:
        for teams in _batches(self._told(self._program.read_teams())):
            for team, result in zip(teams, await clients.add_teams([(t.id, t.options) for t in teams]), strict=True):
                self.moved.teams[result.what] += 1
                if result.what == "refused":
                    self.moved.not_taken.append(NotTaken("team", team.origin, result.why))

    async def _import_clients(self, clients: ClientImport, reach: _Reach) -> None:
        for some in _batches(self._told(self._program.read_clients())):
            new: list[tuple[FoundClient, NewClient]] = []
            for one in some:
                options = reach.limited(one)
                if isinstance(options, str):
                    self.moved.not_taken.append(NotTaken("client", one.origin, options))
                else:
                    new.append((one, NewClient(one.id, one.key_hash, options, one.suspended)))
            results = await clients.add([client for _, client in new])
            for (one, _), result in zip(new, results, strict=True):
                self.moved.clients[result.what] += 1
                if result.what == "refused":
                    self.moved.not_taken.append(NotTaken("client", one.origin, result.why))

    def _told(self, found: Iterator[_Named | NotTaken]) -> Iterator[_Named]:
        for one in found:
            if isinstance(one, NotTaken):
                self.moved.not_taken.append(one)
            else:
                yield one


class _Reach:
    """Which models the keys of each group have: a client that could use some groups only is limited to their models."""

    def __init__(self, found: Iterable[FoundKey]) -> None:
        self._models: dict[str, set[str] | None] = {}  # None: any
        for key in found:
            for group in key.groups:
                known = self._models.setdefault(group, set())
                if key.is_open:
                    self._models[group] = None
                elif known is not None:
                    known.update(key.models)
        sets = list(self._models.values())
        self._all: set[str] | None = None if None in sets else {name for one in sets for name in one or ()}

    def limited(self, client: FoundClient) -> Mapping[str, Any] | str:
        """Its options, or why it cannot be taken."""
        if client.groups is None or not self._models:
            return client.options
        its = [self._models[group] for group in client.groups if group in self._models]
        if not its:
            return f"its group {shown(', '.join(client.groups))} has no key here"
        names = {name for one in its for name in one or ()}
        if None in its or names == self._all:
            return client.options
        if (own := client.options.get("models")) is not None and not (names := names.intersection(own)):
            return "its group has no key here with any model that it may use"
        if len(names) > _MOST_MODELS:
            return f"its group has {len(names)} models, and a client may be limited to {_MOST_MODELS}"
        return {**client.options, "models": sorted(names)}


def _word(result: str) -> str:
    """The importer's word, which speaks of lines of a file."""
    return "invalid" if result == "bad line" else result


def _upstream_of(key: FoundKey, models: Mapping[str, str]) -> dict[str, Any]:
    return {"url": key.url, "header": key.header, "models": dict(models)}


def _batches(found: Iterator[T]) -> Iterator[list[T]]:
    while some := list(islice(found, _AT_ONCE)):
        yield some
