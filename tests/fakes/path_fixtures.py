"""Fixtures: the request path on a real store, between faked edges, in virtual time."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator

import pytest
from quotapool.store.store import CALL_S

from tests.fakes.house import House, open_house
from tests.fakes.sessions import Hall, open_sessions


@pytest.fixture(autouse=True)
def time_is_virtual(request: pytest.FixtureRequest) -> None:
    """Pauses and waits are as long as in earnest, and no test waits for them. A loop of `asyncio.run` is not in it."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("virtual_time")


@pytest.fixture
async def open_pool(valkey_url) -> AsyncIterator[object]:
    """`await open_pool({"a": 1, "b": 2}, **options)`: a pool whose account a has one key and b has two.

    Its store has as long for a call as in earnest: in virtual time no machine stands still.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def opened(accounts, /, **options) -> House:
            return await stack.enter_async_context(open_house(valkey_url, accounts, call_s=CALL_S, **options))

        yield opened


@pytest.fixture
async def open_hall(valkey_url) -> AsyncIterator[object]:
    """`await open_hall({"a": 1}, **options)`: the real listener for sessions, before such a pool."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(accounts, /, **options) -> Hall:
            return await stack.enter_async_context(open_sessions(valkey_url, accounts, **options))

        yield opened
