"""A batch's call in a Cluster: over the lean connection to whichever node holds the slot, also while that changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import hiredis
import pytest
from quotapool.domain.quantities import Cost, Limits
from quotapool.ledger.grants import Granted
from quotapool.store.store import Script, Store, StoreLost

from tests.fakes.cluster import SlotMove, cluster
from tests.fakes.connect import connect
from tests.fakes.listening import listening
from tests.fakes.store import StoreLog, candidate, granted, ledger_on

COUNT = Script("count", b"return tostring(redis.call('INCRBY', KEYS[1], ARGV[1]))")
SUM = Script("sum", b"return tostring(redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2]))")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> Iterator[list[int]]:
    """The ports of a cluster that the tests here share; each has a slot of its own."""
    with asyncio.Runner() as runner:
        running = cluster(tmp_path_factory.mktemp("cluster"))
        yield list(runner.run(running.__aenter__()))
        runner.run(running.__aexit__(None, None, None))


@pytest.fixture
async def store(nodes) -> AsyncIterator[Store]:
    made = connect(f"redis+cluster://127.0.0.1:{nodes[0]}")
    yield made
    await made.close()


def port_of(store: Store, key: str) -> int:
    return store.client.get_node_from_key(key).port


async def test_each_pool_is_called_at_the_node_that_has_its_slot(store, nodes):
    pools = ["{a}", "{b}", "{c}", "{d}", "{e}", "{f}"]
    for pool in pools * 2:
        await store.evalsha_batch(COUNT, pool, b"1")
    assert {port_of(store, pool) for pool in pools} == set(nodes[:3])
    assert [await store.client.get(pool) for pool in pools] == [b"2"] * 6


async def test_a_slot_that_has_moved_is_followed_within_the_call_which_runs_once(store, nodes):
    assert await store.evalsha_batch(COUNT, "{moved}:n", b"1") == b"1"
    move = SlotMove(nodes, "{moved}:n")
    move.begin()
    move.move_keys()
    move.end()
    before = port_of(store, "{moved}:n")
    assert await store.evalsha_batch(COUNT, "{moved}:n", b"1") == b"2"
    assert port_of(store, "{moved}:n") != before  # redis-py knows it too
    assert await store.client.get("{moved}:n") == b"2"


async def test_a_key_that_has_gone_ahead_of_its_slot_is_found_where_it_is(store, nodes):
    assert await store.evalsha_batch(COUNT, "{ask}:n", b"1") == b"1"
    move = SlotMove(nodes, "{ask}:n")
    move.begin()
    assert await store.evalsha_batch(COUNT, "{ask}:n", b"1") == b"2"
    move.move_keys()
    assert await store.evalsha_batch(COUNT, "{ask}:n", b"1") == b"3"
    move.end()
    assert await store.evalsha_batch(COUNT, "{ask}:n", b"1") == b"4"


async def test_a_call_for_keys_that_are_in_two_places_does_nothing_until_they_are_in_one(store, nodes):
    async def call() -> bytes:
        return await store.evalsha_batch(SUM, "{two}:a", further_keys=lambda: ["{two}:b"])

    assert await call() == b"2"
    move = SlotMove(nodes, "{two}")
    move.begin()
    assert move.move_keys(1) == 1
    for _ in range(3):
        with pytest.raises(StoreLost) as lost:
            await call()
        assert (lost.value.reason, lost.value.sent) == ("cluster_down", False)
    move.move_keys()
    move.end()
    assert await call() == b"4"


async def test_while_a_pools_slot_moves_its_batches_wait_and_no_budget_is_forgotten(store, nodes):
    # Given an account of 10,000 requests a day, of which it holds 9,999.9 at once and gains one in 8.6 seconds
    log, account = StoreLog(), candidate("a", Limits(rpm=1_000_000, rpd=10_000))
    ledger = ledger_on(store, "slow", patience_s=20.0, observer=log)
    await ledger.registry.begin_epoch(reseeded=False)
    await granted(ledger, "gpt-4o", Cost(9_995), [account])
    await ledger.flush()
    # If one key after another moves to another node while two ask for three of the 4.9 that are left
    move = SlotMove(nodes, ledger.prefix)
    move.begin()
    asking = [asyncio.create_task(ledger.reserve("gpt-4o", Cost(3), [account])) for _ in range(2)]
    async with asyncio.timeout(30):
        while "cluster_down" not in log.failures:
            await asyncio.sleep(0)
    while move.move_keys(1):
        await asyncio.sleep(0)
    assert not any(task.done() for task in asking)
    move.end()
    # I expect that one of them gets it, and that nobody was told of an error
    answers = await asyncio.gather(*asking)
    assert sorted(isinstance(answer, Granted) for answer in answers) == [False, True]
    assert set(log.failures) == {"cluster_down"}


@contextlib.asynccontextmanager
async def node_that(replies: list[bytes]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """(URL, names of the commands seen) of a cluster of one node, which gives `replies` to scripts, the last one again
    and again; b"" hangs up."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("sockname")
        commands = hiredis.Reader()
        while data := await reader.read(65536):
            commands.feed(data)
            while (command := commands.gets()) is not False:
                name = command[0].upper()
                seen.append(name)
                reply = b"*0\r\n"  # COMMAND
                if name == b"CLUSTER":
                    reply = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$%d\r\n%b\r\n:%d\r\n" % (len(host), host.encode(), port)
                elif name == b"EVALSHA":
                    reply = replies.pop(0) if len(replies) > 1 else replies[0]
                writer.write(reply.replace(b"PORT", b"%d" % port))
                if not reply:
                    writer.close()
                    return
        writer.close()

    async with listening(asyncio.start_server(serve, "127.0.0.1", 0)) as server:
        yield f"redis+cluster://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen


async def test_redirections_without_end_end_as_an_error_and_nothing_ran():
    async with node_that([b"-MOVED 1 127.0.0.1:PORT\r\n"]) as (url, seen):
        store = connect(url)
        with pytest.raises(StoreLost) as lost:
            await store.evalsha_batch(COUNT, "{pool}", b"1")
        assert (lost.value.reason, lost.value.sent) == ("cluster_down", False)
        assert 1 < seen.count(b"EVALSHA") < 10
        await store.close()


async def test_a_redirection_that_names_no_host_means_the_same_host():
    async with node_that([b"-MOVED 1 :PORT\r\n", b"$2\r\nok\r\n"]) as (url, seen):
        store = connect(url)
        assert await store.evalsha_batch(COUNT, "{pool}", b"1") == b"ok"
        assert seen.count(b"EVALSHA") == 2
        await store.close()


async def test_a_call_whose_reply_is_lost_is_not_repeated_and_after_two_the_slots_are_read_again():
    async with node_that([b"", b"", b"$2\r\nok\r\n"]) as (url, seen):
        store = connect(url)
        for calls in (1, 2):
            with pytest.raises(StoreLost) as lost:
                await store.evalsha_batch(COUNT, "{pool}", b"1")
            assert (lost.value.reason, lost.value.sent) == ("closed", True)
            assert seen.count(b"EVALSHA") == calls
            assert seen.count(b"CLUSTER") == 1
        assert await store.evalsha_batch(COUNT, "{pool}", b"1") == b"ok"
        assert seen.count(b"CLUSTER") == 2
        await store.close()
