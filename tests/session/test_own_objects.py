"""What a session made is the session's, and every event of a client is checked. Real sockets, keyed and anonymous."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from quotapool.objects.placement import ObjectRequest
from quotapool.openai.ids import CONTAINER, ENCRYPTED, FILE, ITEM, RESPONSE, VOICE, Kind, encrypted_id
from quotapool.session.own_objects import OwnObjects
from structlog.testing import capture_logs

from tests.fakes.edge import Client, says
from tests.fakes.sessions import TEXT, Hall, Peer, heard, open_sessions, say

CLIENTS = [{"id": name, "key": f"{name}-has-this-key-01"} for name in ("ann", "bob")]
ANN, BOB = (f"Authorization: Bearer {client['key']}" for client in CLIENTS)
REASONING = "gAAAAAB" + "x" * 120
THREAD = "01a22309-7e1f-4b7c-9f7d-5c8f0b8f3f11"


@pytest.fixture(params=["anonymous", "keyed"])
async def hall(request, valkey_url) -> AsyncIterator[Hall]:
    """Five accounts. `hall.ann`: the header fields with which Ann comes."""
    keyed = {"clients": CLIENTS} if request.param == "keyed" else {}
    async with open_sessions(valkey_url, dict.fromkeys("abcde", 1), objects={"search": False}, **keyed) as opened:
        opened.ann = (ANN,) if keyed else ()
        opened.name = "ann" if keyed else ""
        yield opened


@pytest.fixture
async def keyed(valkey_url) -> AsyncIterator[Hall]:
    async with contextlib.AsyncExitStack() as stack:
        options = {"objects": {"search": False}, "clients": CLIENTS}
        yield await stack.enter_async_context(open_sessions(valkey_url, dict.fromkeys("abcde", 1), **options))


def account_of(hall: Hall, upstream: Peer) -> str:
    secret = (upstream.field("Authorization") or "").removeprefix("Bearer ")
    return next(key.rstrip("1") for key, known in hall.house.secrets.items() if known == secret)


async def write_down(hall: Hall, kind: Kind, object_id: str, account: str, client: str) -> None:
    task = hall.house.paths.owners.remember([(kind, object_id)], account, client)
    assert task is not None
    await task


async def create(client: Peer, upstream: Peer, response: str, output: Any = (), **fields: Any) -> None:
    """One turn: it must reach upstream as it is."""
    sent = {"type": "response.create", "model": "gpt-4o", "input": "hi", **fields}
    await say(client, **sent)
    assert await heard(upstream) == sent
    document = {"id": response, "model": "gpt-4o", "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}}
    await say(upstream, type="response.created", response={**document, "usage": None})
    for item in output:
        await say(upstream, type="response.output_item.done", output_index=0, item=item)
    await say(upstream, type="response.completed", response={**document, "output": []})
    for _ in range(2 + len(output)):
        await heard(client)


OUTPUT = [
    {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": REASONING},
    {"id": "ci_1", "type": "code_interpreter_call", "container_id": "cntr_1", "outputs": []},
    {"id": "msg_1", "type": "message", "role": "assistant", "content": []},
]
NEXT_TURNS: list[dict[str, Any]] = [
    {"previous_response_id": "resp_1"},
    {"input": [{"type": "item_reference", "id": "msg_1"}]},
    {"input": [{"id": "msg_1"}]},
    {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
    {"input": OUTPUT},
]


@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize("turn", NEXT_TURNS, ids=["response", "item_reference", "id alone", "container", "output"])
async def test_a_session_goes_on_from_what_it_made(hall, store, turn):
    """Five sessions, so that they run on several accounts."""
    metadata = {"thread_id": THREAD}
    for n in range(5):
        client, upstream = await hall.pair("/v1/responses", *hall.ann)
        await create(client, upstream, f"resp_1{n}", OUTPUT, store=store, client_metadata=metadata)
        following = json.loads(json.dumps(turn).replace("resp_1", f"resp_1{n}"))
        await create(client, upstream, f"resp_2{n}", store=store, client_metadata=metadata, **following)
        await hall.over_with(client, upstream)


@pytest.mark.parametrize("store", [False, True])
async def test_its_account_is_remembered_for_requests_that_name_it_later(hall, store):
    client, upstream = await hall.pair("/v1/responses", *hall.ann)
    account = account_of(hall, upstream)
    await create(client, upstream, "resp_1", OUTPUT, store=store)
    await hall.settled()
    owners = hall.house.paths.owners
    await owners.close()
    refs = [(RESPONSE, "resp_1"), (ITEM, "msg_1"), (CONTAINER, "cntr_1"), (ENCRYPTED, encrypted_id(REASONING))]
    assert None not in await owners.find(refs, hall.name)
    for turn in NEXT_TURNS:
        placed = await _placed(hall, {"model": "gpt-4o", "input": "hi", **turn})
        assert placed == {account}, turn


async def _placed(hall: Hall, body: dict[str, Any]) -> set[str]:
    """The accounts on which a request over HTTP may run."""
    asked = ObjectRequest("responses", "POST", "/v1/responses", json.dumps(body).encode(), "gpt-4o", None, hall.name)
    return set((await hall.house.paths.requests._objects.place(asked)).only or ())


async def test_a_steered_responses_successor_is_the_sessions_too(hall):
    client, upstream = await hall.pair("/v1/responses", *hall.ann)
    await create(client, upstream, "resp_1", store=False)
    steer = {"type": "response.steer", "previous_response_id": "resp_1", "input": [{"role": "user", "content": "stop"}]}
    await say(client, **steer)
    assert await heard(upstream) == steer
    await say(upstream, type="response.created", response={"id": "resp_2", "model": "gpt-4o"})
    await say(upstream, type="response.completed", response={"id": "resp_2", "model": "gpt-4o", "output": []})
    await heard(client)
    await heard(client)
    await create(client, upstream, "resp_3", store=False, previous_response_id="resp_2")
    assert await _placed(hall, {"input": "hi", "previous_response_id": "resp_2"}) == {account_of(hall, upstream)}


CONTENT = [{"role": "user", "content": [{"type": "input_file", "file_id": "file-anns"}]}]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.create", "model": "gpt-4o", "input": CONTENT},
        {"type": "response.steer", "previous_response_id": "resp_1", "input": CONTENT},
        {"type": "response.inject", "response_id": "resp_1", "input": CONTENT},
        {"type": "response.of_tomorrow", "input": CONTENT},
        {"input": CONTENT},
        {"type": "response.steer", "previous_response_id": "resp_anns", "input": "x"},
        {"type": "response.of_tomorrow", "input": [{"id": "msg_anns"}]},
    ],
    ids=lambda event: event.get("type", "no type"),
)
async def test_no_event_of_a_client_names_what_is_another_clients(keyed, event):
    other, upstream = await keyed.pair("/v1/responses", BOB)
    account = account_of(keyed, upstream)
    for kind, object_id in ((FILE, "file-anns"), (RESPONSE, "resp_anns"), (ITEM, "msg_anns")):
        await write_down(keyed, kind, object_id, account, "ann")
    await create(other, upstream, "resp_1")
    with capture_logs() as lines:
        await say(other, **event)
        refusal = await heard(other)
    assert (refusal["type"], refusal["status"] in {400, 404}) == ("error", True)
    (line,) = [line for line in lines if line["event"] == "event refused"]
    assert (line["code"], line["client"]) == ("object_not_found", "bob")
    assert line["about"] in {"file in file_id", "response in previous_response_id", "item in input"}
    assert "anns" not in json.dumps(line)
    await say(other, type="response.cancel")
    assert await heard(upstream) == {"type": "response.cancel"}, "and nothing before it"


async def test_events_of_other_sessions_are_checked_and_name_their_own_conversation(keyed):
    other, upstream = await keyed.pair("/v1/realtime?model=gpt-realtime", BOB)
    await write_down(keyed, VOICE, "voice_anns", account_of(keyed, upstream), "ann")
    await say(other, type="session.update", session={"audio": {"output": {"voice": {"id": "voice_anns"}}}})
    assert (await heard(other))["status"] == 404
    own = {"type": "response.create", "response": {"input": [{"type": "item_reference", "id": "item_1"}]}}
    sound = {"type": "input_audio_buffer.append", "audio": "AAAA"}
    for event in (own, sound, {"type": "session.update", "session": {"voice": "alloy"}}):
        await say(other, **event)
        assert await heard(upstream) == event


async def test_a_response_without_a_model_is_upstreams_to_judge(hall):
    client, upstream = await hall.pair("/v1/responses", *hall.ann)
    await say(client, type="response.create", input="hi")
    assert await heard(upstream) == {"type": "response.create", "input": "hi"}


async def test_a_session_holds_no_more_than_a_thousand_ids(hall):
    own = OwnObjects(hall.house.paths.owners, hall.name, are_listed=True)
    for n in range(3000):
        own.began(f"resp_{n}", "a")
    assert len(own._ids) == len(own._order) == 1000


async def test_a_request_over_http_and_a_session_get_the_same_answer_for_another_clients_id(keyed):
    other, upstream = await keyed.pair("/v1/responses", BOB)
    await write_down(keyed, FILE, "file-anns", account_of(keyed, upstream), "ann")
    await other.send(TEXT, json.dumps({"type": "response.create", "model": "gpt-4o", "input": CONTENT}).encode())
    over_socket = await heard(other)
    keyed.house.upstream.otherwise = says(200, {})
    body = json.dumps({"model": "gpt-4o", "input": CONTENT}).encode()
    over_http = await keyed.house.ask(Client(body, target="/v1/responses", key=CLIENTS[1]["key"]))
    assert (over_http.status, over_http.error) == (over_socket["status"], over_socket["error"])
