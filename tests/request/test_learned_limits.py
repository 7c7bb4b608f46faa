"""What is learned never loses what was written: limits, what was used of them, cool-downs; and what is not limited."""

from __future__ import annotations

import json

import pytest

from tests.fakes.edge import Client, chat_body, error, says

IMAGE = "gpt-image-2"
SHARED = (
    "Rate limit reached for gpt-image-2 (for limit gpt-image) in organization org-x on input-images per min: "
    "Limit 50, Used 50, Requested 1. Please try again in 12s."
)


def image() -> Client:
    return Client(json.dumps({"model": IMAGE, "prompt": "a cat"}).encode(), target="/v1/images/generations")


# ---- B1: a group that upstream names


async def test_a_written_limit_its_use_and_the_cool_down_go_along_into_a_group_that_upstream_names(
    open_pool, virtual_time
):
    pool = await open_pool(
        {"a": 1}, limits={"default": {"rpm": 100_000, "tpm": 1e9}, "models": {IMAGE: {"ipm": 5}}}, queue={"max_wait": 0}
    )
    pool.upstream.otherwise = says(200, {"data": [], "usage": {"input_tokens": 1, "output_tokens": 1}})
    served = [(await pool.ask(image())).status for _ in range(3)]
    pool.upstream.next(error(429, "rate_limit_exceeded", SHARED, "images", retry_after="12"))
    refused = await pool.ask(image())
    assert (served, refused.status) == ([200] * 3, 429)
    assert pool.recorder.groups == [(IMAGE, "gpt-image")]
    assert float(refused.header("retry-after") or 0) >= 12
    more = [(await pool.ask(image())).status for _ in range(29)]
    assert more == [429] * 29  # cooling down
    assert len(pool.upstream.sent) == 4
    virtual_time.advance(12.5)
    # Of five images a minute four are used, and 12.5 s bring one more: two fit, less what our bucket keeps back.
    later = [(await pool.ask(image())).status for _ in range(29)]
    assert 1 <= later.count(200) <= 2


async def test_a_limit_of_long_contexts_does_not_move_the_model(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    message = "Rate limit reached for gpt-4o (for limit gpt-4o-long-context) on tokens per min (TPM): Limit 5, Used 5."
    pool.upstream.next(error(429, "rate_limit_exceeded", message, "tokens"))
    assert (await pool.ask()).status == 200
    assert pool.recorder.groups == []


# ---- B2: batch traffic on an idle pool


async def test_batch_traffic_is_served_at_once_by_an_idle_pool_whose_limits_nobody_knows_yet(open_pool, virtual_time):
    client = {"id": "nightly", "key": "a-key-of-sixteen-or-more", "priority": "batch"}
    pool = await open_pool({"a": 1}, limits={"default": {}}, clients=[client])
    began = virtual_time.monotonic()
    answer = await pool.ask(Client(chat_body(max_tokens=100), key=client["key"]))
    assert answer.status == 200
    assert virtual_time.monotonic() - began < 0.5


# ---- B3: paths without a model


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/files"),
        ("GET", "/v1/batches/batch_1"),
        ("DELETE", "/v1/files/file-1"),
        ("GET", "/v1/vector_stores"),
    ],
)
async def test_paths_without_a_model_use_no_models_limits(open_pool, method, target):
    pool = await open_pool({"a": 1}, limits={"default": {"rpm": 60}}, queue={"max_wait": 0}, objects={"search": False})
    answers = [await pool.ask(Client(method=method, target=target, more_headers=[])) for _ in range(70)]
    assert {answer.status for answer in answers} == {200}
    chats = [(await pool.ask()).status for _ in range(55)]
    assert chats == [200] * 55


# ---- B4: names in metrics


async def test_a_rate_limit_names_its_model_although_nobody_was_served_yet(open_pool):
    pool = await open_pool({"a": 1}, queue={"max_wait": 0})
    pool.upstream.otherwise = error(429, "rate_limit_exceeded", "Rate limit reached ... try again in 20s.", "tokens")
    await pool.ask(Client(chat_body("gpt-5.4")))
    assert pool.recorder.models == ["gpt-5.4"]
