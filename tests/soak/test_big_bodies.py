"""1 GiB up and 1 GiB down at less than 100 MiB of growth."""

from __future__ import annotations

from tests.fakes.firehose import running_firehose
from tests.fakes.running import running_proxy
from tests.scenarios import big_bodies


def test_a_gibibyte_up_and_down(tmp_path):
    with running_firehose() as hose, running_proxy(tmp_path, big_bodies.config(hose)) as proxy:
        grown = big_bodies.up_and_down(proxy, 2**30)
        print(grown)
        assert max(grown.values()) < 100
