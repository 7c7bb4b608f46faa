"""What the request path tells the meter: the usage and the tier of the answer, whichever way it came."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from quotapool.domain.quantities import Certainty, Details, Usage
from quotapool.domain.request_record import RequestRecord

from tests.fakes.edge import (
    DONE,
    Client,
    chat_answer,
    chat_body,
    delta,
    event,
    fails,
    failure,
    says,
    stream,
    usage_chunk,
)


async def leg_of(pool, client, reply):
    pool.upstream.next(reply)
    await pool.ask(client, RequestRecord("t", time.monotonic(), client.method))
    return pool.recorder.legs[-1]


USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}


@pytest.mark.parametrize(
    ("asked", "answered", "tier"),
    [
        ("priority", "priority", "priority"),
        ("fast", "default", "default"),  # the answer's word counts
        (None, "flex", "flex"),
        ("flex", None, "flex"),  # nobody said otherwise
        ("auto", None, ""),
        ("made-up", None, ""),
    ],
)
async def test_a_leg_carries_the_tier_that_answered_and_only_in_its_silence_the_one_asked_for(
    open_pool, asked, answered, tier
):
    pool = await open_pool({"a": 1})
    told = {} if answered is None else {"service_tier": answered}
    reply = says(200, {"object": "chat.completion", "choices": [], "usage": USAGE, **told})
    leg = await leg_of(pool, Client(chat_body(**({"service_tier": asked} if asked else {}))), reply)
    assert (leg.tier, leg.usage.total) == (tier, 30)


async def test_a_stream_tells_its_tier_in_any_chunk_and_a_cut_one_what_its_prompt_was_taken_for(open_pool):
    pool = await open_pool({"a": 1})
    prompt = [{"role": "user", "content": "x" * 4000}]
    first = event({"choices": [{"index": 0, "delta": {"role": "assistant"}}], "service_tier": "priority"})
    whole = await leg_of(
        pool, Client(chat_body(stream=True)), stream(first, delta(content="Hi"), usage_chunk(4, 1), DONE)
    )
    assert (whole.tier, whole.usage.certainty, whole.usage.total) == ("priority", Certainty.EXACT, 5)
    broken = stream(first, delta(content="Hi"), delta(content="Hi"), failure())
    cut = await leg_of(pool, Client(chat_body(stream=True, messages=prompt)), broken)
    assert (cut.tier, cut.usage.certainty, cut.usage.completion) == ("priority", Certainty.AT_LEAST, 2)
    assert cut.prompt_estimate == 1000


async def test_the_usage_of_pictures_and_transcripts_is_read_though_no_token_was_reserved(open_pool):
    pool = await open_pool({"a": 1})
    used = {"input_tokens": 50, "output_tokens": 1000, "input_tokens_details": {"image_tokens": 40, "text_tokens": 10}}
    body = json.dumps({"model": "gpt-image-1", "prompt": "a cat"}).encode()
    leg = await leg_of(pool, Client(body, target="/v1/images/generations"), says(200, {"data": [], "usage": used}))
    assert leg.usage == Usage(Certainty.EXACT, 50, 1000, details=Details(image_prompt=40))
    heard = says(200, {"text": "hi", "usage": {"type": "duration", "seconds": 9}})
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b--\r\n'
    multipart = [("Content-Type", "multipart/form-data; boundary=b")]
    client = Client(form, target="/v1/audio/transcriptions", more_headers=multipart)
    leg = await leg_of(pool, client, heard)
    assert leg.usage == Usage(Certainty.EXACT, details=Details(seconds=9.0))


async def test_speech_counts_the_characters_that_were_said(open_pool):
    pool = await open_pool({"a": 1})
    body = json.dumps({"model": "tts-1", "input": "Grüße!", "voice": "alloy"}).encode()
    leg = await leg_of(pool, Client(body, target="/v1/audio/speech"), says(200, {}, **{"Content-Type": "audio/mpeg"}))
    assert leg.usage == Usage(Certainty.EXACT, details=Details(characters=6))


async def test_an_attempt_that_upstream_never_saw_costs_nothing(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(fails("connect", sent=False))
    pool.upstream.next(chat_answer())
    await pool.ask()
    assert [leg.usage.certainty for leg in pool.recorder.legs] == [Certainty.NOTHING, Certainty.EXACT]


DRAWING = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": "gpt-4o",
    "output": [{"type": "image_generation_call", "id": "ig_1", "result": "iVBORw0K"}],
    "tool_usage": {"image_gen": {"input_tokens": 27, "output_tokens": 7024}, "web_search": {"num_requests": 0}},
    "tools": [{"type": "image_generation", "model": "gpt-image-2"}],
    "usage": {"input_tokens": 146, "output_tokens": 51},
}


@pytest.mark.parametrize("image", [8, 5 * 2**20], ids=["small", "5 MiB"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_the_image_tool_used_is_the_image_models_and_takes_nothing_from_the_requests_own_budget(
    open_pool, streamed, image
):
    pool = await open_pool({"a": 1})
    body = json.dumps({"model": "gpt-4o", "input": "draw", "stream": streamed, "max_output_tokens": 1000}).encode()
    drawn = {**DRAWING, "output": [{"type": "image_generation_call", "id": "ig_1", "result": "A" * image}]}
    reply = stream(event({"type": "response.completed", "response": drawn})) if streamed else says(200, drawn)
    reply = replace(reply, pieces=[reply.pieces[0][n : n + 100_000] for n in range(0, len(reply.pieces[0]), 100_000)])
    client = Client(body, target="/v1/responses")
    attempt = await leg_of(pool, client, reply)
    assert client.got == b"".join(reply.pieces)
    assert (attempt.usage.prompt, attempt.usage.completion) == (146, 51)
    assert attempt.usage.by_tools == (("gpt-image-2", Usage(Certainty.EXACT, 27, 7024)),)
    assert await pool.taken("a") == (1, 200)  # 146 + 51, to the nearest ten
    assert await pool.bucket("a", "gpt-image-2") is None
