"""A client key serves from the moment it is made, and whoever tries wrong ones makes no work of it."""

from __future__ import annotations

import asyncio
import time

import pytest
from quotapool.ledger.clients import ClientStore, digest

from tests.fakes.edge import Client, chat_body

OLD, NEW = "qp-a-key-that-was-there-before", "qp-a-key-that-was-made-just-now"


@pytest.fixture
async def pool(open_pool):
    """With one client, which this process knows, and its store's `mget` counted."""
    house = await open_pool({"a": 1}, clients=[{"id": "old", "key": OLD}])
    house.looks = 0
    ask = house.store.client.mget

    def counted(*keys):
        house.looks += 1
        return ask(*keys)

    house.store.client.mget = counted
    return house


async def test_a_key_serves_at_once_after_it_was_made_elsewhere(pool):
    assert (await pool.ask(Client(chat_body(), key=NEW))).status == 401
    await ClientStore(pool.store, pool.settings.pool).add("new", digest(NEW))
    assert (await pool.ask(Client(chat_body(), key=NEW))).status == 200


async def test_a_thousand_wrong_keys_at_once_ask_the_store_one_time(pool):
    answers = await asyncio.gather(*(pool.ask(Client(chat_body(), key=f"qp-wrong-{n:020}")) for n in range(1000)))
    assert {answer.error["code"] for answer in answers} == {"invalid_proxy_key"}
    assert pool.looks == 1


async def test_wrong_keys_one_after_another_ask_it_twenty_times_a_second_and_right_ones_never(pool):
    began = time.monotonic()
    for _ in range(100):
        assert (await pool.ask(Client(chat_body(), key="qp-a-wrong-one-a-wrong-one"))).status == 401
    assert pool.looks == 100
    assert time.monotonic() - began >= 99 / 20
    for _ in range(10):
        assert (await pool.ask(Client(chat_body(), key=OLD))).status == 200
    assert pool.looks == 100


async def test_without_the_store_a_wrong_key_is_wrong_and_a_known_one_served(pool):
    pool.lose_the_store()
    assert (await pool.ask(Client(chat_body(), key=NEW))).status == 401
    assert (await pool.ask(Client(chat_body(), key=OLD))).status == 200
