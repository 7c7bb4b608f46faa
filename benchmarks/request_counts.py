"""What a request takes that is no time: tasks, futures, callbacks, system calls, calls of functions.

    python benchmarks/request_counts.py                  # one client, and 32 at once; everything on, the store over TCP
    python benchmarks/request_counts.py --clients 32 --requests 2000

Counts hardly depend on what else the machine does, so they show what a change takes away. The worker's own loop counts
(`rig/counting/sitecustomize.py`); strace counts its system calls, if it is here. Calls are those that the interpreter
makes: compiled code makes hardly any.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import side_by_side
from rig.processes import HERE, Load, Running, cores, free_port, wait_for
from rig.targets import CLIENT_KEY, Rig, full

START_S, SETTLE_S, WARM_UP = 60.0, 0.5, 500
_SYSCALL = re.compile(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", re.MULTILINE)  # a row of `strace -c`


class Counting:
    """A running worker that counts, and the load on it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.directory = directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(HERE / "counting"), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        os.environ["TMPDIR"] = str(directory)
        upstream, upstream_port = side_by_side.upstream()
        stack.callback(upstream.stop)
        store_port, self.port = free_port(), free_port()
        store = side_by_side.store(directory, store_port)
        stack.callback(store.stop)
        rig = Rig(directory, upstream_port, 0, directory, store_port, store.process.pid, None)
        self.target: Running = full(tcp=True)(rig, directory, self.port)
        stack.callback(self.target.stop)
        self._load = Load(cores()[1])
        stack.callback(self._load.running.stop)
        wait_for(self.target, self.port, CLIENT_KEY, START_S)
        self.worker = next(pid for part, pid in self.target.parts() if part == "worker")

    def load(self, clients: int, requests: int) -> None:
        said = self._load.order("whole", requests=requests, clients=clients, port=self.port, key=CLIENT_KEY)
        if said["errors"]:
            raise RuntimeError(f"{said['errors']} of {requests} requests failed: {self.target.said()}")
        time.sleep(SETTLE_S)

    def counted(self, clients: int, requests: int) -> dict[str, int]:
        file = self.directory / f"counts-{self.worker}.json"
        file.unlink(missing_ok=True)
        os.kill(self.worker, signal.SIGUSR1)
        self.load(clients, requests)
        os.kill(self.worker, signal.SIGUSR2)
        for _ in range(100):
            if file.exists():
                break
            time.sleep(0.05)
        found: dict[str, int] = json.loads(file.read_text())
        return found

    def system_calls(self, clients: int, requests: int) -> dict[str, int]:
        if shutil.which("strace") is None:
            print("no strace, so system calls are not counted", file=sys.stderr)
            return {}
        command = ["strace", "-c", "-p", str(self.worker)]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        time.sleep(SETTLE_S)
        self.load(clients, requests)
        tracer.send_signal(signal.SIGINT)
        _, table = tracer.communicate(timeout=30)
        return {name: int(count) for count, name in _SYSCALL.findall(table) if name != "total"}


def measure(clients: int, requests: int) -> dict[str, float]:
    """Counts a request."""
    with contextlib.ExitStack() as stack:
        counting = Counting(stack)
        counting.load(clients, WARM_UP)
        counts = counting.counted(clients, requests)
        system_calls = counting.system_calls(clients, requests)
        calls = counting.counted(clients, requests)
    counts |= {name: count for name, count in calls.items() if name.startswith("calls")}
    counts |= {f"system call {name}": count for name, count in system_calls.items()}
    return {name: count / requests for name, count in counts.items()}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--clients", type=int, nargs="*", default=[1, 32])
    asked.add_argument("--requests", type=int, default=2_000)
    given = asked.parse_args()
    found = [measure(clients, given.requests) for clients in given.clients]
    print(f"| a request, of so many clients | {' | '.join(map(str, given.clients))} |")
    print(f"|---|{'---:|' * len(found)}")
    names = dict.fromkeys(name for counts in found for name in sorted(counts))
    for name in names:
        if any(counts.get(name, 0) >= 0.02 for counts in found):
            print(f"| {name} | {' | '.join(f'{counts.get(name, 0):.2f}' for counts in found)} |")


if __name__ == "__main__":
    main()
