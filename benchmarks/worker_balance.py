"""How evenly requests are spread over workers: one, two and four, 64 clients that keep their connections.

    python benchmarks/worker_balance.py
    python benchmarks/worker_balance.py --workers 2 --rounds 10

A connection stays with the worker that accepted it, and all accept from one socket. Each round opens new connections,
asks one request after another on each, and counts the request log's lines by the worker that wrote them. *Smallest* and
*largest* are shares of a round's requests, as multiples of an even share. Workers, store, upstream and load share the
machine's cores, so on two of them requests/s do not show what more workers would do on more cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rig.processes import HERE, Load, Running, cores, free_port, spent_us, wait_for
from rig.report import spread
from rig.targets import CLIENT_KEY, Rig, full

START_S, SETTLE_S, WARM_UP = 30.0, 0.5, 1_000


@dataclass(frozen=True, slots=True)
class Round:
    """`by_worker`: requests of each worker, those that had none left out."""

    by_worker: list[int]
    workers: int
    seconds: float
    cpu_us: float
    errors: int

    @property
    def requests(self) -> int:
        return sum(self.by_worker)

    @property
    def largest(self) -> float:
        return max(self.by_worker) * self.workers / self.requests

    @property
    def smallest(self) -> float:
        everyone = len(self.by_worker) == self.workers
        return min(self.by_worker) * self.workers / self.requests if everyone else 0.0


class Lines:
    """The log since the last look, counted by worker: a request's id is qp-<worker's name>-<number>."""

    def __init__(self, file: Path) -> None:
        self.file, self.at = file, 0

    def count(self, least: int = 0) -> Counter[str]:
        """Waits until there are `least`: lines are written in batches."""
        found: Counter[str] = Counter()
        for _ in range(50):
            self._read(found)
            if found.total() >= least:
                break
            time.sleep(0.1)
        return found

    def _read(self, found: Counter[str]) -> None:
        with self.file.open("rb") as log:
            log.seek(self.at)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self.at += len(line)
                if b'"event":"request"' in line:
                    found[json.loads(line)["request_id"].rpartition("-")[0]] += 1
        return found


def measure(workers: int, rounds: int, seconds: float, clients: int) -> list[Round]:
    found: list[Round] = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = Running.start([sys.executable, str(HERE / "upstream.py")], cores()[1])
        stack.callback(upstream.stop)
        assert upstream.process.stdout
        rig = Rig(directory, int(upstream.process.stdout.readline()), 0, directory, 0, 0, None)
        port = free_port()
        target = full(workers=workers)(rig, directory, port)
        stack.callback(target.stop)
        load = Load(cores()[1])
        stack.callback(load.running.stop)
        wait_for(target, port, CLIENT_KEY, START_S)
        lines, to = Lines(directory / "log"), {"port": port, "key": CLIENT_KEY, "clients": clients}
        warm = load.order("whole", requests=WARM_UP, **to)
        time.sleep(SETTLE_S)
        lines.count()
        number = max(clients, int(seconds * warm["requests"] / warm["seconds"]))
        for _ in range(rounds):
            before = target.cpu()
            said = load.order("whole", requests=number, **to)
            spent = spent_us(before, target.cpu())
            by_worker = list(lines.count(said["requests"]).values())
            found.append(Round(by_worker, workers, said["seconds"], spent["worker"] / number, said["errors"]))
    return found


def row(workers: int, rounds: list[Round]) -> str:
    smallest, largest = [r.smallest for r in rounds], [r.largest for r in rounds]
    cpu_us, per_s = [r.cpu_us for r in rounds], [r.requests / r.seconds for r in rounds]
    cells = spread(smallest), spread(largest), spread(cpu_us), spread(per_s)
    return f"| {workers} | {' | '.join(cells)} | {sum(r.errors for r in rounds)} |"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--seconds", type=float, default=1.0, help="a round")
    asked.add_argument("--clients", type=int, default=64)
    given = asked.parse_args()
    print("| workers | smallest | largest | worker CPU µs a request | requests/s | errors |")
    print("|---:|---:|---:|---:|---:|---:|")
    for workers in given.workers:
        print(row(workers, measure(workers, given.rounds, given.seconds, given.clients)), flush=True)


if __name__ == "__main__":
    main()
