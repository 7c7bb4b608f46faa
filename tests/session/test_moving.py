"""A session whose account cools down, drains or is out goes on with another account before its next response, where
nothing binds it; else its client is told why."""

from __future__ import annotations

from typing import Any

import pytest
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.openai.ids import CONVERSATION
from quotapool.session import open as held

from tests.fakes.sessions import Hall, Peer, heard, say

RATE_LIMIT = {
    "type": "error",
    "status": 429,
    "error": {"type": "tokens", "code": "rate_limit_exceeded", "message": "Rate limit reached. Try again in 50s."},
}


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr(held, "_LOOK_S", 0.01)


def create(**more: Any) -> dict[str, Any]:
    return {"type": "response.create", "model": "gpt-4o", "input": "hi", "store": False, **more}


def account_of(hall: Hall, upstream: Peer) -> str:
    secret = (upstream.field("Authorization") or "").removeprefix("Bearer ")
    return next(hall.house.account_of(key) for key, known in hall.house.secrets.items() if known == secret)


async def answer(upstream: Peer, client: Peer, name: str) -> None:
    usage = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
    await say(upstream, type="response.created", response={"id": name})
    await say(upstream, type="response.completed", response={"id": name, "usage": usage, "status": "completed"})
    assert [(await heard(client))["type"] for _ in range(2)] == ["response.created", "response.completed"]


async def take_out(hall: Hall, account: str, state: State) -> None:
    house = hall.house
    key = house.roster.pool.accounts[account].keys[0]
    record = Record(state, "operator", 0.0, by=OPERATOR, fingerprint=key.fingerprint)
    await house.ledger.registry.change_state(Subject.of_key(key.id), record, fingerprint=key.fingerprint)
    await house.sync.refresh()


async def one_turn(hall: Hall) -> tuple[Peer, Peer]:
    """A session that has had a response: (client, upstream)."""
    client, upstream = await hall.pair("/v1/responses")
    await say(client, **create())
    assert (await heard(upstream))["type"] == "response.create"
    await answer(upstream, client, "resp_1")
    return client, upstream


@pytest.mark.parametrize("state", [State.DRAINING, State.DISABLED, State.REMOVED])
async def test_a_session_whose_key_is_out_goes_on_with_another_account(open_hall, state):
    hall = await open_hall({"a": 1, "b": 1})
    client, upstream = await one_turn(hall)
    first = account_of(hall, upstream)
    await take_out(hall, first, state)
    await say(client, **create(input="and now?"))
    other = await hall.upstream.accepted()
    assert {first, account_of(hall, other)} == {"a", "b"}
    assert (await heard(other))["input"] == "and now?"
    await answer(other, client, "resp_2")
    assert await upstream.closed() == (1001, "")
    assert hall.house.recorder.sessions == {first: 0, account_of(hall, other): 1}
    await hall.over_with(client, other)


async def test_a_session_whose_account_cools_down_goes_on_with_another_one(open_hall):
    hall = await open_hall({"a": 1, "b": 1})
    client, upstream = await one_turn(hall)
    await say(client, **create())
    await heard(upstream)
    await say(upstream, **RATE_LIMIT)
    assert (await heard(client))["error"]["code"] == "rate_limit_exceeded"
    await hall.settled()
    await say(client, **create())
    other = await hall.upstream.accepted()
    assert account_of(hall, other) != account_of(hall, upstream)
    assert (await heard(other))["type"] == "response.create"
    await answer(other, client, "resp_2")
    await hall.over_with(client, other)


@pytest.mark.parametrize("bond", [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"}])
async def test_what_needs_this_connection_or_account_stays_and_the_client_is_told_why(open_hall, bond):
    hall = await open_hall({"a": 1, "b": 1}, objects={"search": False})
    client, upstream = await one_turn(hall)
    account = account_of(hall, upstream)
    written = hall.house.paths.owners.remember([(CONVERSATION, "conv_1")], account, "")
    assert written is not None
    await written
    await take_out(hall, account, State.REMOVED)
    await say(client, **create(**bond))
    assert (await heard(client))["type"] == "error"
    code, reason = await client.closed()
    assert (code, reason) == (1012, "the upstream key of this session has left the pool; connect again")
    assert len(hall.upstream.requests) == 1


async def test_without_another_account_the_session_stays_where_it_is(open_hall):
    hall = await open_hall({"a": 1})
    client, _ = await one_turn(hall)
    await take_out(hall, "a", State.DRAINING)
    await say(client, **create())
    assert (await heard(client))["type"] == "error"
    assert len(hall.upstream.requests) == 1


async def test_a_response_under_way_keeps_the_session_where_it_is(open_hall):
    hall = await open_hall({"a": 1, "b": 1})
    client, upstream = await hall.pair("/v1/responses")
    await say(client, **create())
    await heard(upstream)
    await say(upstream, type="response.created", response={"id": "resp_1"})
    await heard(client)
    await take_out(hall, account_of(hall, upstream), State.DRAINING)
    usage = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
    await say(upstream, type="response.completed", response={"id": "resp_1", "usage": usage})
    assert (await heard(client))["type"] == "response.completed"
    assert len(hall.upstream.requests) == 1
