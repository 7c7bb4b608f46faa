"""How many requests a second one pool can take: the ledger's script, driven until the core of its store is full.

Some connections, as many workers, each have two batches under way, so that the store never waits for one. A batch
reserves for so many requests and settles as many earlier ones, on accounts chosen at random. The commands are encoded
beforehand, over TCP, so that the driver costs less than the store; each has one core where there are two.

    python benchmarks/pool_capacity.py
    python benchmarks/pool_capacity.py --accounts 1000 --batch 8 --persistent

CPU is the scheduler's count of all threads of the store (`/proc/<pid>/task/*/schedstat`, kernel time included). Others
may use the core as well, so "by CPU" is what a core of its own would do (one second / CPU of a request), and "by the
clock" what was seen. Medians of the rounds, the least and the greatest in parentheses.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from quotapool.store.valkey_process import valkey_binary
from rig.processes import Running, cores, free_port, spent_us
from rig.report import spread
from script_cost import ACCOUNTS, BATCHES, SCRIPT, Connection, Scene

WORKERS, UNDER_WAY = 16, 2
FEWEST_BODIES = 512
LATEST = 1e12  # a settle's time of reservation: the script takes the bucket's own, so it is the newest evidence


@dataclass(frozen=True, slots=True)
class Round:
    requests: int
    store_us: float
    seconds: float

    @property
    def us(self) -> float:
        """Microseconds of the store's CPU for a request."""
        return self.store_us / self.requests

    @property
    def busy(self) -> float:
        return self.store_us / self.seconds / 1e6


class Caller:
    """One connection. `answer` is the last one, whole."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answered = b"0" * 12
        self.under_way: list[bytes] = []
        self.answer = b""
        self._received = b""

    def send(self, command: bytes, name: bytes) -> None:
        self.under_way.append(name)
        self.socket.sendall(command)

    def receive(self) -> int:
        """How many answers came."""
        self._received += self.socket.recv(1 << 18)
        count = 0
        while (line := self._received.find(b"\r\n")) > 0:
            if self._received[:1] != b"$":
                raise RuntimeError(self._received[:200].decode())
            end = line + 2 + int(self._received[1:line])
            if len(self._received) < end + 2:
                break
            self.answer, self._received = self._received[line + 2 : end], self._received[end + 2 :]
            self.answered = self.under_way.pop(0)
            count += 1
        return count


class Driver:
    """One pool's batches of one size."""

    def __init__(self, scene: Scene, port: int) -> None:
        self.scene = scene
        self.names = itertools.count(1)
        self.bodies = itertools.cycle(self._bodies())
        self.callers = [Caller(port) for _ in range(WORKERS)]
        words = b"EVALSHA", scene.sha, b"1", scene.pool.encode()
        self.head = b"*9\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words) + b"$12\r\n"

    def _bodies(self) -> list[bytes]:
        """Enough of them that each account has its turn. Settles show what was predicted, as most answers do."""
        scene, rng = self.scene, self.scene.rng
        settles = []
        for n in range(scene.accounts):
            settle = scene.settle(n, scene.ask([scene.reserve(n)])[0])
            settle[9] = LATEST
            for evidence in settle[10]:
                evidence[2] = evidence[3]  # remaining: the prediction
            settles.append(settle)
        reserves = [scene.reserve(n) for n in range(scene.accounts)]
        bodies = []
        for _ in range(max(FEWEST_BODIES, 4 * scene.accounts // scene.batch)):
            items = rng.choices(settles, k=scene.batch) + rng.choices(reserves, k=scene.batch)
            packed = msgspec.msgpack.encode(items)
            bodies.append(b"$%d\r\n%b\r\n$0\r\n\r\n$1\r\n0\r\n$12\r\n" % (len(packed), packed))
        return bodies

    def send(self, caller: Caller) -> None:
        name = b"%012d" % next(self.names)
        caller.send(b"%b%b\r\n%b%b\r\n" % (self.head, name, next(self.bodies), caller.answered), name)

    def run(self, seconds: float) -> int:
        """Requests that were answered; all callers are idle afterwards."""
        until, calls = time.perf_counter() + seconds, 0
        with selectors.EpollSelector() as selector:
            for caller in self.callers:
                selector.register(caller.socket, selectors.EVENT_READ, caller)
                for _ in range(UNDER_WAY):
                    self.send(caller)
            busy = len(self.callers)
            while busy:
                for key, _ in selector.select():
                    caller = key.data
                    came = caller.receive()
                    calls += came
                    if time.perf_counter() < until:
                        for _ in range(came):
                            self.send(caller)
                    elif came and not caller.under_way:
                        busy -= 1
        for caller in self.callers:
            results = msgspec.msgpack.decode(caller.answer)[3]
            assert all(result[0] == 1 for result in results[self.scene.batch :]), "a reserve was refused"
        return calls * self.scene.batch

    def round(self, store: Running, seconds: float) -> Round:
        before, began = store.cpu(), time.perf_counter()
        requests = self.run(seconds)
        return Round(requests, spent_us(before, store.cpu())["store"], time.perf_counter() - began)


@contextlib.contextmanager
def pinned_store(*, persistent: bool) -> Iterator[tuple[Running, int]]:
    """A Valkey of this benchmark's own on the first core, over TCP. `persistent`: as the embedded one."""
    usable = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        command = [str(valkey_binary()), "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", ""]
        command += ["--appendonly", "yes" if persistent else "no", "--appendfsync", "everysec"]
        store = Running.start(command, cores()[0], Path(directory, "log"))
        os.sched_setaffinity(0, cores()[1])
        try:
            for _ in range(500):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.01)
            yield store, port
        finally:
            os.sched_setaffinity(0, usable)
            store.stop()


def row(accounts: int, batch: int, rounds: list[Round]) -> str:
    by_cpu, by_clock = [1e6 / r.us for r in rounds], [r.requests / r.seconds for r in rounds]
    return (
        f"| {accounts:,} | {batch} | {spread([r.us for r in rounds])} | {spread(by_cpu)} "
        f"| {spread(by_clock)} | {statistics.median(r.busy for r in rounds):.0%} |"
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--accounts", type=int, nargs="*", default=list(ACCOUNTS))
    asked.add_argument("--batch", type=int, nargs="*", default=list(BATCHES), help="requests in a batch")
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--seconds", type=float, default=1.2, help="a round")
    asked.add_argument("--persistent", action="store_true", help="the store writes its file, as the embedded one does")
    given = asked.parse_args()
    with pinned_store(persistent=given.persistent) as (store, port):
        connection = Connection(socket.create_connection(("127.0.0.1", port)))
        sha = connection.call("SCRIPT", "LOAD", SCRIPT)
        drivers = []
        for accounts, batch in itertools.product(given.accounts, given.batch):
            scene = Scene(connection, sha, f"{{p-{accounts}-{batch}}}", accounts, batch, random.Random(1))
            scene.use_each_account()
            drivers.append(Driver(scene, port))
            drivers[-1].run(given.seconds / 4)
        found: list[list[Round]] = [[] for _ in drivers]
        for _ in range(given.rounds):
            for driver, rounds in zip(drivers, found, strict=True):
                rounds.append(driver.round(store, given.seconds))
    print("| accounts | batch | store CPU µs a request | requests/s by CPU | requests/s by the clock | core in use |")
    print("|---:|---:|---:|---:|---:|---:|")
    for driver, rounds in zip(drivers, found, strict=True):
        print(row(driver.scene.accounts, driver.scene.batch, rounds))


if __name__ == "__main__":
    main()
