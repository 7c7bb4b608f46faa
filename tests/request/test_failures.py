"""Broken connections: what may be sent again, what never, and who pays for it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import pytest

from tests.fakes.edge import DONE, Client, Reply, chat_answer, chat_body, delta, error, fails, failure, stream

JSON = (("Content-Type", "application/json"),)


def chat() -> Client:
    return Client(chat_body())


def background() -> Client:
    body = {"model": "gpt-4o", "input": "hi", "max_output_tokens": 1000, "background": True}
    return Client(json.dumps(body).encode(), target="/v1/responses")


def image() -> Client:
    return Client(json.dumps({"model": "gpt-4o", "prompt": "a cat"}).encode(), target="/v1/images/generations")


def upload() -> Client:
    form = (("Content-Type", "multipart/form-data; boundary=x"),)
    return Client([b"--x\r\n", b"data", b"\r\n--x--"], target="/v1/files", more_headers=form)


def listing() -> Client:
    return Client(method="GET", target="/v1/models", more_headers=())


UNSENT, LOST, LATE = fails("connect", sent=False), fails("reset"), fails("timeout")
HALF = Reply(pieces=[b'{"choices": [', failure("reset")])
NO_TLS = fails("tls", sent=False)


@dataclass
class Row:
    client: object
    reply: Reply
    again: bool
    status: int = 200
    code: str = ""

    @property
    def name(self) -> str:
        before = self.reply.before
        what = "cut short" if before is None else f"{before.reason} {'sent' if before.sent else 'unsent'}"
        return f"{self.client.__name__}, {what}"


TABLE = [
    # replayable: tried again whatever happened
    Row(chat, UNSENT, True),
    Row(chat, NO_TLS, True),
    Row(chat, LOST, True),
    Row(chat, LATE, True),
    Row(chat, HALF, True),
    Row(listing, UNSENT, True),
    Row(listing, LOST, True),
    # may act twice: only where upstream never heard of it
    Row(image, UNSENT, True),
    Row(image, LOST, False, 502, "upstream_protocol_error"),
    Row(image, LATE, False, 504, "upstream_timeout"),
    Row(background, UNSENT, True),
    Row(background, LOST, False, 502, "upstream_protocol_error"),
    Row(background, HALF, False, 502, "upstream_protocol_error"),
    # streamed through us: there is no second copy
    Row(upload, UNSENT, False, 502, "upstream_unreachable"),
    Row(upload, LOST, False, 502, "upstream_protocol_error"),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_a_broken_attempt(open_pool, row):
    """If the first attempt breaks like this, I expect a second one or a clear error, its budget kept or given back."""
    pool = await open_pool({"a": 1})
    pool.upstream.next(row.reply)
    client = await pool.ask(row.client())
    assert client.status == row.status
    if row.code:
        assert client.error["code"] == row.code
    heard = not (row.reply.before is not None and not row.reply.before.sent)
    assert len(pool.upstream.sent) == heard + row.again
    group = {listing: "-", upload: "-"}.get(row.client, "gpt-4o")
    reserved = 0 if row.client in {listing, upload, image} else 1000
    used = 30 if row.again and (reserved or row.client is image) else 0  # image models count tokens in their answers
    requests = 0 if group == "-" else heard + row.again  # paths without a model use no model's limits
    assert await pool.taken("a", group) == (requests, heard * reserved + used)
    assert await pool.states() == {}
    assert pool.is_idle()


@pytest.mark.parametrize(
    "reply",
    [
        error(401, "invalid_api_key"),
        error(429, "insufficient_quota"),
        error(429, "rate_limit_exceeded", retry_after="7"),
        error(500, None, kind="server_error"),
    ],
    ids=["dead key", "no money", "rate limit", "server error"],
)
async def test_a_streamed_body_is_never_sent_twice(open_pool, reply):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(reply)
    client = await pool.ask(upload())
    assert len(pool.upstream.sent) == 1
    assert pool.upstream.sent[0].body == b"--x\r\ndata\r\n--x--"
    if reply.status == 401 or b"quota" in reply.pieces[0]:
        assert (client.status, client.error["code"]) == (503, "upstream_key_refused")
        assert client.header("x-should-retry") == "true"
    else:
        assert client.status == reply.status
    assert pool.is_idle()


async def test_a_body_with_a_length_is_streamed_with_it(open_pool):
    pool = await open_pool({"a": 1})
    form = (("Content-Type", "multipart/form-data; boundary=x"),)
    await pool.ask(Client(b"--x--", target="/v1/files", more_headers=form))
    sent = pool.upstream.sent[0]
    assert (sent.body, sent.headers["Content-Length"], sent.headers.get("Transfer-Encoding")) == (b"--x--", "5", None)


async def test_an_empty_body_moves_on_to_another_key(open_pool):
    """`POST …/cancel` with Content-Length: 0 holds nothing that could be lost."""
    pool = await open_pool({"a": 2}, objects={"search": False})
    pool.upstream.next(error(401, "invalid_api_key"))
    client = await pool.ask(Client(target="/v1/batches/batch_1/cancel", more_headers=(("Content-Length", "0"),)))
    assert (client.status, len(pool.upstream.sent)) == (200, 2)


@pytest.mark.parametrize("more", [(), (("Content-Length", "0"),)], ids=["no body", "an empty one"])
async def test_a_chat_without_a_body_is_refused_before_anything_is_spent(open_pool, more):
    pool = await open_pool({"a": 1})
    client = await pool.ask(Client(more_headers=more))
    assert (client.status, client.error["code"]) == (400, "invalid_json")
    assert pool.upstream.sent == []
    assert await pool.taken("a", "-") == (0, 0)


async def test_an_upstream_that_breaks_in_the_stream_is_a_cut_and_not_a_second_answer(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    first = delta(content="Hel")
    pool.upstream.next(stream(first, failure("reset")))
    client = await pool.ask(Client(chat_body(stream=True)))
    assert (client.got, client.was_cut, client.finished) == (first, True, False)
    assert len(pool.upstream.sent) == 1
    assert (await pool.taken(pool.accounts_asked[0]))[1] == 1000  # at least a token was seen; the estimate stays
    assert pool.is_idle()


async def test_a_large_answer_that_breaks_off_is_a_cut(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(Reply(pieces=[b'{"data": "', b"x" * (5 * 2**20), failure("timeout")]))
    client = await pool.ask()
    assert (client.was_cut, client.finished, len(pool.upstream.sent)) == (True, False, 1)
    assert (await pool.taken("a"))[1] == 1000


async def test_the_usage_at_the_end_of_a_large_answer_is_still_read(open_pool):
    pool = await open_pool({"a": 1})
    tail = b'"], "usage": {"prompt_tokens": 400, "completion_tokens": 100, "total_tokens": 500}, "service_tier": "x"}'
    pool.upstream.next(Reply(headers=JSON, pieces=[b'{"choices": ["', b"x" * (5 * 2**20), tail[:30], tail[30:]]))
    client = await pool.ask()
    assert (client.finished, len(client.got)) == (True, 14 + 5 * 2**20 + len(tail))
    assert await pool.taken("a") == (1, 500)


# ---- how often


async def test_attempts_end_and_the_answer_says_not_to_try_again(open_pool):
    """SDKs retry twice by themselves; together with ours that would be fifteen calls for one."""
    pool = await open_pool({"a": 1}, retry={"max_attempts": 3})
    pool.upstream.otherwise = error(500, None, "The server had an error", "server_error")
    client = await pool.ask()
    assert (client.status, len(pool.upstream.sent)) == (500, 3)
    assert client.header("x-should-retry") == "false"
    pool.upstream.otherwise = UNSENT
    client = await pool.ask()
    assert (client.status, client.error["code"]) == (502, "upstream_unreachable")
    assert client.header("x-should-retry") == "false"
    assert pool.is_idle()


async def test_what_was_tried_only_once_may_be_tried_again_by_the_client(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(UNSENT)
    client = await pool.ask(upload())
    assert client.header("x-should-retry") == "true"


@pytest.mark.parametrize(("active", "retries"), [(10, 3), (50, 10)])
async def test_retries_stay_under_a_fifth_of_the_requests_under_way(open_pool, active, retries):
    """Given an outage that hits all of them at once, I expect a fifth (at least three) to try again."""
    pool = await open_pool({"a": 1}, retry={"max_attempts": 2})
    together = asyncio.Event()
    pool.upstream.next(*[Reply(500, pieces=[together, b"{}"])] * active)
    clients = [asyncio.create_task(pool.ask()) for _ in range(active)]
    while len(pool.upstream.sent) < active:
        await asyncio.sleep(0.001)
    together.set()
    ends = [(await client).status for client in clients]
    assert (ends.count(200), ends.count(500)) == (retries, active - retries)
    assert pool.is_idle()


async def test_an_answer_under_way_takes_nothing_from_the_retry_budget(open_pool):
    """Given three streams that needed a second attempt and now flow, I expect a fourth request to be retried too."""
    pool = await open_pool({"a": 1})
    flows = asyncio.Event()
    streams = []
    for _ in range(3):
        pool.upstream.next(LOST, stream(delta(content="a"), flows, DONE))
        streams.append(asyncio.create_task(pool.ask(client := Client(chat_body(stream=True)))))
        while not client.got:
            await asyncio.sleep(0.001)
    pool.upstream.next(LOST, chat_answer())
    assert (await pool.ask()).status == 200
    flows.set()
    await asyncio.gather(*streams)
    assert pool.is_idle()


async def test_a_pause_that_upstream_asks_for_is_kept(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(error(503, "server_is_overloaded", retry_after_ms="40"))
    started = asyncio.get_running_loop().time()
    assert (await pool.ask()).status == 200
    assert asyncio.get_running_loop().time() - started >= 0.02  # at least half of it: jitter
