"""`quotapool logs`: the last requests of the pool, one line each, and new ones as they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from rich.cells import cell_len

from quotapool.cli import tables
from quotapool.cli.access import run_with_store
from quotapool.cli.columns import GAP, Column, cell, printable, widths
from quotapool.cli.errors import warn
from quotapool.cli.following import once_it_is_there
from quotapool.domain.wallet import PICO
from quotapool.observe.kept_request import KeptRequest
from quotapool.observe.request_store import LATE_S, RequestStore, is_before
from quotapool.reports.timeline import span
from quotapool.settings import Settings
from quotapool.shapes.requests import RequestQuery, row_of
from quotapool.store.store import Store

# At a terminal; in a pipe each is as wide as its content.
_COLUMNS: Final = (
    Column("time", 8, 14),
    Column("client", 9, 24, rank=7),
    Column("model", 10, 30),
    Column("status", 19, 40),
    Column("wait", 6, 7, rank=5, right=True),
    Column("total", 6, 7, rank=6, right=True),
    Column("tokens", 6, 13, rank=3, right=True),
    Column("cost", 9, 12, rank=2, right=True),
    Column("cache", 5, 30, rank=1),
    Column("keys tried", 10, 40, rank=4),
    Column("id", 16, 40),
)
_TITLES: Final = tuple(column.title for column in _COLUMNS)
_NOTHING: Final = "-"
_NARROW: Final = 110  # columns: below that, the day is left out
_TIME: Final = len("15:04:05")
_EVERY_S = 0.5


def run(settings: Settings, query: RequestQuery, *, as_json: bool, follow: bool) -> int:
    """Print those that match, the newest last. Exit code 0; 2 if the store cannot be reached. While it
    follows, it waits for a store that is away."""

    async def command(store: Store) -> int:
        kept, printer = RequestStore(store, settings.pool), Printer(as_json=as_json, width=tables.terminal_width)
        follower = Follower(kept, query, printer)
        await follower.begin(follow=follow)
        while follow:
            await asyncio.sleep(_EVERY_S)
            await follower.go_on()
        return 0

    try:
        return run_with_store(settings, command)
    except KeyboardInterrupt:
        return 0


class Follower:
    """Shows the last requests that match, then new ones."""

    def __init__(self, kept: RequestStore, query: RequestQuery, printer: Printer) -> None:
        self._kept = kept
        self._query = query
        self._printer = printer
        self._place = ""
        self._shown: frozenset[str] = frozenset()  # of the last ones at the beginning, which may come again
        self._newest = 0.0  # the end of the last request that was read
        self._after = 0.0  # what ended before was shown

    async def begin(self, *, follow: bool) -> None:
        """Raises StoreLost."""
        if follow:
            _, self._place = await self._kept.since("")
        last = await self._kept.latest(self._query.limit, self._query.matches)
        self._printer.show(reversed(last))
        self._shown = frozenset(request.id for request in last)
        self._newest = max((request.ended for request in last), default=0.0)

    async def go_on(self) -> None:
        """Waits for a store that is away. Raises StoreLost if it is of no use to wait."""
        new, place = await once_it_is_there(partial(self._kept.since, self._place))
        if is_before(place, self._place):
            warn("the store has lost the requests that it had. Going on with new ones")
            self._after = self._newest - LATE_S  # after a failover it may have most of them
        self._place = place
        self._newest = max([self._newest, *(request.ended for request in new)])
        self._printer.show(
            request
            for request in new
            if request.id not in self._shown and request.ended > self._after and self._query.matches(request)
        )


class Printer:
    """Lines below one heading; a column is as wide as what was shown in it so far. `width`: of the terminal now, in
    whose lines everything fits; 0: there is none, and nothing is cut."""

    def __init__(self, *, as_json: bool, width: Callable[[], int] = lambda: 0) -> None:
        self._as_json = as_json
        self._width = width
        self._contents = [0] * len(_COLUMNS)
        self._is_first = True

    def show(self, requests: Iterable[KeptRequest]) -> None:
        if self._as_json:
            for request in requests:
                tables.print_json(row_of(request))
            return
        rows = [cells(request) for request in requests]
        if 0 < self._width() < _NARROW:
            rows = [(row[0][-_TIME:], *row[1:]) for row in rows]
        for row in rows:
            for n, text in enumerate(row):
                self._contents[n] = max(self._contents[n], cell_len(text) if text != _NOTHING else 0)
        wide = self._widths()
        for row in [_TITLES, *rows] if self._is_first else rows:
            print(_line(row, wide), flush=True)
        self._is_first = False

    def _widths(self) -> list[int]:
        if width := self._width():
            return widths(_COLUMNS, self._contents, width)
        return [max(content, len(title)) for content, title in zip(self._contents, _TITLES, strict=True)]


def _line(texts: Sequence[str], wide: Sequence[int]) -> str:
    shown = (
        cell(text, width, right=column.right)
        for text, width, column in zip(texts, wide, _COLUMNS, strict=True)
        if width
    )
    return (" " * GAP).join(shown).rstrip()


def cells(request: KeptRequest) -> tuple[str, ...]:
    """One line: local time of arrival, and what the columns are called."""
    status = f"{request.status or _NOTHING}{f' {request.code}' if request.code else ''}{' cut' if request.cut else ''}"
    used = request.prompt or request.completion
    cost = "?" if request.pico is None else f"${request.pico / PICO:.6f}" if request.pico else _NOTHING
    found = (
        f"{datetime.fromtimestamp(request.at).astimezone():%m-%d %H:%M:%S}",
        request.client or _NOTHING,
        request.model or request.endpoint or _NOTHING,
        status,
        span(request.queued_us) if request.queued_us else _NOTHING,
        span(request.total_us),
        f"{request.prompt}+{request.completion}" if used else _NOTHING,
        cost,
        _cache(request),
        " ".join(f"{attempt.key}:{attempt.outcome}" for attempt in request.attempts) or _NOTHING,
        request.id,
    )
    # A client's text must not control the terminal.
    return tuple(map(printable, found))


def _cache(request: KeptRequest) -> str:
    """`hit $0.001915` with what it saved; `bypass: query` with the reason."""
    saved = request.saved.pico if request.saved is not None else 0
    dollars = f" ${saved / PICO:.6f}" if saved else ""
    return f"{request.cache or _NOTHING}{dollars}{f': {request.kept}' if request.kept else ''}"
