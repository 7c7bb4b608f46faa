"""The real listener and upstream client, between sockets that speak in bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.domain import retry
from tests.fakes.wire import Wire, open_wire


@pytest.fixture
async def wire(valkey_url, monkeypatch) -> AsyncIterator[Wire]:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.002)
    async with open_wire(valkey_url) as opened:
        yield opened
