"""A server that is no longer the right one, behind the same name: connections are dropped, the right one is found."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from quotapool.store.store import Script, StoreLost

from tests.fakes.cluster import cluster
from tests.fakes.connect import connect
from tests.fakes.listening import listening
from tests.fakes.valkey import running_valkey

COUNT = Script("count", b"return tostring(redis.call('INCRBY', KEYS[1], ARGV[1]))")


@contextlib.asynccontextmanager
async def name(path: Path, leads_to: list[str]) -> AsyncIterator[str]:
    """A socket that leads new connections to the last socket of `leads_to`, and leaves open ones as they are."""

    async def pump(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader, writer):
        there = await asyncio.open_unix_connection(leads_to[-1].removeprefix("unix://"))
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    async with listening(asyncio.start_unix_server(serve, path)):
        yield f"unix://{path}"


async def test_after_roles_were_swapped_behind_a_name_the_new_primary_is_used(tmp_path):
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
    with running_valkey(tmp_path / "one") as one, running_valkey(tmp_path / "other") as other:
        leads_to = [one]
        async with name(tmp_path / "name", leads_to) as url:
            store = connect(url)
            assert await store.evalsha_batch(COUNT, "n", b"1") == b"1"
            await asyncio.gather(*(store.guard(store.client.incr("m")) for _ in range(5)))  # open connections
            # If the server becomes a replica, and the name leads to another one, while connections stay open
            for url_of, role in ((one, ("127.0.0.1", "1")), (other, ("NO", "ONE"))):
                with redis.Redis(unix_socket_path=url_of.removeprefix("unix://")) as client:
                    client.replicaof(*role)
            leads_to.append(other)
            # I expect each way of calling to fail once, with the server's words, and then to use the new one
            for call in (
                lambda: store.evalsha_batch(COUNT, "n", b"1"),
                lambda: store.evalsha(COUNT, ["n"], [1]),
                lambda: store.guard(store.client.incr("m")),
            ):
                with contextlib.suppress(StoreLost):
                    await call()
                await call()
            with redis.Redis(unix_socket_path=other.removeprefix("unix://")) as client:
                assert int(client.get("n")) >= 2
                assert int(client.get("m")) >= 1
            await store.close()


async def test_a_read_only_reply_says_so_in_the_servers_words_and_nothing_ran(tmp_path):
    with running_valkey(tmp_path, "--replicaof", "127.0.0.1", "1") as url:
        store = connect(url)
        for call in (store.evalsha_batch(COUNT, "n", b"1"), store.evalsha(COUNT, ["n"], [1])):
            with pytest.raises(StoreLost, match="read only replica") as lost:
                await call
            assert (lost.value.reason, lost.value.sent) == ("read_only", False)
        await store.close()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("-ERR max number of clients reached", "server"),
        ("-ERR upstream failure", "server"),  # of a proxy
        ("-READONLY You can't write against a read only replica.", "read_only"),
        # Redis before 7
        ("-ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -READONLY You can't.", "read_only"),
        ("-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", "server"),
    ],
)
async def test_an_error_of_the_server_is_no_error_of_the_script(tmp_path, reply, reason):
    replies = [reply, "$2\r\nok"]

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                writer.write(f"{replies.pop(0)}\r\n".encode())

    async with listening(asyncio.start_unix_server(serve, tmp_path / "s")):
        store = connect(f"unix://{tmp_path}/s")
        with pytest.raises(StoreLost) as lost:
            await store.evalsha_batch(COUNT, "n", b"1")
        assert lost.value.reason == reason
        assert lost.value.detail == reply[1:]
        assert await store.evalsha_batch(COUNT, "n", b"1") == b"ok"
        await store.close()


@pytest.mark.parametrize("waits", [True, False])
async def test_a_server_that_takes_no_more_clients_is_quoted_though_it_hangs_up(tmp_path, waits):
    refuses = True

    async def serve(reader, writer):
        if not refuses:
            await reader.read(65536)
            writer.write(b"$2\r\nok\r\n")
            return
        if waits:
            await reader.read(65536)
        writer.write(b"-ERR max number of clients reached\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()

    async with listening(asyncio.start_unix_server(serve, tmp_path / "s")):
        store = connect(f"unix://{tmp_path}/s")
        for call in (store.evalsha_batch, lambda *_: store.evalsha(COUNT, ["n"], [1])):
            with pytest.raises(StoreLost, match="max number of clients"):
                await call(COUNT, "n", b"1")
        refuses = False
        assert await store.evalsha_batch(COUNT, "n", b"1") == b"ok"
        await store.close()


async def counted(store, within_s: float) -> bytes:
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await store.evalsha_batch(COUNT, "{pool}:n", b"1")
            except StoreLost:
                await asyncio.sleep(0.1)


async def test_in_a_cluster_a_hung_masters_replica_is_found(tmp_path):
    async with cluster(tmp_path, node_timeout_s=0.5) as nodes:
        first = next(iter(nodes))
        store = connect(f"redis+cluster://127.0.0.1:{first}", timeout_s=0.5)
        assert await counted(store, 5) == b"1"
        holder = store.client.get_node_from_key("{pool}:n")
        nodes_replica_has_it = redis.Redis(port=holder.port).execute_command("WAIT", 1, 2000)
        assert nodes_replica_has_it == 1
        # If the master that holds the pool hangs, without closing a connection
        os.kill(nodes[holder.port].pid, signal.SIGSTOP)
        # I expect the replica that takes over to be used, some timeouts later
        assert await counted(store, 15) == b"2"
        await store.close()
