"""`quotapool top`: the pool on one screen, read again and again; without a terminal, or with --once, a single frame."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from rich.text import Text

from quotapool.cli import tables
from quotapool.cli.access import run_with_keys
from quotapool.cli.errors import fail
from quotapool.cli.progress import shown_progress
from quotapool.cli.screen import Screen
from quotapool.cli.top_frame import frame, rows_of
from quotapool.cli.top_view import LISTS, View, pressed
from quotapool.operators.keys import KeyOperations
from quotapool.reports.top import TopReader
from quotapool.settings import Settings
from quotapool.settings.values import parse_duration
from quotapool.shapes.top import Top

_LEAST_S: Final = 1.0
_MOST_S: Final = 3600.0
_OUR_SHARE: Final = 3  # after a reading that took long, so many times as long nothing is read


def run(settings: Settings, every: str, changed: Callable[[], Settings | None], *, once: bool, as_json: bool) -> int:
    """Exit code 0; 2 if an option is invalid or the store cannot be reached. `changed`: other settings since its last
    call; it may block."""
    try:
        every_s = parse_duration(every)
    except ValueError as error:
        return fail(f"--every {error}")
    if not _LEAST_S <= every_s <= _MOST_S:
        return fail("--every is 1s to 1h")
    is_live = not once and not as_json and Screen.is_there()
    command = partial(_live, every_s=every_s, changed=changed) if is_live else partial(_once, as_json=as_json)
    try:
        return run_with_keys(settings, command)
    except KeyboardInterrupt:  # before the first frame
        return 0


async def _once(keys: KeyOperations, *, as_json: bool) -> int:
    reader = TopReader(keys)
    with shown_progress("reading the pool"):
        top = await reader.read()
    if _is_away(top):
        return fail("the store does not answer")
    if as_json:
        tables.print_json(top)
        return 0
    console = tables.console()
    columns, lines = Screen.size()
    for line in frame(top, View(), columns, lines - 1 if console.is_terminal else lines)[:-1]:
        line.rstrip()
        console.print(line, soft_wrap=True)
    return 0


async def _live(keys: KeyOperations, *, every_s: float, changed: Callable[[], Settings | None]) -> int:
    reader = TopReader(keys, changed)
    with shown_progress("reading the pool"):
        first = await reader.read()
    if _is_away(first):
        return fail("the store does not answer")
    await Live(reader, first, every_s).run()
    return 0


def _is_away(top: Top) -> bool:
    return bool(top.now.facts) and top.now.facts[0].code == "store_away"


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Live:
    """The screen until somebody leaves it."""

    def __init__(self, reader: TopReader, first: Top, every_s: float) -> None:
        self._reader = reader
        self._top = first
        self._every_s = every_s
        self._view = View()
        self._over = asyncio.Event()
        self._asked = asyncio.Event()  # somebody wants a reading now
        self._screen: Screen | None = None

    async def run(self) -> None:
        with Screen(self._pressed, self._draw, self._over.set) as self._screen:
            self._draw()
            reading = asyncio.create_task(self._read_forever())
            ending = asyncio.create_task(self._over.wait())
            try:
                await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                failed = reading.exception() if reading.done() else None
                await _ended(reading, ending)
                await self._reader.close()
        if failed is not None:
            raise failed  # on the terminal as it was

    async def _read_forever(self) -> None:
        took_s = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self._every_s - took_s, _OUR_SHARE * took_s)):
                    await self._asked.wait()
            self._asked.clear()
            if self._view.is_paused:
                await self._asked.wait()
                continue
            began = time.monotonic()
            self._top = await self._reader.read(self._view.only)
            took_s = time.monotonic() - began
            self._draw()

    def _pressed(self, key: str) -> None:
        before, rows = self._view, rows_of(self._top, self._view, LISTS[self._view.focus])
        view = pressed(before, key, len(rows))
        if view is None:
            self._over.set()
            return
        self._view = view
        if view.is_paused is not before.is_paused or (before.typing and not view.typing):
            self._asked.set()
        self._draw()

    def _draw(self) -> None:
        if self._screen is not None:
            self._screen.draw(self._lines())

    def _lines(self) -> list[Text]:
        return frame(self._top, self._view, *Screen.size())
