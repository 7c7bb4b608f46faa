"""A million requests: the worker's memory after all of them is what it was after the first hundred thousand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.soak.test_websockets import resident_kib

RIG = Path(__file__).parents[2] / "benchmarks" / "rig"
FIRST, ALL, PART = 100_000, 1_000_000, 50_000
MOST_GROWTH = 1.05
UNLIMITED = {"limits": {"default": {"rpm": 10_000_000, "tpm": 10**9}}}


def started(name: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(RIG / name)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(load: subprocess.Popen[str], **order: Any) -> dict[str, Any]:
    assert load.stdin is not None
    assert load.stdout is not None
    load.stdin.write(json.dumps(order) + "\n")
    load.stdin.flush()
    said: dict[str, Any] = json.loads(load.stdout.readline())
    return said


def test_a_million_requests_leave_the_workers_memory_where_it_was(start_proxy, capsys):
    upstream, load = started("upstream.py"), started("load.py")
    try:
        assert upstream.stdout is not None
        port = int(upstream.stdout.readline().split()[-1])
        keys = [{"id": f"k{n}", "secret": f"sk-soak-{n:02d}-aaaaaaaaaaaaaaaaaaaa"} for n in range(10)]
        proxy = start_proxy({"upstream": f"http://127.0.0.1:{port}", "keys": keys, **UNLIMITED})
        (worker,) = proxy.worker_pids()
        listens = int(proxy.base_url.rsplit(":", 1)[1].split("/")[0])
        seen: dict[int, int] = {}
        for done in range(PART, ALL + 1, PART):
            said = ask(load, mode="whole", clients=32, requests=PART, port=listens, tls=False, bearer="anything")
            assert said["errors"] == 0, said
            assert said["requests"] == PART, said
            seen[done] = resident_kib(worker)
    finally:
        for process in (upstream, load):
            process.kill()
    with capsys.disabled():
        print(f"\nworker, MiB resident by requests: { {n: round(kib / 1024, 1) for n, kib in seen.items()} }")
    assert seen[ALL] <= MOST_GROWTH * seen[FIRST]
