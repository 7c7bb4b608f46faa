"""What the ledger's script costs the store, by the number of accounts and of requests in a batch.

Each call reserves for so many requests, on accounts chosen at random, and settles as many earlier ones with what
upstream's headers showed, as a worker under load does it. One connection, no persistence. What is shown is the CPU time
of the store's main thread, network included, for a request (a reserve and a settle); the least of several rounds.

    python benchmarks/script_cost.py
    python benchmarks/script_cost.py --script one.lua --script other.lua     # beside each other in the same rounds
"""

from __future__ import annotations

import argparse
import random
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from quotapool.ledger.batches import ledger_script
from quotapool.ledger.grants import candidate_of, packed_terms
from quotapool.ledger.messages import packed_array
from quotapool.ledger.msgpack import raw_string
from reserve_cost import own_store

ACCOUNTS = (10, 1_000, 10_000)
BATCHES = (1, 8, 32)
SCRIPT = ledger_script().text
WRITTEN = (-1, -1, -1, -1, -1)  # limits that nobody configured: learned from headers, as in most pools
LIMITS = {1: 1e7, 2: 1e10}  # what upstream's headers name: requests and tokens a minute
TOKENS = 500


class Connection:
    """RESP, one call at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.reader = self.socket.makefile("rb")

    def call(self, *words: bytes | str | int) -> Any:
        encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in encoded))
        return self._answer()

    def _answer(self) -> Any:
        line = self.reader.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"$":
            return self.reader.read(int(rest) + 2)[:-2] if rest != b"-1" else None
        return int(rest) if kind == b":" else rest

    def cpu_us(self) -> float:
        told = dict(line.split(":") for line in self.call("INFO", "cpu").decode().split("\r\n") if ":" in line)
        return 1e6 * (float(told["used_cpu_user_main_thread"]) + float(told["used_cpu_sys_main_thread"]))


@dataclass
class Scene:
    """One script on one pool."""

    store: Connection
    sha: bytes
    pool: str
    accounts: int
    batch: int
    rng: random.Random
    rules: int = 0  # of the one client that asks
    calls: int = 0
    settles: list[list[Any]] = field(default_factory=list)  # that are due with the next call
    least_us: float = float("inf")

    def use_each_account(self) -> None:
        """As in a pool that has been at work: each has a bucket, and limits that upstream named."""
        self.store.call("SET", f"{self.pool}:epoch", "f:1")  # else buckets begin empty
        for account in range(self.accounts):
            self.settles.append(self.settle(account, [1, 1, 0, 0, False, []]))
            if len(self.settles) == 100 or account == self.accounts - 1:
                self.call(requests=0)

    def call(self, requests: int | None = None) -> None:
        """`requests`: how many to reserve for; None: the batch."""
        chosen = [self.rng.randrange(self.accounts) for _ in range(self.batch if requests is None else requests)]
        results = self.ask(self.settles + [self.reserve(account) for account in chosen])[len(self.settles) :]
        self.settles = [self.settle(account, granted) for account, granted in zip(chosen, results, strict=True)]

    def ask(self, items: list[list[Any]]) -> list[list[Any]]:
        self.calls += 1
        name, last, packed = f"b.{self.calls}", f"b.{self.calls - 1}", msgspec.msgpack.encode(items)
        answer = self.store.call("EVALSHA", self.sha, 1, self.pool, name, packed, "", "0", last)
        results: list[list[Any]] = msgspec.msgpack.decode(answer)[3]
        return results

    def reserve(self, n: int) -> list[Any]:
        candidate = candidate_of(
            account=f"acct-{n}", key=f"key-{n}", account_fingerprint="a" * 16, key_fingerprint="k" * 16, written=WRITTEN
        )
        item = [1, "gpt-4o", 1, TOKENS, 0, True, 0.5, packed_array([candidate.packed]), [], 0, "", 1.0, False]
        if not self.rules:
            return item
        rules = [[f"usd/{n}", 3, 1e15, True, 2e9, 2.1e9, 0] for n in range(self.rules)]
        return [*item, [raw_string(msgspec.msgpack.encode([["c/app", rules]])), [1e6] * self.rules]]

    def settle(self, n: int, granted: list[Any]) -> list[Any]:
        assert granted[0] == 1, granted
        flat = granted[5]
        moments = {int(flat[at]): flat[at + 1 : at + 7] for at in range(0, len(flat), 8)}
        unbounded = [-1e18, -1e18, 0, 0, 0, 0]
        evidence = [[i, limit, limit - 600, *moments.get(i, unbounded)] for i, limit in LIMITS.items()]
        item = [2, "gpt-4o", f"acct-{n}", packed_terms(WRITTEN, 60.0), 0, 0, 0, 100, 0, granted[2], evidence, 0]
        if not self.rules:
            return item
        rules = [word for n in range(self.rules) for word in (f"usd/{n}", 3)]
        return [*item, [raw_string(msgspec.msgpack.encode([["c/app", rules]])), [1e6] * self.rules, [9e5] * self.rules]]

    def round(self, requests: int) -> None:
        calls = max(1, requests // self.batch)
        before = self.store.cpu_us()
        for _ in range(calls):
            self.call()
        self.least_us = min(self.least_us, (self.store.cpu_us() - before) / (calls * self.batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, action="append", help="another to compare the ledger's own with")
    parser.add_argument("--accounts", type=int, nargs="*", default=ACCOUNTS)
    parser.add_argument("--batch", type=int, nargs="*", default=BATCHES, help="requests in a batch")
    parser.add_argument("--requests", type=int, default=6_400, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rules", type=int, nargs="*", default=[0], help="of the client that asks")
    options = parser.parse_args()
    scripts: list[bytes] = [path.read_bytes() for path in options.script or ()] or [SCRIPT]
    if options.script:
        scripts.append(SCRIPT)
    kinds = [(n, rules) for n in range(len(scripts)) for rules in options.rules]
    with own_store() as url:
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(url.removeprefix("unix://"))
        store = Connection(connected)
        shas = [store.call("SCRIPT", "LOAD", text) for text in scripts]
        scenes = [
            [
                Scene(store, shas[n], f"{{p{n}-{rules}-{accounts}-{batch}}}", accounts, batch, random.Random(1), rules)
                for n, rules in kinds
            ]
            for accounts in options.accounts
            for batch in options.batch
        ]
        for beside in scenes:
            for scene in beside:
                scene.use_each_account()
            for _ in range(options.rounds):
                for scene in beside:
                    scene.round(options.requests)
    names = [*(path.name for path in options.script or ()), "the ledger's own"]
    columns = "".join(f"\n  {n}: {names[script]}, {rules} rules" for n, (script, rules) in enumerate(kinds))
    print(f"store CPU, microseconds a request{columns}")
    print(f"{'accounts':>9} {'batch':>6}" + "".join(f"{n:>9}" for n in range(len(kinds))) + "    ratio")
    for beside in scenes:
        figures = [scene.least_us for scene in beside]
        columns = "".join(f"{figure:9.1f}" for figure in figures)
        print(f"{beside[0].accounts:9} {beside[0].batch:6}{columns}{figures[-1] / figures[0]:9.2f}")


if __name__ == "__main__":
    main()
