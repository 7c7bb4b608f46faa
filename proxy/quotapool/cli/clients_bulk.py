"""What `quotapool clients suspend|resume|revoke` have alike: one client, or many at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Annotated, Any

import typer

from quotapool.cli.access import recorded
from quotapool.cli.cut_short import how_far_if_cut
from quotapool.cli.errors import fail
from quotapool.cli.keys_bulk import confirmed
from quotapool.cli.progress import shown_progress
from quotapool.operators.clients import ClientConflict, ClientOperations, UnknownClient
from quotapool.settings import Settings
from quotapool.store.store import Store

ClientsArgument = Annotated[
    list[str] | None, typer.Argument(help="Names of clients.", metavar="NAMES...", show_default=False)
]
TeamOption = Annotated[str | None, typer.Option("--team", help="Only clients of this team.", show_default=False)]
MatchOption = Annotated[str | None, typer.Option("--match", help="Only names like 'trial-*'.", show_default=False)]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether that many are meant.")]

Act = Callable[[str], Awaitable[str]]
"""Does it to one client; what came of it. Raises UnknownClient, ClientConflict, StoreLost."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which clients a command is about."""

    names: list[str]
    team: str | None
    match: str | None

    @property
    def is_one(self) -> bool:
        """A single client by its name."""
        return len(self.names) == 1 and self.team is None and self.match is None

    def of(self, rows: list[dict[str, Any]]) -> list[str]:
        """Those that are named, or all; of these, those that fit each condition. Raises UnknownClient."""
        teams: dict[str, str | None] = {row["id"]: row["team"] for row in rows}
        for name in self.names:
            if name not in teams:
                raise UnknownClient(name)
        asked = dict.fromkeys(self.names) if self.names else teams
        return [
            name
            for name in asked
            if self.team in {None, teams[name]} and (self.match is None or fnmatchcase(name, self.match))
        ]


async def work(
    settings: Settings, store: Store, clients: ClientOperations, action: str, choice: Choice, act: Act, *, yes: bool
) -> int:
    """Do it to one client, or after a question to many; each is recorded. The exit code: 1 if one was not done. Raises
    UnknownClient, ClientConflict, StoreLost."""
    if not choice.names and choice.team is None and choice.match is None:
        return fail("name clients, or say which: --team, --match")
    if choice.is_one:
        (name,) = choice.names

        async def one() -> int:
            print(f"client {name} {await act(name)}")
            return 0

        return await recorded(settings, store, f"{action}_client", f"c/{name}", one)
    rows = await clients.rows()
    names = choice.of(rows)
    if not names:
        return fail("no client is like that; `quotapool clients list` shows them")
    if not yes and not confirmed(f"{action} {len(names):,} of {len(rows):,} clients"):
        return fail("nothing was done")
    results: Counter[str] = Counter()
    not_done: list[str] = []
    again = action != "revoke" or not choice.names
    with (
        how_far_if_cut(len(names), "clients", results.total, again=again),
        shown_progress("changing clients", len(names)) as tell,
    ):
        for number, name in enumerate(names, 1):

            async def one_of_many(name: str) -> int:
                try:
                    results[await act(name)] += 1
                except (ClientConflict, UnknownClient) as error:
                    not_done.append(f"{name}: {error if isinstance(error, ClientConflict) else 'not in the store'}")
                    return 1
                return 0

            await recorded(settings, store, f"{action}_client", f"c/{name}", partial(one_of_many, name))
            tell(number, len(names))
    for word, number in results.items():
        print(f"1 client {word}" if number == 1 else f"{number:,} clients {word.replace('is ', 'are ')}")
    for line in not_done:
        print(line)
    return 1 if not_done else 0
