"""What a request asked the pool for is recorded, whether it was served or not: `quotapool plan` asks it again."""

from __future__ import annotations

import json
import time

from quotapool.domain.request_record import AskedFor, RequestRecord

from tests.fakes.edge import Client, chat_answer, chat_body, says


async def record_of(pool, client: Client) -> RequestRecord:
    record = RequestRecord("t", time.monotonic(), client.method)
    await pool.ask(client, record)
    return record


async def test_the_estimate_is_recorded_of_a_request_that_is_served(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(chat_answer())
    record = await record_of(pool, Client(chat_body(max_tokens=900)))
    assert record.asked_for == AskedFor("", 900, max_wait_s=30.0)


async def test_and_of_one_that_the_pool_refuses(open_pool):
    pool = await open_pool({"a": 1}, limits={"default": {"tpm": 1_000}})
    client = Client(chat_body(max_tokens=5_000))
    record = await record_of(pool, client)
    assert client.error["code"] == "request_too_large_for_pool"
    assert record.asked_for == AskedFor("", 5_000, max_wait_s=30.0)


async def test_a_dated_model_names_the_group_whose_limits_it_uses(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(chat_answer())
    record = await record_of(pool, Client(chat_body(model="gpt-4o-2024-08-06", max_tokens=100)))
    assert record.asked_for == AskedFor("gpt-4o", 100, max_wait_s=30.0)


async def test_what_the_client_asked_for_in_headers_and_pictures_count(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(says(200, {"data": []}))
    body = json.dumps({"model": "gpt-image-1", "prompt": "a cat", "n": 3}).encode()
    more = [("x-quotapool-priority", "batch"), ("x-quotapool-max-wait", "5s")]
    record = await record_of(pool, Client(body, target="/v1/images/generations", more_headers=more))
    assert record.asked_for == AskedFor("", 0, images=3, priority=-1, max_wait_s=5.0)


async def test_a_request_that_is_not_counted_against_any_model_asks_for_nothing(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(says(200, {"data": []}))
    record = await record_of(pool, Client(b"", method="GET", target="/v1/files"))
    assert record.status == 200 or record.attempts
    assert record.asked_for is None
