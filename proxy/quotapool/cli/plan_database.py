"""`quotapool plan --from DATABASE`: request logs that LiteLLM and gpt-load keep in a database, which is only read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from quotapool.migrate.database import Database, file_of, is_database_file, opened, resolved, rows
from quotapool.plan.sources import gpt_load, litellm
from quotapool.plan.sources.gpt_load import GptLoadRows
from quotapool.plan.sources.record import Collector, Known, Record, SourceError

_EVERY = 1_000  # rows between two words about progress
_LONGEST = 200  # of a path that an error repeats


def is_database(source: str) -> bool:
    """Whether this is `env:NAME`, the address of a database, or an SQLite file. Raises SourceError, and migrate's."""
    try:
        if source == "-" or Path(source).is_file():
            return source != "-" and is_database_file(Path(source))
    except OSError as error:  # a name too long, or a directory that is closed to us
        raise SourceError(f"{source[:_LONGEST]}: {error.strerror}") from None
    return source.startswith(("env:", "sqlite:")) or file_of(source) is None


def read(
    source: str,
    known: Known,
    into: Collector,
    *,
    tokens: int | None,
    since: datetime,
    progress: Callable[[int, int], None],
) -> Record:
    """Raises SourceError, and migrate's."""
    with opened(resolved(source)) as database:
        if database.columns(litellm.TABLE):
            _litellm(database, known, into, since, progress)
            return into.record(f"LiteLLM's table {litellm.TABLE}")
        columns = database.columns(gpt_load.TABLE)
        if not columns:
            raise SourceError(
                f"{database.where} has neither the table {litellm.TABLE} of LiteLLM nor {gpt_load.TABLE} of gpt-load"
            )
        _gpt_load(database, columns, known, into, tokens, since, progress)
        return into.record(f"gpt-load's table {gpt_load.TABLE}")


def _litellm(
    database: Database, known: Known, into: Collector, since: datetime, progress: Callable[[int, int], None]
) -> None:
    at_least = litellm.STARTED, since.replace(tzinfo=None)  # Prisma's columns have no zone
    found = rows(database, litellm.TABLE, litellm.NEEDED, also=litellm.ALSO, key=litellm.KEY, at_least=at_least)
    for number, row in enumerate(found, 1):
        litellm.take(row, known, into)
        if not number % _EVERY:
            progress(number, 0)


def _gpt_load(
    database: Database,
    columns: frozenset[str],
    known: Known,
    into: Collector,
    tokens: int | None,
    since: datetime,
    progress: Callable[[int, int], None],
) -> None:
    names: dict[str, str] = {}
    if gpt_load.COMPLETED in columns:
        for row in rows(database, "access_keys", ("name",), key="id"):
            names[str(row["id"])] = str(row["name"])
        at_least = gpt_load.COMPLETED, int(since.timestamp() * 1000)
        found = rows(
            database, gpt_load.TABLE, gpt_load.NEEDED_2, also=gpt_load.ALSO_2, key=gpt_load.KEY, at_least=at_least
        )
    else:
        found = rows(database, gpt_load.TABLE, gpt_load.NEEDED_1, also=gpt_load.ALSO_1, key=gpt_load.KEY)
    reader = GptLoadRows(tokens, names)
    for number, row in enumerate(found, 1):
        reader.take(row, known, into)
        if not number % _EVERY:
            progress(number, 0)
