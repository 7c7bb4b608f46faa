"""What a command that follows does while the store is away: it waits, as its reader does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from quotapool.cli.errors import warn
from quotapool.store.store import StoreLost

_AGAIN_S: Final = 1.0
_T = TypeVar("_T")


async def once_it_is_there(read: Callable[[], Awaitable[_T]]) -> _T:
    """What `read` returns. It is called again while the store is away, which is said once.

    Raises StoreLost if it is of no use to wait.
    """
    said = False
    while True:
        try:
            found = await read()
        except StoreLost as lost:
            if lost.is_lasting:
                raise
            if not said:
                warn(f"{lost}. Waiting for it; Ctrl-C ends this")
            said = True
            await asyncio.sleep(_AGAIN_S)
        else:
            if said:
                warn("the store is back")
            return found
