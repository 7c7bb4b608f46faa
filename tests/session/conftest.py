"""Sessions between real sockets; pauses before another attempt are shortened, nothing else is."""

from __future__ import annotations

import pytest
from quotapool.domain import retry

from tests.fakes.path_fixtures import open_hall, open_pool

__all__ = ["open_hall", "open_pool"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.002)


@pytest.fixture
def fast_time(virtual_time) -> None:
    """Virtual time, as fast as sockets allow."""
    virtual_time.waits_for_tcp()
