"""What every program's reader is: where its keys, teams and clients come from; and which program a database is of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from quotapool.migrate.database import Database
from quotapool.migrate.found import FoundClient, FoundKey, FoundTeam, NotTaken, SourceError

TITLES: Final = {"gpt-load": "gpt-load", "one-api": "one-api", "new-api": "new-api", "litellm": "LiteLLM"}


class Program(Protocol):
    """Another program's data. Each is read once, in this order. Every method raises SourceError."""

    def read_keys(self) -> Iterator[FoundKey | NotTaken]: ...

    def read_teams(self) -> Iterator[FoundTeam | NotTaken]: ...

    def read_clients(self) -> Iterator[FoundClient | NotTaken]: ...


def check_kind(database: Database, wanted: str) -> None:
    """Raises SourceError if this is another program's database, or none that is known here."""
    kind = _kind(database)
    if kind == wanted:
        return
    if kind == "gpt-load 2":
        raise SourceError(
            f"{database.where} is a database of gpt-load 2, which keeps its secrets in another way than 1.x. Export "
            "the keys of each group as text in its page, and give that file to `quotapool migrate gpt-load`"
        )
    if kind is not None:
        raise SourceError(f"{database.where} is a database of {TITLES[kind]}: `quotapool migrate {kind}`")
    raise SourceError(f"{database.where} has no tables of {TITLES[wanted]}; is it the right database?")


def _kind(database: Database) -> str | None:
    """Told by tables and columns: new-api began as a copy of one-api, and added to both tables."""
    if "key_value" in database.columns("api_keys"):
        return "gpt-load"
    if "key_value" in database.columns("access_keys") and database.columns("credentials"):
        return "gpt-load 2"
    tokens = database.columns("tokens")
    if "remain_quota" in tokens:
        newer = "model_limits_enabled" in tokens or "channel_info" in database.columns("channels")
        return "new-api" if newer else "one-api"
    if "token" in database.columns("LiteLLM_VerificationToken"):
        return "litellm"
    return None
