"""Streams: what is held before the point of no return, what passes after it, and what each end costs."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest
from quotapool.domain.states import State
from quotapool.objects.layout import owner_of
from quotapool.openai.ids import RESPONSE

from tests.fakes.edge import DONE, Client, Piece, chat_body, delta, error, event, stream, usage_chunk
from tests.fakes.house import House

ROLE = delta(role="assistant", content="")
HELLO = delta(content="Hello")
END = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
COMMENT = b": keep-alive\n\n"
CREATED = event({"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}})
IN_PROGRESS = event({"type": "response.in_progress", "response": {"id": "resp_1", "status": "in_progress"}})
REASONING = event({"type": "response.output_item.added", "item": {"id": "rs_1", "type": "reasoning", "summary": []}})
COMPLETED = event({"type": "response.completed", "response": {"id": "resp_1", "status": "completed"}})
LONG_S = 5.0  # a hold that would be seen
QUOTA = {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}


def streaming(**more) -> Client:
    return Client(chat_body(stream=True, **more))


def responding(**more) -> Client:
    body = {"model": "gpt-4o", "input": "hi", "max_output_tokens": 1000, "stream": True, **more}
    return Client(json.dumps(body).encode(), target="/v1/responses")


async def held_s(pool: House, client: Client, *first: bytes, then: Piece = DONE) -> float:
    """Seconds until the client has `first`, each a piece of its own, while upstream is silent behind them; `then` is
    what ends that stream."""
    goes_on = asyncio.Event()
    pool.upstream.next(stream(*first, goes_on, then))
    asked = asyncio.create_task(pool.ask(client))
    began = time.monotonic()
    while client.got != b"".join(first):
        assert not asked.done()
        await asyncio.sleep(0.001)
    took_s = time.monotonic() - began
    goes_on.set()
    await asked
    return took_s


async def test_a_stream_reaches_the_client_without_what_only_we_asked_for(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(stream(ROLE, HELLO, END, usage_chunk(400, 100), DONE))
    client = await pool.ask(streaming())
    assert json.loads(pool.upstream.sent[0].body)["stream_options"] == {"include_usage": True}
    assert (client.got, client.finished) == (ROLE + HELLO + END + DONE, True)
    assert await pool.taken("a") == (1, 500)


async def test_who_asked_for_usage_gets_it(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(stream(ROLE, HELLO, END, usage_chunk(400, 100), DONE))
    client = await pool.ask(streaming(stream_options={"include_usage": True}))
    assert client.got == ROLE + HELLO + END + usage_chunk(400, 100) + DONE


EARLY_ERRORS = [
    pytest.param(streaming, [event({"error": QUOTA})], id="chat, at once"),
    pytest.param(streaming, [COMMENT, ROLE, event({"error": QUOTA})], id="chat, after the preamble"),
    pytest.param(streaming, [COMMENT + ROLE + event({"error": QUOTA})], id="chat, in one piece"),
    pytest.param(responding, [CREATED, IN_PROGRESS, event({**QUOTA, "type": "error"})], id="responses, an error event"),
    pytest.param(
        responding,
        [CREATED, event({"type": "response.failed", "response": {"status": "failed", "error": QUOTA}})],
        id="responses, failed",
    ),
]


@pytest.mark.parametrize(("client", "pieces"), EARLY_ERRORS)
async def test_an_error_under_http_200_before_anything_was_said_moves_to_another_key(open_pool, client, pieces):
    pool = await open_pool({"a": 1, "b": 1})
    good = [ROLE, HELLO, DONE] if client is streaming else [CREATED, event({"type": "response.completed"})]
    pool.upstream.next(stream(*pieces), stream(*good))
    got = await pool.ask(client())
    assert (got.status, got.got, got.finished) == (200, b"".join(good), True)
    bad = pool.accounts_asked[0]
    assert (await pool.states())[f"a/{bad}"].state is State.QUARANTINED
    assert await pool.taken(bad) == (1, 0)
    assert pool.is_idle()


@pytest.mark.parametrize(
    ("client", "said"),
    [
        pytest.param(streaming, {"error": {"message": "Flagged.", "code": "invalid_prompt"}}, id="chat"),
        pytest.param(responding, {"type": "error", "message": "Flagged.", "code": "invalid_prompt"}, id="responses"),
        pytest.param(
            responding,
            {"type": "response.failed", "response": {"error": {"message": "Flagged.", "code": "invalid_prompt"}}},
            id="responses, failed",
        ),
    ],
)
async def test_a_stream_that_begins_with_the_callers_own_mistake_is_an_ordinary_error(open_pool, client, said):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(stream(CREATED if client is responding else ROLE, event(said)))
    got = await pool.ask(client())
    assert (got.status, got.error["message"], got.error["code"]) == (400, "Flagged.", "invalid_prompt")
    assert got.header("content-type") == "application/json"
    assert len(pool.upstream.sent) == 1


@pytest.mark.parametrize("leaves", [False, True], ids=["client stays", "client leaves on the error"])
async def test_an_error_after_the_first_words_is_passed_on_and_still_scored(open_pool, leaves):
    pool = await open_pool({"a": 1, "b": 1})
    late = event({"error": QUOTA})
    pool.upstream.next(stream(HELLO, late, DONE))
    client = streaming()
    client.leaves_at = 2 if leaves else -1
    if leaves:
        with pytest.raises(ConnectionResetError):
            await pool.ask(client)
        await pool.quiet()
    else:
        await pool.ask(client)
    assert client.got == HELLO + late + (b"" if leaves else DONE)
    asked = pool.accounts_asked
    assert len(asked) == 1
    assert (await pool.states())[f"a/{asked[0]}"].state is State.QUARANTINED
    assert pool.is_idle()


@pytest.mark.parametrize(
    ("client", "first"),
    [
        pytest.param(streaming, [COMMENT], id="a comment"),
        pytest.param(streaming, [b"\n\n"], id="blank lines"),
        pytest.param(streaming, [ROLE], id="a role"),
        pytest.param(responding, [CREATED, IN_PROGRESS], id="a reasoning model's preamble"),
    ],
)
async def test_what_an_error_may_follow_is_held_no_longer_than_stream_hold(open_pool, client, first):
    pool = await open_pool({"a": 1, "b": 1}, stream_hold=LONG_S)
    assert await held_s(pool, client(), *first) == pytest.approx(LONG_S, abs=0.1)


@pytest.mark.parametrize(
    ("client", "first"),
    [
        pytest.param(streaming, [ROLE, HELLO], id="chat, words"),
        pytest.param(responding, [CREATED, IN_PROGRESS, REASONING], id="responses, a reasoning item"),
    ],
)
async def test_what_shows_that_the_answer_has_begun_is_not_held(open_pool, client, first):
    pool = await open_pool({"a": 1, "b": 1}, stream_hold=LONG_S)
    assert await held_s(pool, client(), *first) < 1


@pytest.mark.parametrize("first", [[CREATED, IN_PROGRESS], [COMMENT]], ids=["preamble", "comment"])
async def test_nothing_is_held_if_there_is_no_other_account(open_pool, first):
    pool = await open_pool({"a": 2}, stream_hold=LONG_S)
    late = event({**QUOTA, "type": "error"})
    assert await held_s(pool, client := responding(), *first, then=late) < 1
    assert (client.status, client.got) == (200, b"".join(first) + late)  # as it came
    assert (await pool.states())["a/a"].state is State.QUARANTINED


async def test_nothing_is_held_if_only_its_own_account_can_serve_the_request(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, stream_hold=LONG_S, objects={"search": False})
    await pool.paths.owners.remember([(RESPONSE, "resp_0")], "a", "")
    assert await held_s(pool, responding(previous_response_id="resp_0"), CREATED, IN_PROGRESS) < 1


async def test_nothing_is_held_if_all_others_have_refused_the_request(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, stream_hold=LONG_S)
    pool.upstream.next(error(404, "model_not_found", "The model `gpt-4o` does not exist"))
    assert await held_s(pool, responding(), CREATED, IN_PROGRESS) < 1
    assert len(pool.upstream.sent) == 2


async def test_nothing_is_held_if_the_request_cannot_be_sent_again(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, stream_hold=LONG_S)
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--x--\r\n'
    headers = [("Content-Type", "multipart/form-data; boundary=x")]
    assert await held_s(pool, Client(form, target="/v1/images/edits", more_headers=headers), COMMENT) < 1


async def test_without_another_account_a_stream_that_is_an_error_from_its_first_piece_is_still_an_ordinary_one(
    open_pool,
):
    pool = await open_pool({"a": 1}, stream_hold=LONG_S)
    pool.upstream.next(stream(CREATED + event({"type": "error", "message": "Flagged.", "code": "invalid_prompt"})))
    got = await pool.ask(responding())
    assert (got.status, got.error["code"]) == (400, "invalid_prompt")


async def test_a_response_that_is_named_behind_the_first_piece_is_remembered_before_it_ends(open_pool):
    pool = await open_pool({"a": 1}, objects={"search": False})
    goes_on = asyncio.Event()
    pool.upstream.next(stream(COMMENT, CREATED, goes_on, COMPLETED))
    asked = asyncio.create_task(pool.ask(client := responding()))
    while client.got != COMMENT + CREATED:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.1)
    [owner] = await pool.paths.owners.find([(RESPONSE, "resp_1")], "")
    goes_on.set()
    await asked
    assert owner == owner_of("a", "")


async def test_a_late_first_byte_is_not_a_reason_to_begin_the_answer(open_pool):
    """Until upstream says anything, another key can still be asked."""
    pool = await open_pool({"a": 1, "b": 1}, stream_hold=0.001)
    thinks = asyncio.Event()
    pool.upstream.next(stream(thinks, event({"error": QUOTA})), stream(HELLO, DONE))
    asked = asyncio.create_task(pool.ask(client := streaming()))
    await asyncio.sleep(0.01)
    assert not client.started
    thinks.set()
    await asked
    assert (client.status, client.got) == (200, HELLO + DONE)


async def test_a_stream_cut_by_its_client_stays_charged_at_least_as_reserved(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(stream(HELLO, HELLO, HELLO, DONE))
    client = streaming()
    client.leaves_at = 2
    with pytest.raises(ConnectionResetError):
        await pool.ask(client)
    await pool.quiet()
    assert await pool.taken("a") == (1, 1000)
    assert pool.upstream.open == 0
    assert pool.is_idle()


async def test_more_seen_than_reserved_is_charged_even_if_the_stream_was_cut(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(stream(*[HELLO] * 200))
    client = Client(chat_body(max_tokens=100, stream=True))
    client.leaves_at = 150
    with pytest.raises(ConnectionResetError):
        await pool.ask(client)
    await pool.quiet()
    _, tokens = await pool.taken("a")
    assert 140 <= tokens <= 160  # one token a delta, at least


async def test_a_slow_client_slows_upstream_down(open_pool):
    """Given a client that stops reading, I expect the proxy to stop reading too, instead of filling its memory."""
    pool = await open_pool({"a": 1})
    pool.upstream.next(stream(*[HELLO] * 1000, DONE))
    client = streaming()
    client.stalls = asyncio.Event()
    asked = asyncio.create_task(pool.ask(client))
    while not client.got:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    assert pool.upstream.answers[0].given <= 2
    client.stalls.set()
    await asked
    assert client.got == HELLO * 1000 + DONE


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/assistants/asst_1/unknown"])
@pytest.mark.parametrize("said", [[], [("X-Accel-Buffering", "yes")]])
async def test_a_proxy_before_this_one_is_asked_not_to_collect_an_event_stream(open_pool, target, said):
    pool = await open_pool({"a": 1})
    reply = stream(delta(content="Hi"), DONE)
    pool.upstream.next(replace(reply, headers=[*reply.headers, *said]))
    client = await pool.ask(Client(chat_body(stream=True), target=target))
    assert [value for name, value in client.answered if name.lower() == "x-accel-buffering"] == ["no"]


async def test_other_answers_say_nothing_about_buffering(open_pool):
    pool = await open_pool({"a": 1})
    assert (await pool.ask()).header("x-accel-buffering") is None
