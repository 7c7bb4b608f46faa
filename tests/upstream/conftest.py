"""Both upstream clients, each on both event loops: what holds for one holds for all."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from tests.fakes.upstream_server import CLIENTS


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=CLIENTS)
def kind(request) -> str:
    """The client under test."""
    return request.param
