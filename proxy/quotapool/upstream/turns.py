"""What comes faster than it can be read is worked off in small steps, between which others have their turn.

An event loop reads from one connection up to megabytes before it looks at the next, and reading them can take longer
than a quick answer may be late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

_LONGEST_S: Final = 0.0002  # in one turn of the loop, by all steps together; one is taken at least


class Turns:
    """Steps that wait for their turn. A step returns whether there is more to do, and then comes last."""

    def __init__(self) -> None:
        self._waiting: dict[Callable[[], bool], None] = {}
        self._called = False

    def add(self, step: Callable[[], bool]) -> None:
        """Call `step` in the next turns of the loop. One that waits already keeps its place."""
        self._waiting.setdefault(step)
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        until = time.perf_counter() + _LONGEST_S
        try:
            while self._waiting:
                step = next(iter(self._waiting))
                del self._waiting[step]
                if step():
                    self._waiting.setdefault(step)
                if time.perf_counter() >= until:
                    break
        finally:  # a step that raises takes no turn from the others
            self._called = bool(self._waiting)
            if self._called:
                asyncio.get_running_loop().call_soon(self._run)
