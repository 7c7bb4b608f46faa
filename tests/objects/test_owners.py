"""Owners of objects in a real Valkey: what is written is found, by the clients that may, as long as it is kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from quotapool.objects.layout import OwnerLayout, owner_of
from quotapool.objects.owners import ObjectOwners
from quotapool.openai.ids import BATCH, CONVERSATION, FILE, ITEM, RESPONSE
from quotapool.store.store import StoreLost

from tests.fakes.connect import connect
from tests.fakes.store import wire

MONTH_S = 30 * 86_400.0
RESP = (RESPONSE, "resp_1")


class Counted:
    def __init__(self) -> None:
        self.unwritten = 0

    def objects_unwritten(self, records: int) -> None:
        self.unwritten += records


@contextlib.asynccontextmanager
async def opened(url: str, observer: Counted | None = None) -> AsyncIterator[ObjectOwners]:
    store = connect(url)
    owners = ObjectOwners(store, "default", retention_s=MONTH_S, observer=observer or Counted())
    try:
        yield owners
    finally:
        await owners.close()
        await store.close()


async def write(owners: ObjectOwners, refs: list[tuple], account: str, client: str = "") -> None:
    task = owners.remember(refs, account, client)
    assert task is not None
    await task


async def test_another_process_finds_what_one_wrote(valkey_url):
    async with opened(valkey_url) as one, opened(valkey_url) as other:
        await write(one, [(FILE, "file-1"), RESP, (CONVERSATION, "conv_1"), (ITEM, "msg_1")], "acme", "alice")
        refs = [(FILE, "file-1"), RESP, (CONVERSATION, "conv_1"), (ITEM, "msg_1"), (FILE, "file-none")]
        assert await other.find(refs, "alice") == [owner_of("acme", "alice")] * 4 + [None]
        assert await other.find([RESP], "bob") == [owner_of("acme", "alice")]  # any client's look-up returns the owner


async def test_the_first_owner_counts(valkey_url):
    async with opened(valkey_url) as one, opened(valkey_url) as other:
        await write(one, [(FILE, "file-1")], "acme", "alice")
        await write(other, [(FILE, "file-1")], "beta", "bob")
        async with opened(valkey_url) as third:
            assert await third.find([(FILE, "file-1")], "") == [owner_of("acme", "alice")]


async def test_a_deleted_record_is_not_found(valkey_url):
    async with opened(valkey_url) as owners:
        await write(owners, [(FILE, "file-1"), RESP], "acme")
        assert await owners.forget((FILE, "file-1"))
        assert await owners.forget(RESP)
        assert not await owners.forget(RESP)
        assert await owners.find([(FILE, "file-1"), RESP], "") == [None, None]


async def test_files_are_listed_by_name_and_responses_are_not(valkey_url):
    async with opened(valkey_url) as owners:
        await write(owners, [(FILE, "file-1"), (BATCH, "batch_1"), RESP], "acme", "alice")
        rows = await owners.all()
        assert {(row.id, row.account, row.client) for row in rows} == {
            ("file-1", "acme", "alice"),
            ("batch_1", "acme", "alice"),
        }
        assert all(abs(row.created - time.time()) < 60 for row in rows)


async def test_a_response_is_remembered_for_its_retention_and_not_much_longer(valkey_url):
    """Retention 30 days, divided into eight periods: a record ends between 30 and 33.75 days after it was written."""
    async with opened(valkey_url) as owners:
        await write(owners, [RESP], "acme")
        client = owners._store.client
        (key,) = await client.keys("*")
        left = await client.ttl(key)
        assert MONTH_S <= left <= MONTH_S * 9 / 8 + 2


def test_a_look_up_reads_every_key_that_may_have_the_record():
    layout = OwnerLayout("default", MONTH_S).of(RESPONSE)
    begun = 1_800_000_000.0
    for age in (0.0, MONTH_S / 3, MONTH_S - 1):
        written = layout.write_key("resp_1", begun)
        assert written.expires >= begun + MONTH_S
        assert (written.key, written.field) in [(p.key, p.field) for p in layout.read_keys("resp_1", begun + age)]


async def test_clients_keep_their_home_account(valkey_url):
    async with opened(valkey_url) as one, opened(valkey_url) as other:
        assert await one.home_account("alice") is None
        await one.set_home_account("alice", "acme")
        assert await other.home_account("alice") == "acme"
        assert await other.home_account("") is None


async def test_what_the_store_does_not_take_is_written_when_it_is_back(valkey_url, virtual_time, tmp_path):
    """A failed write fails nobody; this process knows the owner meanwhile; it is counted, and written later."""
    observer = Counted()
    async with wire(valkey_url, tmp_path) as network, opened(network.url, observer) as owners:
        network.lose(0, "down")
        await write(owners, [(FILE, "file-1")], "acme", "alice")
        assert observer.unwritten == 1
        assert await owners.find([(FILE, "file-1")], "alice") == [owner_of("acme", "alice")]
        with pytest.raises(StoreLost):
            await owners.find([(FILE, "file-2")], "alice")
        network.heal()
        async with asyncio.timeout(60), opened(valkey_url) as other:
            while await other.find([(FILE, "file-1")], "alice") == [None]:
                await asyncio.sleep(0.1)
