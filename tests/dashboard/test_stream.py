"""The dashboard's stream: one reading of the store for all pages, none while nobody listens, bounds for slow ones."""

from __future__ import annotations

import asyncio
import json
import secrets

import msgspec
import pytest
from aiohttp import ClientError, web
from quotapool.admin.access import STILL_VALID
from quotapool.dashboard.stream import MOST_PAGES, Stream
from quotapool.observe.request_store import RequestStore

from tests.fakes.connect import connect


class HowItStands(msgspec.Struct):
    number: int


@pytest.fixture
async def hub(valkey_url, aiohttp_client):
    store = connect(valkey_url)
    state = {"reads": 0, "valid": True}

    async def now():
        state["reads"] += 1
        return HowItStands(state["reads"])

    async def is_valid(_):
        return state["valid"]

    stream = Stream(store, "default", now, every_s=0.02, beat_s=0.05)
    app = web.Application()
    app[STILL_VALID] = is_valid
    stream.add_to(app)
    client = await aiohttp_client(app)
    client.stream, client.store, client.state = stream, store, state
    yield client
    await stream.close()
    await store.close()


class Page:
    def __init__(self, answer):
        self.answer = answer

    async def next(self, name: str):
        """The data of the next event of this name."""
        async with asyncio.timeout(30):
            while True:
                lines = (await self.answer.content.readuntil(b"\n\n")).decode().split("\n")
                if not lines[-1]:
                    lines = [line for line in lines if line]
                found = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
                if found.get("event") == name:
                    return json.loads(found["data"])


async def opened(hub) -> Page:
    return Page(await hub.get("/admin/stream"))


async def test_a_page_is_told_how_the_pool_stands(hub):
    page = await opened(hub)
    assert page.answer.headers["Content-Type"] == "text/event-stream"
    assert page.answer.headers["Cache-Control"] == "no-store"
    first = await page.next("now")
    assert (await page.next("now"))["number"] == first["number"] + 1


async def test_a_page_is_told_of_changes_that_come_after_it_and_not_of_earlier_ones(hub):
    event = {"field": "k/a", "from": "active", "to": "removed", "at": "5.0"}
    await hub.store.client.xadd("qp:{default}:events", {**event, "field": "k/before"})
    page = await opened(hub)
    await page.next("now")
    await hub.store.client.xadd("qp:{default}:events", event)
    (told,) = (await page.next("events"))["events"]
    assert (told["at"], told["data"]) == ("5.0", {"field": "k/a", "from": "active", "to": "removed"})


def packed(name: str) -> list[object]:
    head = [name, 1_795_000_000.0, "app", "chat", "gpt-4o", 200, "", [], False, False, "upstream"]
    attempts = [["a1", "a", "ok", "", 200, 0, 900_000, "req_1"]]
    return [*head, attempts, None, 0, None, 1_000_000, 400, 10, 0, 20, "exact", 5]


async def test_of_many_requests_a_hundred_are_told_and_the_others_counted(hub):
    page = await opened(hub)
    await page.next("now")
    chunk = msgspec.msgpack.encode([packed(f"qp_{n}") for n in range(250)])
    store = RequestStore(hub.store, "default")
    await store.add(chunk, 250, sender=secrets.token_hex(4), number=1, most=1_000)
    told = await page.next("requests")
    assert (len(told["requests"]), told["skipped"]) == (100, 150)
    assert told["requests"][-1]["id"] == "qp_249"


async def test_ten_pages_cost_one_reading_and_none_is_read_for_nobody(hub):
    assert hub.state["reads"] == 0
    pages = [await opened(hub) for _ in range(10)]
    heard = [[(await page.next("now"))["number"] for _ in range(3)] for page in pages]
    assert all(numbers == list(range(numbers[0], numbers[0] + 3)) for numbers in heard)  # each hears each reading
    assert hub.state["reads"] <= max(map(max, heard)) + 1
    for page in pages:
        page.answer.close()
    async with asyncio.timeout(30):
        while "pages=0 reading=False" not in repr(hub.stream):
            await asyncio.sleep(0)


async def test_a_page_beyond_the_bound_is_refused(hub):
    for _ in range(MOST_PAGES):
        await opened(hub)
    answer = await hub.get("/admin/stream")
    assert (answer.status, (await answer.json())["error"]["code"]) == (429, "too_many_streams")


async def test_a_page_that_does_not_keep_up_loses_its_stream_and_others_go_on(hub):
    slow = await opened(hub)
    await slow.next("now")
    (page,) = hub.stream._pages
    quick = await opened(hub)
    for _ in range(40):  # more than may wait for a page, before it has a turn to write one
        page.put(b": filler\n\n")
    with pytest.raises((ClientError, asyncio.IncompleteReadError)):
        await slow.next("nothing that is ever told")
    assert (await quick.next("now"))["number"] > 0


async def test_a_page_that_may_no_longer_listen_is_ended(hub):
    page = await opened(hub)
    await page.next("now")
    hub.state["valid"] = False
    async with asyncio.timeout(30):
        assert (await page.answer.content.read()).endswith(b"\n\n")


async def test_all_streams_end_at_once_when_the_hub_closes(hub):
    pages = [await opened(hub) for _ in range(10)]
    await hub.stream.close()
    async with asyncio.timeout(30):
        for page in pages:
            await page.answer.content.read()
    assert (await hub.get("/admin/stream")).status == 429
