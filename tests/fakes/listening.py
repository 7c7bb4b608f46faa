"""A server for as long as a `with` block, which does not wait for connections that somebody still has.

`async with server` does from Python 3.12 on, and a test that leaves a connection would never end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable


@contextlib.asynccontextmanager
async def listening(starting: Awaitable[asyncio.Server]) -> AsyncIterator[asyncio.Server]:
    """`starting`: what asyncio.start_server or start_unix_server returns."""
    server = await starting
    try:
        yield server
    finally:
        server.close()
