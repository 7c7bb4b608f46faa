"""What open pages of operators cost the request path: a worker's CPU a request without any and with ten, by turns.

    python benchmarks/open_pages.py --rounds 7
    python benchmarks/open_pages.py --keys 5000 --pages 10

Each page holds GET /admin/stream, and reads again what its screen does: of ten, two each are at the first screen, the
requests, the usage, the keys and the clients. Meanwhile /healthz is asked every 50 ms: its times are those of the
supervisor's loop under the same load.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Self

import side_by_side
import yaml
from rig.processes import Load, cores, free_port, spent_us, wait_for
from rig.targets import CLIENT_KEY, Rig, full

START_S, SETTLE_S, WARM_UP, ASK_EVERY_S = 90.0, 4.0, 3_000, 0.05
SCREENS = (  # what each reads again, and after how many seconds (dashboard/src/screens)
    ("/admin/samples?minutes=1", 10.0),
    ("/admin/requests?limit=500", 3_600.0),
    ("/admin/usage?by=client&since=24h&every=5m", 60.0),
    ("/admin/key-lines", 15.0),
    ("/admin/clients", 15.0),
)


class Pages:
    """`count` pages that are open while the block runs."""

    def __init__(self, port: int, token: str, count: int) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "gzip"}
        self._count = count
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self.read = 0  # bytes of the streams

    def __enter__(self) -> Self:
        for n in range(self._count):
            path, every_s = SCREENS[n % len(SCREENS)]
            for work in (self._follow, partial(self._look, path, every_s)):
                thread = threading.Thread(target=work, daemon=True)
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(5)

    def _follow(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        connection.request("GET", "/admin/stream", headers=self._headers)
        answer = connection.getresponse()
        while not self._closing.is_set() and (part := answer.read1(65_536)):
            self.read += len(part)
        connection.close()

    def _look(self, path: str, every_s: float) -> None:
        while not self._closing.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status}")
            connection.close()
            self._closing.wait(every_s)


class Health:
    """Asks /healthz all the time; `times` in ms."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.times: list[float] = []
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while True:
            began = time.perf_counter()
            try:
                connection.request("GET", "/healthz")
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):  # the end
                return
            self.times.append(1000 * (time.perf_counter() - began))
            time.sleep(ASK_EVERY_S)


def measure(keys: int, pages: int, rounds: int, requests: int, clients: int) -> None:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream, upstream_port = side_by_side.upstream()
        stack.callback(upstream.stop)
        store_port, port = free_port(), free_port()
        store = side_by_side.store(directory, store_port)
        stack.callback(store.stop)
        rig = Rig(directory, upstream_port, 0, directory, store_port, store.process.pid, None)
        target = full(tcp=True, keys=keys)(rig, directory, port)
        stack.callback(target.stop)
        load = Load(cores()[1])
        stack.callback(load.running.stop)
        wait_for(target, port, CLIENT_KEY, START_S)
        config: dict[str, Any] = yaml.safe_load((directory / "quotapool.yaml").read_text())
        admin_port = int(config["admin_listen"].rpartition(":")[2])
        token = (directory / "state" / "admin-token").read_text().strip()

        def once() -> dict[str, float]:
            before = target.cpu()
            said = load.order("whole", requests=requests, clients=clients, port=port, key=CLIENT_KEY)
            if said["errors"]:
                raise RuntimeError(f"{said['errors']} requests failed")
            return {part: spent / requests for part, spent in spent_us(before, target.cpu()).items()}

        load.order("whole", requests=WARM_UP, clients=clients, port=port, key=CLIENT_KEY)
        found: dict[int, list[dict[str, float]]] = {0: [], pages: []}
        times: dict[int, list[float]] = {0: [], pages: []}
        health = Health(admin_port)
        for turn in range(rounds):
            for count in (0, pages) if turn % 2 == 0 else (pages, 0):
                with Pages(admin_port, token, count) as opened:
                    time.sleep(SETTLE_S)
                    seen = len(health.times)
                    found[count].append(once())
                    while len(health.times) == seen:  # a short round may end between two questions
                        time.sleep(ASK_EVERY_S)
                    times[count] += health.times[seen:]
                if count and not opened.read:
                    raise RuntimeError("no stream sent anything")
    print(f"{keys:,} keys, {rounds} rounds of {requests:,} requests, {clients} at a time")
    for count, results in found.items():
        worker, main, in_store = (
            statistics.median(result.get(part, 0.0) for result in results) for part in ("worker", "main", "store")
        )
        spread = max(result["worker"] for result in results) - min(result["worker"] for result in results)
        waited = sorted(times[count])
        print(
            f"{count:3} pages: a request costs a worker {worker:.1f} us (spread {spread:.1f}), "
            f"the store {in_store:.1f} us, the supervisor {main:.1f} us; /healthz "
            f"p50 {waited[len(waited) // 2]:.1f}, p99 {waited[int(0.99 * len(waited))]:.1f}, most {waited[-1]:.1f} ms"
        )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--keys", type=int, default=5_000)
    asked.add_argument("--pages", type=int, default=10)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--requests", type=int, default=6_000)
    asked.add_argument("--clients", type=int, default=32)
    given = asked.parse_args()
    measure(given.keys, given.pages, given.rounds, given.requests, given.clients)


if __name__ == "__main__":
    main()
