"""The real listener and upstream client, between sockets that speak in bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from quotapool.domain import retry

from tests.fakes.wire import Wire, open_wire


@pytest.fixture(params=["ours", "aiohttp"])
async def wire(request, valkey_url, monkeypatch) -> AsyncIterator[Wire]:
    """With our own server, and with aiohttp's as its reference."""
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.002)
    async with open_wire(valkey_url, server=request.param) as opened:
        yield opened
