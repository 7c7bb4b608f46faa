"""`quotapool events`: the pool's events, for people, spreadsheets and programs."""

from __future__ import annotations

import asyncio
import csv
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from quotapool.cli import tables
from quotapool.cli.access import run_with_store
from quotapool.cli.columns import cut, printable
from quotapool.cli.errors import fail
from quotapool.cli.following import once_it_is_there
from quotapool.observe.events import Events, StoredEvent
from quotapool.settings import Settings
from quotapool.settings.values import parse_duration
from quotapool.shapes.general import EventQuery
from quotapool.store.store import Store

Form = Literal["lines", "csv", "json"]
_EVERY_S: Final = 0.5
_NARROW: Final = 110  # columns: below that, the year is left out
_YEAR: Final = len("2026-")
_COLUMNS: Final = (
    *("at", "kind", "field", "from", "to", "reason", "by", "status", "message", "request_id"),
    *("actor", "role", "address", "action", "changes", "id"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would calculate a cell that begins like this


def run(settings: Settings, query: EventQuery, since: str, form: Form, *, follow: bool) -> int:
    """Print those that match, the oldest first. Exit code 0; 2 if `since` cannot be read, or the store not reached."""
    start = start_of(since, time.time())
    if start is None:
        return fail("--since must be a span (90m, 24h, 7d), a day (2026-11-01) or a time (2026-11-01T15:00)")

    async def command(store: Store) -> int:
        events, printer = Events(store, settings.pool), Printer(form, width=tables.terminal_width)
        place = str(int(start * 1000))

        async def show_new() -> None:
            nonlocal place
            last = await events.last_id()
            async for some in events.since(place, lambda _: True):
                printer.show(event for event in some if query.matches(event.data))
                last = some[-1].id
                place = f"({last}"
            place = f"({last}"

        await show_new()
        while follow:
            await asyncio.sleep(_EVERY_S)
            await once_it_is_there(show_new)
        return 0

    try:
        return run_with_store(settings, command)
    except KeyboardInterrupt:
        return 0


def start_of(since: str, now: float) -> float | None:
    """Unix seconds of `24h`, `2026-11-01` or `2026-11-01T15:00` (UTC unless it names an offset); None: it is
    neither."""
    try:
        return max(0.0, now - parse_duration(since))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        return None
    return max(0.0, (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp())


class Printer:
    """Events one by one, below a heading where there is one. `width`: of the terminal now, in whose lines everything
    fits; 0: there is none, and nothing is cut."""

    def __init__(self, form: Form, *, width: Callable[[], int] = lambda: 0) -> None:
        self._form = form
        self._width = width
        self._rows = csv.writer(sys.stdout)
        if form == "csv":
            self._rows.writerow(_COLUMNS)

    def show(self, events: Iterable[StoredEvent]) -> None:
        for event in events:
            if self._form == "json":
                tables.print_json(document(event))
            elif self._form == "csv":
                cells = {**event.data, "at": moment(event.at), "id": event.id}
                self._rows.writerow([safe_cell(cells.get(column, "")) for column in _COLUMNS])
            else:
                print(line(event, self._width()))
        sys.stdout.flush()


def document(event: StoredEvent) -> dict[str, Any]:
    """As JSON: all fields, `changes` decoded."""
    data: dict[str, Any] = dict(event.data)
    if "changes" in data:
        try:
            data["changes"] = msgspec.json.decode(data["changes"])
        except msgspec.DecodeError:
            data["changes"] = {}
    return {"id": event.id, "at": event.at, **data}


def line(event: StoredEvent, width: int = 0) -> str:
    """One event in a line for people, of at most `width` cells; 0: whole."""
    data = event.data
    subject = data.get("field") or "pool"
    if data.get("kind") == "operator":
        changes = document(event)["changes"] if "changes" in data else {}
        words = ", ".join(f"{name}: {_word(old)} → {_word(new)}" for name, (old, new) in changes.items())
        refused = f" refused ({data['reason']})" if data.get("reason", "done") != "done" else ""
        where = f" from {data['address']}" if data.get("address") else ""
        what = f"{data.get('action', '')}{refused} {subject}" + (f" ({words})" if words else "")
        text = f"{data.get('actor', '')}{where}: {what}"
    else:
        said = f": {data['message']}" if data.get("message") else ""
        step = f"{data.get('from') or '-'} → {data.get('to') or '-'}"
        text = f"{subject}: {step}, {data.get('reason', '')} by {data.get('actor') or data.get('by', '')}{said}"
    at = moment(event.at)
    if 0 < width < _NARROW and at.endswith("Z"):
        at = at[_YEAR:].replace("T", " ")
    found = printable(f"{at}  {data.get('kind') or 'state':8}  {text}")  # others' text must not control the terminal
    return cut(found, width) if width else found


def moment(at: str) -> str:
    try:
        return f"{datetime.fromtimestamp(float(at), UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return at


def safe_cell(text: str) -> str:
    """As a spreadsheet shows it and does not calculate it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _word(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()
