"""What `quotapool keys enable|disable|drain|remove|forget|probe` have alike: one key, or many at once."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final

import typer

from quotapool.app.probing import Probing
from quotapool.cli import tables
from quotapool.cli.access import command_actor, record, recorded
from quotapool.cli.cut_short import how_far_if_cut
from quotapool.cli.errors import fail, warn
from quotapool.cli.progress import shown_progress
from quotapool.cli.questions import agreed
from quotapool.domain.counted import counted
from quotapool.domain.states import State
from quotapool.operators.bulk import Choosable, Progress, choosable, chosen, work_on_keys
from quotapool.operators.keys import LOCKED, KeyOperations, ProbeNow
from quotapool.shapes.work import KeyVerb

KeysArgument = Annotated[list[str] | None, typer.Argument(help="Ids of keys.", show_default=False)]
AccountOption = Annotated[str | None, typer.Option(help="Only keys of this account.", show_default=False)]
StateOption = Annotated[
    str | None, typer.Option(help="Only keys in this state, such as quarantined.", show_default=False)
]
MatchOption = Annotated[str | None, typer.Option(help="Only ids like 'trial-*'.", show_default=False)]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether that many are meant.")]

STATES: Final = (*(state.value for state in State), LOCKED)
_SHOWN: Final = 20
_DOING: Final[dict[KeyVerb, str]] = {
    "enable": "enabling keys",
    "disable": "disabling keys",
    "drain": "draining keys",
    "remove": "removing keys",
    "forget": "deleting keys",
    "probe": "asking OpenAI about keys",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which keys a command is about."""

    names: list[str]
    account: str | None
    state: str | None
    match: str | None

    @property
    def is_one(self) -> bool:
        """A single key by its name, as most commands are about."""
        return len(self.names) == 1 and not self.has_conditions

    @property
    def has_conditions(self) -> bool:
        return any(one is not None for one in (self.account, self.state, self.match))


@asynccontextmanager
async def probing(keys: KeyOperations) -> AsyncIterator[ProbeNow]:
    """A prober for one command."""
    made = Probing(keys.settings, keys.overview.ledger, keys.redactor, keys.overview.roster)
    try:
        yield made.prober.probe_now
    finally:
        await made.close()


async def work(keys: KeyOperations, action: KeyVerb, choice: Choice, *, yes: bool, as_json: bool = False) -> int:
    """Do it to one key, or after a question to many; the exit code: 1 if a key was not done. Raises UnknownKey,
    KeyConflict, StoreError."""
    if not choice.names and not choice.has_conditions:
        return fail("name keys, or say which: --account, --state, --match")
    if choice.state not in {None, *STATES}:
        return fail(f"--state is {', '.join(STATES[:-1])} or {STATES[-1]}")
    if choice.is_one and action != "probe":
        (key,) = choice.names
        return await one_recorded(keys, action, key, partial(_one, keys, action, key, as_json=as_json))
    known = await choosable(keys)
    ids = chosen(known, choice.names, account=choice.account, state=choice.state, match=choice.match)
    if not ids:
        return fail("no key is like that; `quotapool keys list` shows them")
    if not yes and not confirmed(f"{action} {len(ids):,} of {len(known):,} keys{_then(action, known, ids)}"):
        return fail("nothing was done")
    progress = Progress()
    again = action != "forget" or not choice.names
    async with kept_if_cut(
        keys, f"{action}_keys", len(ids), "keys", lambda: (progress.done, progress.changes), again=again
    ):
        with shown_progress(_DOING[action], len(ids)) as tell:
            progress.on_count = lambda done: tell(done, len(ids))
            async with probing(keys) as probe_now:
                await work_on_keys(keys, action, ids, probe_now, progress, command_actor().name)
    _print(progress, as_json=as_json)
    return 1 if progress.not_done else 0


@asynccontextmanager
async def kept_if_cut(
    keys: KeyOperations,
    action: str,
    total: int,
    what: str,
    so_far: Callable[[], tuple[int, dict[str, list[Any]]]],
    *,
    again: bool = True,
) -> AsyncIterator[None]:
    """Work on `total` keys or lines (`what`): recorded at its end, also if the store or Ctrl-C ends it; then it is said
    how far it came. `so_far`: how many are done, and the changes for the record; `again`: see `how_far_if_cut`."""
    try:
        with how_far_if_cut(total, what, lambda: so_far()[0], again=again):
            yield
    finally:
        done, changes = so_far()
        if done:
            await record(keys.settings, keys.overview.ledger.store, action, "", changes)


async def one_recorded(keys: KeyOperations, action: KeyVerb, key: str, run: Callable[[], Awaitable[int]]) -> int:
    """The exit code of `run`, which does `action` to one key; what it changed is recorded."""
    return await recorded(keys.settings, keys.overview.ledger.store, f"{action}_key", f"k/{key}", run, keys=keys)


async def _one(keys: KeyOperations, action: KeyVerb, key: str, *, as_json: bool) -> int:
    if action == "forget":
        await keys.forget(key, command_actor().name)
        state, said = "forgotten", f"key {key} and its secret are deleted"
    else:
        state = await keys.act(action, key, command_actor().name)
        said = f"key {key} is {state}"
    if as_json:
        tables.print_json({"id": key, "state": state})
    else:
        print(said)
    return 0


def _then(action: KeyVerb, known: Sequence[Choosable], ids: Sequence[str]) -> str:
    """What a person has to know before: that nobody would be served any more."""
    if action in {"enable", "probe"}:
        return ""
    serving, out = {one.id for one in known if one.state == State.ACTIVE.value}, set(ids)
    return ", after which no key serves" if serving and serving <= out else ""


def confirmed(what: str) -> bool:
    """A script that does not say --yes is told what it would have done."""
    if not sys.stdin.isatty():
        warn(f"this would {what}; --yes does it")
        return False
    return agreed(f"{what}?")


def _print(progress: Progress, *, as_json: bool) -> None:
    if as_json:
        not_done: list[Any] = [{"id": one.id, "result": one.result, "why": one.why} for one in progress.not_done]
        tables.print_json({"keys": progress.done, "counts": dict(progress.counts), "not_done": not_done})
        return
    counts = ", ".join(f"{count:,} {word}" for word, count in sorted(progress.counts.items()))
    print(f"{counted(progress.done, 'key')}: {counts}")
    for one in progress.not_done[:_SHOWN]:
        print(f"  {one.id}: {one.result}: {one.why}")
    if len(progress.not_done) > _SHOWN:
        print(f"  ... and {len(progress.not_done) - _SHOWN:,} more")
