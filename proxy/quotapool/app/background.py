"""The supervisor's standing duties: loops that run side by side, begin anew when one fails, and end together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

_log = structlog.get_logger()
_PAUSE_S: Final = 5.0  # before one that failed begins anew
_SAY_AGAIN_S: Final = 0.5


class BackgroundTasks:
    """A loop that raises is logged and begun anew: one look that failed must not end all looking."""

    def __init__(self, pause_s: float = _PAUSE_S) -> None:
        self._pause_s = pause_s
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """From now on run `loop`; it is over when it returns. `name` is for the log."""
        self._tasks.append(asyncio.create_task(self._keep(name, loop), name=name))

    async def _keep(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await loop()
            except Exception:  # noqa: BLE001 - whatever it was, the next round may do better
                _log.exception("a duty failed and begins anew", duty=name, pause_s=self._pause_s)
                await asyncio.sleep(self._pause_s)
            else:
                return

    async def end(self) -> None:
        """Cancel all and wait until they are gone."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            # A library may swallow a cancellation (as `asyncio.wait_for` of Python 3.11 does), so it is said again.
            _, pending = await asyncio.wait(self._tasks, timeout=_SAY_AGAIN_S)
            self._tasks = list(pending)
