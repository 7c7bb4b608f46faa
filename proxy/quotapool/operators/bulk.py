"""The same for many keys: the admin API's jobs and the command line both call it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from quotapool.operators.big_answers import in_turns
from quotapool.operators.keys import KEY_ACTIONS, LOCKED, KeyConflict, KeyOperations, ProbeNow, UnknownKey
from quotapool.shapes.work import KeyVerb, Unfinished
from quotapool.store.store import StoreError

_PROBES_AT_ONCE: Final = 8
_FORGOTTEN_AT_ONCE: Final = 200  # each is a change for which all replicas read the vault again
_MOST_NOT_DONE: Final = 1_000
_IDS_RECORDED: Final = 20
NOT_FOUND: Final = "not found"
_DONE: Final = {
    "enable": "enabled",
    "disable": "disabled",
    "drain": "draining",
    "remove": "removed",
    "forget": "forgotten",
}


@dataclass(slots=True)
class Progress:
    """How far the work is. `counts`: by result; `not_done`: the first of those that were not done; `on_count` hears
    `done` whenever it has changed."""

    set_total: Callable[[int], None] = lambda _: None
    on_count: Callable[[int], None] = lambda _: None
    done: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    not_done: list[Unfinished] = field(default_factory=list)
    first_ids: Sequence[str] = ()

    @property
    def changes(self) -> dict[str, list[Any]]:
        """For the record of changes: how many, what came of it, and which the first were."""
        ids = {"first_ids": [None, list(self.first_ids)]} if self.first_ids else {}
        return {"done": [None, self.done], "counts": [None, dict(sorted(self.counts.items()))], **ids}

    def one_more(self) -> None:
        self.done += 1
        self.on_count(self.done)

    def count(self, result: str, number: int = 1) -> None:
        """So many have this result."""
        self.done += number
        self.counts[result] += number
        self.on_count(self.done)

    def fail(self, name: str, result: str, why: str) -> None:
        """One key was not done."""
        self.count(result)
        if len(self.not_done) < _MOST_NOT_DONE:
            self.not_done.append(Unfinished(0, name, result, why))


async def work_on_keys(
    keys: KeyOperations, action: KeyVerb, names: Sequence[str], probe_now: ProbeNow, progress: Progress, actor: str = ""
) -> None:
    """Do it to each of these keys, as `actor` says (an operator's name); doing it again changes nothing more. Those
    that are not in the pool are reported. Raises StoreError; what was done until then stays done."""
    progress.first_ids = names[:_IDS_RECORDED]
    if action == "probe":
        await _probe_all(keys, names, probe_now, progress, actor)
    elif action == "forget":
        await _forget_all(keys, names, progress, actor)
    elif action in KEY_ACTIONS:
        known = keys.overview.roster.pool.keys
        there = []
        async for name in in_turns(names):
            if name in known:
                there.append(name)
            else:
                progress.fail(name, NOT_FOUND, "no such key in the pool")
        await keys.act_on_all(action, there, lambda number: progress.count(_DONE[action], number), actor=actor)


async def _forget_all(keys: KeyOperations, names: Sequence[str], progress: Progress, actor: str) -> None:
    there: list[str] = []
    async for name in in_turns(names):
        try:
            keys.can_be_forgotten(name)
        except UnknownKey:
            progress.fail(name, NOT_FOUND, "no such key in the store")
        except KeyConflict as error:
            progress.fail(name, "configured", str(error))
        else:
            there.append(name)
    try:
        for start in range(0, len(there), _FORGOTTEN_AT_ONCE):
            some = there[start : start + _FORGOTTEN_AT_ONCE]
            await keys.forget_stored(*some, actor=actor)
            progress.count(_DONE["forget"], len(some))
    finally:
        await keys.sources.read()


async def _probe_all(
    keys: KeyOperations, names: Sequence[str], probe_now: ProbeNow, progress: Progress, actor: str
) -> None:
    left = iter(names)
    lost: list[StoreError] = []  # raised out of the group, it would arrive as a group

    async def probe_one_after_the_other() -> None:
        for name in left:
            if lost:
                return
            try:
                check = await keys.probe(name, probe_now, actor, refresh=False)
            except UnknownKey:
                progress.fail(name, NOT_FOUND, "no such key in the pool")
            except KeyConflict as error:
                progress.fail(name, "not probed", str(error))
            except StoreError as error:
                lost.append(error)
            else:
                if check.ok:
                    progress.count("valid")
                else:
                    progress.fail(name, "not valid", f"upstream answers {check.answer}")

    await keys.overview.sync.refresh()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_PROBES_AT_ONCE, len(names))):
                group.create_task(probe_one_after_the_other())
        if lost:
            raise lost[0]
    finally:
        await keys.overview.sync.refresh()


class Choosable(NamedTuple):
    """A key as a command may choose it."""

    id: str
    account: str
    state: str


async def choosable(keys: KeyOperations) -> list[Choosable]:
    """All keys, those that are locked too. Raises StoreUnavailable."""
    await keys.overview.sync.refresh()
    pool = keys.overview.roster.pool
    found = [Choosable(key.id, key.account, pool.state_of(key).value) for key in pool.keys.values()]
    return found + [Choosable(name, account, LOCKED) for name, account in keys.sources.missing.items()]


def chosen(
    known: Sequence[Choosable], names: Sequence[str], *, account: str | None, state: str | None, match: str | None
) -> list[str]:
    """The ids that a command is about: those that are named, or all; of these, those that fit each given condition.
    `match`: a pattern (fnmatch). Raises UnknownKey for a name that is not known."""
    there = {one.id: one for one in known}
    for name in names:
        if name not in there:
            raise UnknownKey(name)
    asked = [there[name] for name in dict.fromkeys(names)] if names else known
    return [
        one.id
        for one in asked
        if account in {None, one.account}
        and state in {None, one.state}
        and (match is None or fnmatchcase(one.id, match))
    ]
