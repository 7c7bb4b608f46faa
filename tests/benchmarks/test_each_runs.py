"""Each benchmark runs, for one tiny round: they use the product's insides, which change without them.

Nothing here says how fast anything is. `side_by_side.py` has a file of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rig.processes import HERE

BENCHMARKS = HERE.parent
# By file: its words, and what the last line it prints must hold (a figure, of what was to be measured).
TINY = {
    "request_path.py": ("--here --keys 2 --rounds 1 --requests 64", "2 keys: least"),
    "request_counts.py": ("--clients 2 --requests 50", "timers"),
    "request_steps.py": ("--number 3", "an event of a stream"),
    "reserve_cost.py": ("--keys 2 10 --calls 64 --rounds 1", "times the smallest pool's"),
    "cache_cost.py": ("--entries 64 --rounds 1", "an entry of 1024 bytes takes "),
    "traces_cost.py": ("--rounds 1 --requests 64", "100 %: loop least"),
    "script_cost.py": ("--accounts 20 --batch 2 --requests 20 --rounds 1", "1.00"),
    "pool_capacity.py": ("--accounts 20 --batch 1 4 --seconds 0.05 --rounds 1", "| 20 | 4 |"),
    "worker_balance.py": ("--workers 2 --clients 4 --seconds 0.05 --rounds 1", "| 0 |"),
    "client_servers.py": ("--requests 64 --rounds 1", "µs/request"),
    "upstream_clients.py": ("--requests 64 --rounds 1", "µs/request"),
    "tls_handshakes.py": ("--connections 4 --rounds 1", "resumed"),
    "websocket_frames.py": ("--rounds 1 --times 20", "mask    16384 B"),
    "first_bytes.py": ("--rounds 1 --only named", "one account      first byte"),
    "budgets_in_virtual_time.py": ("--only burst --seconds 3 --warm-up 1", "| mixed | correct |"),
    "outside_use_in_virtual_time.py": ("--only named --seeds 1 --tiers 1 --processes 1", "| mixed | correct | 95% |"),
    "shards_in_virtual_time.py": ("--accounts 24 --big 10 --offered 0.9 --seconds 16 --stale 0.05", "| 16 | 2 "),
    "open_pages.py": ("--keys 10 --pages 2 --rounds 1 --requests 100", "  2 pages: a request costs a worker"),
    "plot_budgets.py": ("--into {tmp_path}", ""),
}


def test_no_benchmark_is_left_out():
    assert {file.name for file in BENCHMARKS.glob("*.py")} == {*TINY, "side_by_side.py"}


@pytest.mark.parametrize("name", TINY)
def test_it_runs(name: str, tmp_path: Path):
    words, last = TINY[name]
    command = [sys.executable, str(BENCHMARKS / name), *words.format(tmp_path=tmp_path).split()]

    # With this folder's code, whatever the environment has installed.
    here = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent / "proxy")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=here)

    assert done.returncode == 0, done.stdout + done.stderr
    assert last in (done.stdout.splitlines() or [""])[-1]
