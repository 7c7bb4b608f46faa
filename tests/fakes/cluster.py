"""A real cluster of Valkeys on 127.0.0.1: three masters and a replica of each, which takes over within seconds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import redis
from quotapool.store.valkey_process import valkey_binary

from tests.fakes.valkey import free_port, stop_valkey


@contextlib.asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[dict[int, subprocess.Popen[bytes]]]:
    """Three masters and a replica of each, by port; masters first."""
    nodes: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for _ in range(6):
            port = free_port()
            (directory / str(port)).mkdir()
            nodes[port] = subprocess.Popen(
                [
                    *(str(valkey_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
                    *("--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--dir", str(directory / str(port))),
                ],
                stdout=subprocess.DEVNULL,
            )
        clients = [redis.Redis(port=port) for port in nodes]
        async with asyncio.timeout(30):
            for client in clients:
                while True:
                    with contextlib.suppress(redis.ConnectionError):
                        client.ping()
                        break
                    await asyncio.sleep(0.02)
            for n, client in enumerate(clients[:3]):
                client.execute_command("CLUSTER ADDSLOTSRANGE", n * 5461, 16383 if n == 2 else n * 5461 + 5460)
            for port in list(nodes)[1:]:
                clients[0].execute_command("CLUSTER MEET", "127.0.0.1", port)
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


def _is_whole(node: redis.Redis) -> bool:
    """Whether `node` sees every slot served, and a replica behind each master."""
    slots = node.execute_command("CLUSTER SLOTS")
    return node.execute_command("CLUSTER INFO")["cluster_state"] == "ok" and len(str(slots).split("127.0.0.1")) == 7
