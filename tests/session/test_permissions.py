"""Sessions and stored objects: a session runs where what it names is kept, and names nothing of somebody else's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from quotapool.openai.ids import CALL, FILE, RESPONSE
from structlog.testing import capture_logs

from tests.fakes.sessions import BINARY, TEXT, Hall, Peer, Refused, open_sessions

CLIENTS = [{"id": name, "key": f"{name}-has-this-key-01"} for name in ("ann", "bob")]
ANN, BOB = (f"Authorization: Bearer {client['key']}" for client in CLIENTS)


@pytest.fixture
async def hall(valkey_url) -> AsyncIterator[Hall]:
    """Five accounts, two clients, and a book of whose objects live where."""
    async with contextlib.AsyncExitStack() as stack:
        options = {"objects": {"search": False}, "clients": CLIENTS}
        opened = await stack.enter_async_context(open_sessions(valkey_url, dict.fromkeys("abcde", 1), **options))
        yield opened


def account_of(hall: Hall, upstream: Peer) -> str:
    secret = (upstream.field("Authorization") or "").removeprefix("Bearer ")
    return next(key.rstrip("1") for key, known in hall.house.secrets.items() if known == secret)


async def create(peer: Peer, **fields: Any) -> None:
    event = {"type": "response.create", "model": "gpt-4o", "input": "hi", **fields}
    await peer.send(TEXT, json.dumps(event).encode())


async def write_down(hall: Hall, kind: Any, object_id: str, account: str, client: str) -> None:
    task = hall.house.paths.owners.remember([(kind, object_id)], account, client)
    assert task is not None
    await task


async def test_a_session_joins_a_call_on_the_account_that_made_it(hall):
    for account in "abcde":
        await write_down(hall, CALL, f"rtc_{account}", account, "ann")
        _, upstream = await hall.pair(f"/v1/realtime?call_id=rtc_{account}", ANN)
        assert account_of(hall, upstream) == account


async def test_a_call_of_another_client_does_not_exist(hall):
    await write_down(hall, CALL, "rtc_1", "c", "ann")
    with pytest.raises(Refused) as refused:
        await hall.connect("/v1/realtime?call_id=rtc_1", BOB)
    assert refused.value.status == 404
    assert hall.upstream.requests == []


async def test_all_sessions_of_a_client_for_responses_run_on_its_home(hall):
    homes = {account_of(hall, (await hall.pair("/v1/responses", ANN))[1]) for _ in range(5)}
    assert len(homes) == 1


async def test_a_response_made_in_a_session_is_found_later_and_only_by_its_owner(hall):
    client, upstream = await hall.pair("/v1/responses", ANN)
    await create(client)
    await upstream.receive()
    await upstream.send(TEXT, b'{"type":"response.created","response":{"id":"resp_1","model":"gpt-4o"}}')
    await client.receive()
    await hall.settled()
    book = hall.house.paths.owners
    await book.close()
    (owner,) = await book.find([(RESPONSE, "resp_1")], "ann")
    assert owner is not None
    # The chain goes on in the session; another client's does not begin with it.
    await create(client, previous_response_id="resp_1")
    assert b"resp_1" in (await upstream.receive())[1]
    other, _ = await hall.pair("/v1/responses", BOB)
    await create(other, previous_response_id="resp_1", stream_id="lane")
    said = json.loads((await other.receive())[1])
    assert (said["type"], said["status"], said["stream_id"]) == ("error", 400, "lane")
    assert said["error"]["message"] == "Previous response with id 'resp_1' not found."


async def test_a_session_goes_where_the_objects_are_that_a_response_names(hall):
    client, upstream = await hall.pair("/v1/responses", ANN)
    elsewhere = next(account for account in "abcde" if account != account_of(hall, upstream))
    await write_down(hall, RESPONSE, "resp_3", elsewhere, "ann")
    await create(client, previous_response_id="resp_3")
    other = await hall.upstream.accepted()
    assert account_of(hall, other) == elsewhere
    assert b"resp_3" in (await other.receive())[1]
    assert await upstream.closed() == (1001, "")


async def test_beside_what_the_session_made_nothing_of_another_account_can_be_named_and_the_error_says_so(hall):
    client, upstream = await hall.pair("/v1/responses", ANN)
    await create(client)
    await upstream.receive()
    response = {"id": "resp_1", "status": "completed", "usage": {"input_tokens": 1, "output_tokens": 1}}
    for kind in ("response.created", "response.completed"):
        await upstream.send(TEXT, json.dumps({"type": kind, "response": response}).encode())
        await client.receive()
    elsewhere = next(account for account in "abcde" if account != account_of(hall, upstream))
    await write_down(hall, FILE, "file-3", elsewhere, "ann")
    with capture_logs() as lines:
        named = [{"role": "user", "content": [{"type": "input_file", "file_id": "file-3"}]}]
        await create(client, previous_response_id="resp_1", input=named)
        said = json.loads((await client.receive())[1])
    assert [line["code"] for line in lines if line["event"] == "event refused"] == ["object_elsewhere"]
    assert (said["status"], said["error"]["code"]) == (400, "object_elsewhere")


@pytest.mark.parametrize(
    ("opcode", "before"),
    [(BINARY, b""), (TEXT, b'"type":"response.cancel",'), (TEXT, b'"x":NaN,'), (TEXT, b'"x":"\\ud800",')],
    ids=["a binary message", "two types", "not a number", "half a character"],
)
async def test_no_spelling_of_an_event_hides_what_it_names(hall, opcode, before):
    await write_down(hall, RESPONSE, "resp_1", "a", "ann")
    other, upstream = await hall.pair("/v1/responses", BOB)
    event = b'{"type":"response.create","model":"gpt-4o","input":"hi","previous_response_id":"resp_1"}'
    await other.send(opcode, b"{" + before + event[1:])
    said = json.loads((await other.receive())[1])
    assert (said["type"], said["status"]) == ("error", 400)
    assert said["error"]["message"] == "Previous response with id 'resp_1' not found."
    await other.send(TEXT, b'{"type":"response.cancel"}')
    assert (await upstream.receive())[1] == b'{"type":"response.cancel"}', "and nothing before it"
