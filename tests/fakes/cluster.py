"""A real cluster of Valkeys on 127.0.0.1: three masters and a replica of each, which takes over within seconds.

async with cluster(tmp_path) as nodes:
    move = SlotMove(nodes, "{pool}")    # its slot, to another master, step by step
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import redis
from quotapool.store.valkey_process import valkey_binary

from tests.fakes.valkey import free_port, stop_valkey


@contextlib.asynccontextmanager
async def cluster(directory: Path, *, node_timeout_s: float = 3.0) -> AsyncIterator[dict[int, subprocess.Popen[bytes]]]:
    """Three masters and a replica of each, by port; masters first. `node_timeout_s`: one that is silent for so long is
    replaced, as may be one that a busy machine held up."""
    nodes: dict[int, subprocess.Popen[bytes]] = {}
    try:
        async with asyncio.timeout(60):
            while len(nodes) < 6:
                port = free_port()
                process = _node(directory / str(port), port, node_timeout_s)
                if await _answers(process, port):  # else another program has its port, or the one of its bus
                    nodes[port] = process
        clients = [redis.Redis(port=port) for port in nodes]
        async with asyncio.timeout(60):
            for n, client in enumerate(clients[:3]):
                client.execute_command("CLUSTER ADDSLOTSRANGE", n * 5461, 16383 if n == 2 else n * 5461 + 5460)
            while any(_known(client) < len(nodes) for client in clients):
                for port in list(nodes)[1:]:  # again: who answers late is forgotten
                    clients[0].execute_command("CLUSTER MEET", "127.0.0.1", port)
                await asyncio.sleep(0.1)
            ids = [client.execute_command("CLUSTER MYID").decode() for client in clients]
            for client, master in zip(clients[3:], ids[:3], strict=True):
                while True:
                    with contextlib.suppress(redis.ResponseError):
                        client.execute_command("CLUSTER REPLICATE", master)
                        break
                    await asyncio.sleep(0.1)
            for client in clients:
                while not _is_whole(client):
                    await asyncio.sleep(0.1)
        yield nodes
    finally:
        for process in nodes.values():
            os.kill(process.pid, signal.SIGCONT)
            stop_valkey(process)


def _node(directory: Path, port: int, node_timeout_s: float) -> subprocess.Popen[bytes]:
    directory.mkdir()
    return subprocess.Popen(
        [
            *(str(valkey_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
            *(
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                str(round(1_000 * node_timeout_s)),
                "--dir",
                str(directory),
            ),
        ],
        stdout=subprocess.DEVNULL,
    )


def _known(node: redis.Redis) -> int:
    return int(node.execute_command("CLUSTER INFO")["cluster_known_nodes"])


async def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it has started; False: it has ended."""
    while process.poll() is None:
        with contextlib.suppress(redis.ConnectionError):
            redis.Redis(port=port).ping()
            return process.poll() is None
        await asyncio.sleep(0.02)
    return False


class SlotMove:
    """The slot of `key` on its way from the master that holds it to another one, as redis-cli moves it."""

    def __init__(self, nodes: Iterable[int], key: str) -> None:
        masters = [redis.Redis(port=port) for port in list(nodes)[:3]]
        self.slot = masters[0].execute_command("CLUSTER KEYSLOT", key)
        held = {client: _holds(client, self.slot) for client in masters}
        (self.source,) = [client for client, holds in held.items() if holds]
        self.target = next(client for client, holds in held.items() if not holds)
        self.target_port: int = self.target.connection_pool.connection_kwargs["port"]

    def begin(self) -> None:
        """From here on the source refers calls for keys that it does not have to the target."""
        self.target.execute_command("CLUSTER SETSLOT", self.slot, "IMPORTING", _id(self.source))
        self.source.execute_command("CLUSTER SETSLOT", self.slot, "MIGRATING", _id(self.target))

    def move_keys(self, most: int = 1_000_000) -> int:
        """Move so many keys at most; how many there were."""
        keys = self.source.execute_command("CLUSTER GETKEYSINSLOT", self.slot, most)
        if keys:
            self.source.execute_command("MIGRATE", "127.0.0.1", self.target_port, "", 0, 5000, "REPLACE", "KEYS", *keys)
        return len(keys)

    def end(self) -> None:
        for client in (self.target, self.source):
            client.execute_command("CLUSTER SETSLOT", self.slot, "NODE", _id(self.target))


def _id(node: redis.Redis) -> str:
    return node.execute_command("CLUSTER MYID").decode()


def _holds(node: redis.Redis, slot: int) -> bool:
    ranges = node.execute_command("CLUSTER SLOTS")
    (primary,) = [r[2][2] for r in ranges if r[0] <= slot <= r[1]]
    return primary.decode() == _id(node)


def _is_whole(node: redis.Redis) -> bool:
    """Whether `node` sees every slot served, and a replica behind each master."""
    slots = node.execute_command("CLUSTER SLOTS")
    return node.execute_command("CLUSTER INFO")["cluster_state"] == "ok" and len(str(slots).split("127.0.0.1")) == 7
