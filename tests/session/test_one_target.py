"""A session's target has one reading, and every model that its client names must be the client's."""

from __future__ import annotations

import json

import pytest
from quotapool.openai.ids import CALL, LIVE

from tests.fakes.sessions import TEXT, Hall, Refused

NAMES = {"ann": [], "bob": [], "some": ["gpt-4o", "gpt-realtime"]}
CLIENTS = [{"id": name, "key": f"{name}-has-this-key-01", "models": models} for name, models in NAMES.items()]
BOB, SOME = (f"Authorization: Bearer {name}-has-this-key-01" for name in ("bob", "some"))


@pytest.fixture
async def hall(open_hall) -> Hall:
    opened = await open_hall(dict.fromkeys("ab", 1), clients=CLIENTS, objects={"search": False})
    for kind, object_id, client in ((CALL, "rtc_ann", "ann"), (CALL, "rtc_bob", "bob"), (LIVE, "sess_ann", "ann")):
        await opened.house.paths.owners.remember([(kind, object_id)], "a", client)
    return opened


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("/v1/realtime?model=gpt-4o&model=gpt-image-1", SOME),
        ("/v1/realtime?model=gpt-4o&Model=gpt-image-1", SOME),
        ("/v1/realtime?model=gpt-4o&mod%65l=gpt-image-1", SOME),
        ("/v1/realtime?model=gpt-4o;model=gpt-image-1", SOME),
        ("/v1/realtime?x=1;model=gpt-image-1&model=gpt-4o", SOME),
        ("/v1/realtime?model=gpt-4o#&model=gpt-image-1", SOME),
        ("/v1/realtime?model=gpt-4o%00", SOME),
        ("/v1/realtime?call_id=rtc_bob&call_id=rtc_ann", BOB),
        ("/v1/realtime?call_id=rtc_bob&c%61ll_id=rtc_ann", BOB),
        ("/v1/realtime?call_id=rtc_bob&+call_id=rtc_ann", BOB),
    ],
)
async def test_a_target_with_two_readings_is_refused(hall, target, key):
    with pytest.raises(Refused) as refused:
        await hall.connect(target, key)
    assert refused.value.status == 400
    assert hall.upstream.requests == []


@pytest.mark.parametrize(
    "target",
    [
        "/v1/live/sessions/sess_ann/control",
        "/v1/live/s%65ssions/sess_ann/control",
        "/v1/Live//Sessions/s%65ss_ann/control",
        "/v1/live/sessions/sess_ann/control?call_id=rtc_bob",
        "/v1/realtime?call_id=rtc%5Fann",
    ],
)
async def test_no_spelling_joins_what_another_client_made(hall, target):
    with pytest.raises(Refused) as refused:
        await hall.connect(target, BOB)
    assert refused.value.status == 404
    assert hall.upstream.requests == []


async def test_models_in_the_target_are_the_clients_under_each_of_their_names(hall):
    for target in ("/v1/realtime?model=gpt-image-1", "/v1/realtime?model=gpt-4o&deployment=x", "/v1/responses?model=x"):
        with pytest.raises(Refused) as refused:
            await hall.connect(target, SOME)
        assert refused.value.status == 403
    await hall.pair("/v1/realtime?model=gpt%2D4o&include%5B%5D=a".replace("%5B%5D", "[]"), SOME)


@pytest.mark.parametrize(
    "event",
    [
        b'{"type":"session.update","session":{"audio":{"input":{"transcription":{"model":"gpt-4o-transcribe"}}}}}',
        b'{"type":"session.update","session":{"input_audio_transcription":{"mod\\u0065l":"gpt-4o-transcribe"}}}',
        b'{"type":"session.update","session":{"model":"o3","model":"gpt-4o"}}',
        b'{"type":"response.create","response":{"model":"o3"}}',
    ],
)
async def test_a_session_uses_no_model_that_is_not_the_clients(hall, event):
    client, upstream = await hall.pair("/v1/realtime?model=gpt-realtime", SOME)
    await client.send(TEXT, event)
    opcode, answer = await client.receive()
    assert (opcode, json.loads(answer)["error"]["code"]) == (TEXT, "model_not_allowed")
    allowed = b'{"type":"session.update","session":{"model":"gpt-4o"}}'
    await client.send(TEXT, allowed)
    assert await upstream.receive() == (TEXT, allowed)


async def test_a_tool_of_a_response_uses_no_other_model_either(hall):
    client, _ = await hall.pair("/v1/responses", SOME)
    tools = [{"type": "image_generation", "model": "gpt-image-1"}]
    await client.send(TEXT, json.dumps({"type": "response.create", "model": "gpt-4o", "tools": tools}).encode())
    assert json.loads((await client.receive())[1])["error"]["code"] == "model_not_allowed"


async def test_an_event_that_is_large_only_when_decoded_is_refused(hall):
    client, _ = await hall.pair("/v1/responses", BOB)
    await client.send(TEXT, b'{"type":"response.create","model":"gpt-4o","input":[' + b"[]," * 500_000 + b"1]}")
    assert json.loads((await client.receive())[1])["error"]["code"] == "body_too_large"
