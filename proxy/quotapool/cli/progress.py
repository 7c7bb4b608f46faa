"""How far a command is that takes more than a moment: on standard error, only at a terminal, gone when it is done."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

_AFTER_S: Final = 0.4  # what is done sooner needs no bar

OnProgress = Callable[[int, int | None], None]
"""Hears how many are done, of how many; None: nobody knows."""


@contextmanager
def shown_progress(what: str, total: int | None = None) -> Iterator[OnProgress]:
    """`what` is done inside the block: `checking keys`. With a total a bar, else a sign that it goes on."""
    bar = _bar(is_counted=total is not None)
    task = bar.add_task(what, total=total)
    if bar.disable:
        yield lambda _done, _of: None
        return
    later = threading.Timer(_AFTER_S, bar.start)
    later.daemon = True
    later.start()

    def on_progress(done: int, of: int | None) -> None:
        bar.update(task, completed=done, total=of)

    try:
        yield on_progress
    finally:
        later.cancel()
        later.join()
        bar.stop()


def _bar(*, is_counted: bool) -> Progress:
    text = TextColumn("{task.description}", markup=False)
    counted = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    columns = counted if is_counted else (SpinnerColumn(), text)
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
