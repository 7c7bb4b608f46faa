"""A limit on connections: who finds all of them in use waits in line, and gets the next one that is free."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

C = TypeVar("C")


class ConnectionLimit(Generic[C]):
    """`taken` counts connections that are open or being opened. While anybody waits, none is idle: no one overtakes."""

    __slots__ = ("_give_back", "_most", "_waiting", "taken")

    def __init__(self, most: int | None, give_back: Callable[[C], None]) -> None:
        """`most` None: no limit. `give_back` takes a connection whose turn came when nobody was there any more."""
        self._most = most
        self._give_back = give_back
        self.taken = 0
        self._waiting: deque[asyncio.Future[C | None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def wait(self, deadline: float | None) -> C | None:
        """A connection that another has just finished with, or None: open one, it is counted already.

        Raises TimeoutError at `deadline` (in the loop's time), and what `close` was given.
        """
        if self._most is None or self.taken < self._most:
            self.taken += 1
            return None
        turn: asyncio.Future[C | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                return await turn
        except BaseException:
            with suppress(ValueError):
                self._waiting.remove(turn)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                connection = turn.result()
                if connection is None:
                    self.left()
                else:
                    self._give_back(connection)
            raise

    def offer(self, connection: C) -> bool:
        """Give a free connection to whoever is first in line. False: nobody is."""
        return bool(self._waiting) and self._serve(connection)

    def left(self) -> None:
        """A connection is gone, or was not opened."""
        if not self._serve(None):
            self.taken -= 1

    def close(self, failure: Exception) -> None:
        """Nobody is served any more."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(failure)

    def _serve(self, connection: C | None) -> bool:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return True
        return False
