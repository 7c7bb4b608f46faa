"""A limit on connections: a request that finds all of them in use waits in a queue for the next one that is free."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

C = TypeVar("C")


class ConnectionLimit(Generic[C]):
    """`taken` counts connections open or being opened. While a request waits none is idle, so no other overtakes it."""

    __slots__ = ("_most", "_put_back", "_waiting", "taken")

    def __init__(self, most: int | None, put_back: Callable[[C], None]) -> None:
        """`most` None: no limit. `put_back` takes a connection that was given to a request that no longer waits."""
        self._most = most
        self._put_back = put_back
        self.taken = 0
        self._waiting: deque[asyncio.Future[C | None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def wait(self, deadline: float | None) -> C | None:
        """A connection that another has just finished with, or None: open one, it is counted already.

        Raises TimeoutError at `deadline` (in the loop's time), and the failure that `close` was given.
        """
        if self._most is None or self.taken < self._most:
            self.taken += 1
            return None
        waiter: asyncio.Future[C | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                return await waiter
        except BaseException:
            with suppress(ValueError):
                self._waiting.remove(waiter)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                connection = waiter.result()
                if connection is None:
                    self.release()
                else:
                    self._put_back(connection)
            raise

    def offer(self, connection: C) -> bool:
        """Give a free connection to the first request in the queue. False: none waits."""
        return bool(self._waiting) and self._serve(connection)

    def release(self) -> None:
        """A connection is gone, or was not opened."""
        if not self._serve(None):
            self.taken -= 1

    def close(self, failure: Exception) -> None:
        """Fail all that wait."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(failure)

    def _serve(self, connection: C | None) -> bool:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False
