"""What is said of work on many things that the store or Ctrl-C ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from quotapool.cli.errors import warn
from quotapool.store.store import StoreError


@contextmanager
def how_far_if_cut(total: int, what: str, done: Callable[[], int], *, again: bool = True) -> Iterator[None]:
    """Work on `total` keys, clients or lines (`what`). `done`: how many by now. `again`: the same command would do the
    rest; it would not if it names what is gone."""
    rest = "the same command does the rest" if again else "the rest is as it was"
    with said_if_cut(lambda: f"at least {count:,} of {total:,} {what} are done; {rest}" if (count := done()) else ""):
        yield


@contextmanager
def said_if_cut(words: Callable[[], str]) -> Iterator[None]:
    """`words` are said then; "": nothing. A call whose answer was lost may have done more than is known."""
    try:
        yield
    except (StoreError, asyncio.CancelledError):
        if said := words():
            warn(said)
        raise
