"""Large and slow bodies at flat memory: 64 MiB here, 1 GiB in tests/soak."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.firehose import Firehose, running_firehose
from tests.fakes.processes import RunningProxy
from tests.fakes.running import running_proxy
from tests.fakes.wire import kernel_buffers
from tests.scenarios import big_bodies
from tests.scenarios.big_bodies import MIB


@pytest.fixture(scope="module")
def hose() -> Iterator[Firehose]:
    with running_firehose() as running:
        yield running


@pytest.fixture(scope="module")
def proxy(hose: Firehose, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    with running_proxy(tmp_path_factory.mktemp("bodies"), big_bodies.config(hose)) as running:
        yield running


def test_64_mib_up_and_down_arrive_whole_at_flat_memory(proxy):
    grown = big_bodies.up_and_down(proxy, 64 * MIB)
    print(grown)
    assert max(grown.values()) < 16


def test_a_client_that_stops_reading_holds_upstream_back(proxy, hose):
    kernels = kernel_buffers() / MIB
    handed, grown = big_bodies.slow_reader(proxy, hose, 512 * MIB + kernel_buffers())
    print(handed, kernels, grown)
    assert handed < kernels + 4  # and a little of ours
    assert grown < 8


def test_an_early_answer_to_an_unfinished_upload_reaches_the_client_and_ends_the_connection(proxy, hose):
    hose.received = 0
    said = big_bodies.answered_early(proxy, hose, 256 * MIB)
    assert said["message"] == "too large"
    assert hose.received < 2 * MIB  # it was not sent a second time
