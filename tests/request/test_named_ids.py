"""Ids in requests: a client's own words go anywhere, what upstream reads by an id is its owner's and its account's."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from quotapool.domain.request_record import RequestRecord
from quotapool.openai.ids import AUDIO, FILE, ITEM

from tests.fakes.edge import Client, Reply, says, stream

ANN, BOB = "ann-has-this-key-01", "bob-has-this-key-01"
CLIENTS = [{"id": "ann", "key": ANN}, {"id": "bob", "key": BOB}]
EIGHT = dict.fromkeys("abcdefgh", 1)
USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
CHAT_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


@pytest.fixture(params=["anonymous", "keyed"])
async def pool(request, open_pool):
    """Eight accounts, no search; requests are Ann's if clients have keys."""
    options = {"clients": CLIENTS} if request.param == "keyed" else {}
    opened = await open_pool(EIGHT, objects={"search": False}, **options)
    opened.ann = ANN if options else ""
    opened.upstream.otherwise = says(200, {"id": "resp_0", "output": [], "usage": USAGE})
    return opened


@pytest.fixture
async def keyed(open_pool):
    return await open_pool(EIGHT, objects={"search": False}, clients=CLIENTS)


def asks(key: str = "", /, target: str = "/v1/responses", **body: Any) -> Client:
    return Client(json.dumps({"model": "gpt-4o", **body}).encode(), target=target, key=key)


def chats(key: str, **body: Any) -> Client:
    return asks(key, target="/v1/chat/completions", **body)


def made(*output: dict[str, Any]) -> Reply:
    return says(200, {"id": "resp_1", "object": "response", "output": output, "usage": USAGE})


THREAD = "01a22309-7e1f-4b7c-9f7d-5c8f0b8f3f11"


@pytest.mark.parametrize(
    "body",
    [
        {"input": "hi", "client_metadata": {"thread_id": THREAD, "session_id": THREAD}},
        {"input": "hi", "client_metadata": {"thread_id": "thread_1", "file_id": "file-1"}},
        {"input": "hi", "thread_id": THREAD},
        {"input": "hi", "tools": [{"type": "shell", "environment": {"type": "container_auto", "skills": [
            {"type": "skill_reference", "skill_id": "openai-spreadsheets"}]}}]},
        {"input": "hi", "prompt": {"id": "pmpt_1", "variables": {"thread_id": "thread_1"}}},
        {"input": "hi", "tools": [{"type": "mcp", "headers": {"thread_id": "thread_1"}}]},
        {"input": "hi", "tools": [{"type": "function", "parameters": {"examples": [{"file_id": "file-1"}]}}]},
    ],
    ids=["Codex", "Codex with prefixes", "no prefix", "OpenAI's skill", "variables", "MCP headers", "examples"],
)  # fmt: skip
async def test_a_clients_own_words_are_served_by_any_account(pool, body):
    for _ in range(24):
        assert (await pool.ask(asks(pool.ann, **body))).status == 200
    assert len(set(pool.accounts_asked)) > 2


async def test_a_vector_stores_attributes_are_the_users_own(keyed):
    keyed.upstream.otherwise = says(200, {"id": "file-1", "object": "vector_store.file"})
    store = await keyed.ask(asks(ANN, target="/v1/vector_stores", name="x", metadata={"file_id": "file-7"}))
    assert store.status == 200
    keyed.upstream.otherwise = says(200, {"id": "vs_1", "object": "vector_store"})
    await keyed.ask(asks(ANN, target="/v1/vector_stores"))
    client = await keyed.ask(asks(ANN, target="/v1/vector_stores/vs_1", attributes={"file_id": "file-7"}))
    assert client.status == 200


BY_ID = [
    {"id": "IT_1"},
    {"id": "IT_1", "type": None},
    {"id": "IT_1", "type": "item_reference"},
    {"id": "IT_1", "type": "image_generation_call"},
    {"id": "IT_1", "type": "reasoning", "summary": []},
    {"id": "IT_1", "type": "message", "role": "assistant"},
]


@pytest.mark.parametrize("item", BY_ID, ids=json.dumps)
async def test_an_item_by_its_id_goes_to_its_account_and_is_its_owners_alone(pool, item):
    pool.upstream.next(made({"id": "IT_1", "type": "message", "content": []}))
    await pool.ask(asks(pool.ann, input="hi"))
    (maker,) = pool.accounts_asked
    for _ in range(8):
        assert (await pool.ask(asks(pool.ann, input=[item]))).status == 200
    assert pool.accounts_asked == [maker] * 9
    if pool.ann:
        record = RequestRecord("t", time.monotonic(), "POST")
        foreign = await pool.ask(asks(BOB, input=[item]), record)
        missing = await pool.ask(asks(BOB, input=[{**item, "id": "IT_2"}]))
        assert (foreign.status, foreign.got) == (404, missing.got.replace(b"IT_2", b"IT_1"))
        assert len(pool.accounts_asked) == 9


async def test_what_a_response_returned_can_be_sent_back(pool):
    """`input += response.output`, stored and not, with the shapes that OpenAI's models return."""
    output = [
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
        {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": "AAAA"},
        {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"},
        {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
    ]
    for store in (True, False):
        pool.upstream.sent.clear()
        output = [{**item, "id": f"{item['id']}{store}"} for item in output]
        pool.upstream.next(made(*output))
        await pool.ask(asks(pool.ann, input="hi", store=store))
        (maker,) = pool.accounts_asked
        for _ in range(6):
            again = await pool.ask(asks(pool.ann, input=[{"role": "user", "content": "hi"}, *output], store=store))
            assert again.status == 200
        if store:
            assert pool.accounts_asked == [maker] * 7


async def test_copies_are_served_while_the_store_is_away_and_references_are_not(pool):
    pool.lose_the_store()
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "hi"}],
    }
    assert (await pool.ask(asks(pool.ann, input=[message]))).status == 200
    away = await pool.ask(asks(pool.ann, input=[message, {"id": "msg_2"}]))
    assert (away.status, away.error["code"]) == (503, "store_unavailable")


async def test_what_upstream_reads_by_its_id_is_not_another_clients_even_as_a_copy(keyed):
    await keyed.paths.owners.remember([(ITEM, "rs_1"), (ITEM, "ig_1")], "c", "ann")
    summary = [{"type": "summary_text", "text": "so"}]
    for item in (
        {"id": "rs_1", "type": "reasoning", "summary": summary},
        {"id": "ig_1", "type": "image_generation_call", "result": "AAAA"},
    ):
        assert (await keyed.ask(asks(BOB, input=[item]))).status == 404
    assert keyed.upstream.sent == []


async def test_another_servers_ids_are_their_owners_too(keyed):
    keyed.upstream.otherwise = says(200, {"id": "file_01jh", "object": "file"})
    await keyed.ask(Client(b"--b--", target="/v1/files", key=ANN, more_headers=[("Content-Type", "multipart/x")]))
    assert (await keyed.ask(asks(BOB, input=[{"content": [{"file_id": "file_01jh"}]}]))).status == 400
    assert (await keyed.ask(asks(ANN, input=[{"content": [{"file_id": "file_01jh"}]}]))).status == 200


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_chats_sound_is_found_again_by_its_owner_alone(pool, streamed):
    if streamed:
        event = (
            b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"role":"assistant","audio":{"id":"audio_1"}}}]}'
        )
        end = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        whole = event + b"\n\n" + end
        pool.upstream.next(stream(whole[:95], whole[95:]))
    else:
        message = {"role": "assistant", "content": None, "audio": {"id": "audio_1", "data": "AAAA"}}
        pool.upstream.next(says(200, {"id": "chatcmpl-1", "choices": [{"message": message}], "usage": CHAT_USAGE}))
    sound = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}, "stream": streamed}
    first = await pool.ask(chats(pool.ann, messages=[{"role": "user", "content": "hi"}], **sound))
    assert first.status == 200
    (maker,) = pool.accounts_asked
    assert (await pool.paths.owners.find([(AUDIO, "audio_1")], "ann" if pool.ann else ""))[0] is not None
    pool.upstream.otherwise = says(200, {"id": "chatcmpl-2", "choices": [], "usage": CHAT_USAGE})
    history = [{"role": "assistant", "audio": {"id": "audio_1"}}, {"role": "user", "content": "and?"}]
    for _ in range(6):
        assert (await pool.ask(chats(pool.ann, messages=history))).status == 200
    assert pool.accounts_asked == [maker] * 7
    if pool.ann:
        assert (await pool.ask(chats(BOB, messages=history))).status == 404


async def test_the_log_of_a_refused_id_has_its_kind_and_place_and_not_the_id(keyed):
    await keyed.paths.owners.remember([(FILE, "file-anns")], "c", "ann")
    record = RequestRecord("t", time.monotonic(), "POST")
    with pytest.raises(Exception, match="file-anns") as refused:
        await keyed.paths.requests.serve(asks(BOB, input=[{"content": [{"file_id": "file-anns"}]}]), record)
    assert refused.value.about == "file in file_id"
    with pytest.raises(Exception, match="resp_x") as refused:
        await keyed.paths.requests.serve(Client(method="GET", target="/v1/responses/resp_x", key=BOB), record)
    assert refused.value.about == "response in path"
