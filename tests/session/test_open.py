"""Sessions that are held: how they end with their keys, with the proxy, and with a side that is silent."""

from __future__ import annotations

import asyncio
from errno import EHOSTUNREACH, ETIMEDOUT

import pytest
from quotapool.domain.states import Record, State
from quotapool.session import open as held

from tests.fakes.sessions import Hall, heard, say

TARGET = "/v1/realtime?model=gpt-realtime"
DONE = {"type": "response.done", "response": {"id": "resp_1", "usage": {"total_tokens": 1, "input_tokens": 1}}}


async def remove(hall: Hall, state: State = State.REMOVED) -> None:
    house = hall.house
    key = house.roster.pool.keys["a1"]
    record = Record(state, "test", 0.0, fingerprint=key.fingerprint, by="operator")
    await house.ledger.registry.change_state("k/a1", record, by="operator", fingerprint=key.fingerprint)
    await house.sync.refresh()


@pytest.mark.parametrize("state", [State.REMOVED, State.DISABLED, State.DRAINING])
async def test_a_key_that_leaves_the_pool_ends_its_sessions_so_that_sdks_connect_again(open_hall, monkeypatch, state):
    monkeypatch.setattr(held, "_LOOK_S", 0.02)
    hall = await open_hall({"a": 1})
    client, _ = await hall.pair(TARGET)
    await remove(hall, state)
    assert (await client.closed())[0] == 1012


async def test_a_response_under_way_is_waited_for_but_not_forever(open_hall, monkeypatch, fast_time):
    monkeypatch.setattr(held, "_LOOK_S", 0.02)
    monkeypatch.setattr(held, "_LAST_WORDS_S", 0.3)
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair(TARGET)
    stuck, _ = await hall.pair(TARGET)
    await say(upstream, type="response.created", response={"id": "resp_1"})
    await heard(client)
    await remove(hall)
    await asyncio.sleep(0.1)
    await say(upstream, **DONE)
    assert (await heard(client))["type"] == "response.done"
    assert (await client.closed())[0] == 1012
    assert (await stuck.closed())[0] == 1012


async def test_a_restart_says_so_to_every_session(open_hall):
    hall = await open_hall({"a": 1})
    pairs = [await hall.pair(TARGET) for _ in range(3)]
    closing = asyncio.create_task(hall.sessions.close(2.0))
    for client, upstream in pairs:
        assert await client.closed() == (1012, "the proxy is restarting; connect again")
        await client.close(1012)
        assert (await upstream.closed())[0] == 1001
    await closing
    assert hall.sessions.open == 0
    assert hall.house.recorder.sessions == {"a": 0}


async def test_a_restart_says_so_to_a_session_whose_handshake_was_under_way(open_hall, fast_time, virtual_time):
    hall = await open_hall({"a": 1})
    virtual_time.pause_store(1.0)
    opening = asyncio.create_task(hall.connect(TARGET))
    await asyncio.sleep(0.1)
    await hall.sessions.close(2.0)
    client = await opening
    assert await client.closed() == (1012, "the proxy is restarting; connect again")


async def test_nothing_follows_a_close_whatever_the_other_side_still_says(open_hall, monkeypatch, fast_time):
    monkeypatch.setattr("quotapool.session.relay._FAREWELL_S", 0.5)
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair(TARGET)
    closing = asyncio.create_task(hall.sessions.close(2.0))
    assert (await client.closed())[0] == 1012
    assert (await upstream.closed())[0] == 1001
    for side in (client, upstream):  # which has not heard it yet, and answers no close
        await say(side, type="too late")
    for side in (client, upstream):
        assert await side.ended()
    await closing


@pytest.mark.parametrize("error", [ETIMEDOUT, EHOSTUNREACH])
async def test_when_the_kernel_gives_upstream_up_the_client_is_told_to_connect_again(open_hall, error):
    hall = await open_hall({"a": 1})
    client, _ = await hall.pair(TARGET)
    ((session,),) = [hall.sessions._open._open]
    transport = session.live._upstream._transport
    transport.get_protocol().connection_lost(OSError(error, "as the loop reports it"))
    assert await client.closed() == (1011, "the upstream is gone")
    transport.abort()


async def test_who_is_silent_is_asked_for_a_sign_of_life_and_given_up_without_one(open_hall, monkeypatch, fast_time):
    monkeypatch.setattr(held, "_LOOK_S", 0.02)
    monkeypatch.setattr("quotapool.session.relay._PING_AFTER_S", 0.1)
    monkeypatch.setattr("quotapool.session.relay._LOST_AFTER_S", 0.4)
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair(TARGET)

    answered = 0
    while (said := await client.receive())[0] == 9:
        await client.send(10, said[1])
        answered += 1
    assert answered >= 2  # the client answers, and is not given up on; upstream does not
    assert said == (8, (1011).to_bytes(2, "big") + b"the upstream is gone")
    while not await upstream.ended():
        pass
