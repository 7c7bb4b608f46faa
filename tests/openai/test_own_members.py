"""A response that is served to another client repeats that client's own request, not the first one's."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response
from quotapool.openai.own_members import OWN, OwnMembers

FIRST = {
    "id": "resp_1",
    "metadata": {"who": "first", "a": "response: é"},
    "output": [{"type": "message", "content": [{"type": "output_text", "text": 'say "response"', "metadata": 1}]}],
    "user": "first",
    "safety_identifier": "first",
    "prompt_cache_key": "first",
    "prompt_cache_retention": "24h",
    "service_tier": "flex",
    "unknown": 1.50,
}
SECOND = {"user": "second", "metadata": {"who": "second"}}
EXPECTED = {
    **FIRST,
    "metadata": {"who": "second"},
    "user": "second",
    "safety_identifier": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
}


def event(kind: str, **members: Any) -> tuple[str, dict[str, Any]]:
    return kind, {"type": kind, "sequence_number": 0, **members}


EVENTS = [
    event("response.created", response={**FIRST, "output": []}),
    event("response.in_progress", response={**FIRST, "output": []}),
    event("response.output_text.delta", delta='"response"'),
    event("response.output_text.delta", delta="first"),
    event("response.completed", response=FIRST),
]


def stream(line_end: str) -> bytes:
    events = (f"event: {kind}{line_end}data: {json.dumps(data)}{line_end}{line_end}" for kind, data in EVENTS)
    return "".join(events).encode()


def put(own: Any, answer: bytes, cuts: list[int], *, streamed: bool) -> bytes:
    members = OwnMembers(json.dumps(own).encode() if own else b"", streamed=streamed)
    edges = [0, *sorted(cuts), len(answer)]
    pieces = [answer[a:b] for a, b in pairwise(edges)]
    return b"".join([*(members.feed(piece) for piece in pieces), members.finish()])


def read(events: bytes) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in events.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n\n"):
        if block:
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@given(st.lists(st.integers(0, 900), max_size=4))
def test_a_json_answer_gets_the_requests_own_members(cuts):
    assert json.loads(put(SECOND, json.dumps(FIRST).encode(), cuts, streamed=False)) == EXPECTED


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_so_does_a_stream_split_at_every_byte(line_end):
    answer = stream(line_end)
    wanted = [
        (kind, {**data, "response": {**EXPECTED, "output": data["response"]["output"]}} if "response" in data else data)
        for kind, data in EVENTS
    ]
    for cut in range(len(answer)):
        assert read(put(SECOND, answer, [cut], streamed=True)) == wanted
    assert read(put(SECOND, answer, list(range(len(answer))), streamed=True)) == wanted


def test_events_pass_as_soon_as_they_are_complete():
    members = OwnMembers(b"", streamed=True)
    created, _, delta, *_ = stream("\n").split(b"\n\n")
    assert members.feed(delta + b"\n") == b""
    assert members.feed(b"\n") == delta + b"\n\n"
    quick = delta + b"\n\n"
    assert members.feed(quick.replace(b'\\"response\\"', b"x")) == quick.replace(b'\\"response\\"', b"x")
    assert b"first" not in members.feed(created + b"\n\n")


@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_that_has_them_already_keeps_its_bytes(streamed):
    own = {name: FIRST[name] for name in OWN}
    own_text = {name: json.dumps(value) for name, value in own.items()}
    answer = stream("\n") if streamed else json.dumps(FIRST).encode()
    given_members = "{" + ",".join(f'"{name}":{text}' for name, text in own_text.items()) + "}"
    members = OwnMembers(given_members.encode(), streamed=streamed)
    assert members.feed(answer) + members.finish() == answer


def test_a_member_that_upstream_does_not_state_is_not_added():
    assert put(SECOND, b'{"id":"resp_1"}', [], streamed=False) == b'{"id":"resp_1"}'


def test_all_of_them_are_members_of_a_response():
    """`user` is stated by the API, and unknown to the SDK's type."""
    assert set(OWN) - {"user"} <= set(Response.model_fields)


@given(st.binary(max_size=60) | st.sampled_from([b'{"response', b'data: {"response":', b'data: {"response":1}\n\n']))
def test_what_cannot_be_read_stays_as_it_is(answer):
    assert put(SECOND, answer, [3], streamed=True) == answer
    assert put(SECOND, b"x" + answer, [3], streamed=False) == b"x" + answer
