"""Processes that end with their test: the simulated upstream and the proxy as its user starts it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import RunningProxy, Simulator, start_proxy_process


@pytest.fixture
def start_simulator() -> Iterator[Callable[..., Simulator]]:
    """`start_simulator(keys, *options)`; ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(keys: int, *options: str) -> Simulator:
            simulator = Simulator.start(keys, *options)
            stack.callback(simulator.stop)
            return simulator

        yield start


@pytest.fixture
def start_proxy(tmp_path: Path) -> Iterator[Callable[..., RunningProxy]]:
    """`start_proxy(config)`, each in a directory of its own; killed at the end if it still runs."""
    running: list[RunningProxy] = []

    def start(config: dict[str, Any], **options: Any) -> RunningProxy:
        proxy = start_proxy_process(tmp_path / f"proxy-{len(running)}", config, **options)
        running.append(proxy)
        return proxy

    yield start
    for proxy in running:
        if proxy.process.poll() is None:
            try:
                proxy.stop()
            except Exception as error:
                error.add_note(proxy.standing())
                proxy.process.kill()
                raise
