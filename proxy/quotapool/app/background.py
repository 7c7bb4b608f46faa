"""The supervisor's background tasks: loops that run side by side, are restarted when they fail, and stop together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

_log = structlog.get_logger()
_PAUSE_S: Final = 5.0  # before a failed one is restarted
_CANCEL_AGAIN_S: Final = 0.5


class BackgroundTasks:
    """A loop that raises is logged and restarted: one failed check must not end all checking."""

    def __init__(self, pause_s: float = _PAUSE_S) -> None:
        self._pause_s = pause_s
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run `loop` from now on; it is over when it returns. `name` is for the log."""
        self._tasks.append(asyncio.create_task(self._keep_running(name, loop), name=name))

    async def _keep_running(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await loop()
            except Exception:  # noqa: BLE001 - whatever it was, the next round may succeed
                _log.exception("a background task failed and is restarted", task=name, pause_s=self._pause_s)
                await asyncio.sleep(self._pause_s)
            else:
                return

    async def stop(self) -> None:
        """Cancel all and wait until they have ended."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            # A library may swallow a cancellation (as `asyncio.wait_for` of Python 3.11 does), so it is repeated.
            _, pending = await asyncio.wait(self._tasks, timeout=_CANCEL_AGAIN_S)
            self._tasks = list(pending)
