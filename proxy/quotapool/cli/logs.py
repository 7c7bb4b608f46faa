"""`quotapool logs`: the last requests of the pool, one line each, and new ones as they end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime

from quotapool.cli import tables
from quotapool.cli.access import run_with_store
from quotapool.domain.wallet import PICO
from quotapool.observe.kept_request import KeptRequest
from quotapool.observe.request_store import RequestStore
from quotapool.reports.timeline import span
from quotapool.settings import Settings
from quotapool.shapes.requests import RequestQuery, row_of
from quotapool.store.store import Store

_TITLES = ("time", "client", "model", "status", "wait", "total", "tokens", "cost", "cache", "keys tried", "id")
_NUMBERS = frozenset({"wait", "total", "tokens", "cost"})
_EVERY_S = 0.5


def run(settings: Settings, query: RequestQuery, *, as_json: bool, follow: bool) -> int:
    """Print those that match, the newest last. Exit code 0; 2 if the store cannot be reached."""

    async def command(store: Store) -> int:
        kept = RequestStore(store, settings.pool)
        _, place = await kept.since("") if follow else ([], "")
        last = await kept.latest(query.limit, query.matches)
        printer = Printer(as_json=as_json)
        printer.show(reversed(last))
        shown = {request.id for request in last}
        while follow:
            await asyncio.sleep(_EVERY_S)
            new, place = await kept.since(place)
            printer.show(request for request in new if request.id not in shown and query.matches(request))
        return 0

    try:
        return run_with_store(settings, command)
    except KeyboardInterrupt:
        return 0


class Printer:
    """Lines below one heading; a column is as wide as what was shown in it so far."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._widths: list[int] = []

    def show(self, requests: Iterable[KeptRequest]) -> None:
        if self._as_json:
            for request in requests:
                tables.print_json(row_of(request))
            return
        rows = [cells(request) for request in requests]
        is_first = not self._widths
        columns = zip(*([*rows, _TITLES] if is_first else rows), strict=True)
        widest = [max(map(len, column)) for column in columns]
        if widest:
            self._widths = [max(pair) for pair in zip(widest, self._widths or widest, strict=True)]
        for row in [_TITLES, *rows] if is_first else rows:
            padded = (
                text.rjust(width) if title in _NUMBERS else text.ljust(width)
                for title, text, width in zip(_TITLES, row, self._widths, strict=True)
            )
            print("  ".join(padded).rstrip(), flush=True)


def cells(request: KeptRequest) -> tuple[str, ...]:
    """One line: local time of arrival, and what the columns are called."""
    status = f"{request.status or '-'}{f' {request.code}' if request.code else ''}{' cut' if request.cut else ''}"
    used = request.prompt or request.completion
    cost = "?" if request.pico is None else f"${request.pico / PICO:.6f}" if request.pico else "-"
    found = (
        f"{datetime.fromtimestamp(request.at).astimezone():%m-%d %H:%M:%S}",
        request.client or "-",
        request.model or request.endpoint or "-",
        status,
        span(request.queued_us) if request.queued_us else "-",
        span(request.total_us),
        f"{request.prompt}+{request.completion}" if used else "-",
        cost,
        _cache(request),
        " ".join(f"{attempt.key}:{attempt.outcome}" for attempt in request.attempts) or "-",
        request.id,
    )
    # A client's text must not control the terminal.
    return tuple("".join(filter(str.isprintable, text)) for text in found)


def _cache(request: KeptRequest) -> str:
    """`hit $0.001915` with what it saved; `bypass: query` with the reason."""
    saved = request.saved.pico if request.saved is not None else 0
    dollars = f" ${saved / PICO:.6f}" if saved else ""
    return f"{request.cache or '-'}{dollars}{f': {request.kept}' if request.kept else ''}"
