"""What our processes use is what the kernel says; processor time stays counted when its process is gone."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from quotapool.app.process_usage import ProcessUsage, Usage, usage_of
from quotapool.observe.metrics import PoolMetrics

TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
HOLDS = 64 * 1024 * 1024
PROGRAM = f"""
import time
held = bytearray(b"x") * {HOLDS}
files = [open("/dev/null") for _ in range(20)]
while time.process_time() < 0.3:
    pass
print("done", flush=True)
input()
"""


@pytest.fixture
def proc(tmp_path: Path):
    """`proc(pid, user, system, pages, files)`: a process as /proc shows it, with proc(5)'s fields."""

    def show(pid: int, user: int, system: int, pages: int, files: int) -> Path:
        place = tmp_path / str(pid)
        (place / "fd").mkdir(parents=True)
        for number in range(files):
            (place / "fd" / str(number)).touch()
        before = " ".join(["1"] * 10)  # the fields 4 to 13
        (place / "stat").write_text(f"{pid} (a (b) c) S {before} {user} {system} 0 0 20 0 1 0\n")
        (place / "statm").write_text(f"99999 {pages} 1 1 0 1 0\n")
        return tmp_path

    return show


def test_a_process_is_read_whatever_it_calls_itself(proc):
    root = proc(17, user=3 * TICKS, system=TICKS, pages=1000, files=4)
    assert usage_of(17, root) == Usage(memory=1000 * PAGE, cpu_s=4.0, files=4)


def test_a_process_that_is_gone_uses_nothing(tmp_path: Path):
    assert usage_of(17, tmp_path) is None


@pytest.fixture
def shown():
    """Each sample of the page by its name and labels, as they are written."""

    def read(metrics: PoolMetrics) -> dict[str, float]:
        lines = [line for line in "".join(metrics.text()).splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    return read


def test_workers_are_added_up_and_what_one_used_stays_counted_when_it_is_gone(shown):
    metrics = PoolMetrics(CollectorRegistry())
    usage = ProcessUsage(metrics)
    children = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"done\n"
        usage.show([child.pid for child in children])
        both = shown(metrics)
        children[0].communicate(b"\n")
        usage.show([children[1].pid])
        one = shown(metrics)
    finally:
        for child in children:
            child.kill()
            child.communicate()

    assert both['quotapool_cpu_seconds_total{process="worker"}'] >= 0.5  # 0.3 s each, counted in ticks of 10 ms
    assert one['quotapool_cpu_seconds_total{process="worker"}'] >= both['quotapool_cpu_seconds_total{process="worker"}']
    assert both['quotapool_memory_bytes{process="worker"}'] >= 2 * HOLDS
    assert HOLDS <= one['quotapool_memory_bytes{process="worker"}'] < both['quotapool_memory_bytes{process="worker"}']
    # the fullest: 20 files, and its three standard ones
    assert 23 <= both['quotapool_open_files{process="worker"}'] < 40
    assert both['quotapool_memory_bytes{process="supervisor"}'] > 0
    assert both["quotapool_open_files_limit"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
