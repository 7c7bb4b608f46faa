"""Keeps the garbage collector from walking what a large pool holds: 30,000 keys are a million objects, a quarter of a
second each time, in which nobody is served."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_COLLECT_AFTER: Final = (20_000, 20, 50)  # allocations, and collections of the generation before
_ONLY_THE_YOUNGEST: Final = (_COLLECT_AFTER[0], 1_000_000, 1_000_000)


def collect_rarely() -> None:
    """At the start of a process, before it builds anything."""
    gc.set_threshold(*_COLLECT_AFTER)


def keep_what_is_built() -> None:
    """What was built so far lives until the next reload, most of it longer. It is still freed when its last reference
    goes."""
    gc.collect(1)
    gc.freeze()


@contextmanager
def keeping_what_is_built() -> Iterator[None]:
    """The same around a reload, in whose course requests are served: what it builds is walked when it is new, in
    portions, and never again."""
    gc.collect(1)
    gc.set_threshold(*_ONLY_THE_YOUNGEST)
    try:
        yield
    finally:
        gc.collect(0)
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)
