"""What passes is what came: streams cut at any byte, and any path that is forwarded at all (Hypothesis)."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.echoes import EchoFilter
from quotapool.openai.endpoints import Endpoint, resolve
from quotapool.openai.sse import StreamRelay
from quotapool.request.outcome import Passed
from quotapool.request.relay import pass_stream
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts
from quotapool.upstream.routes import Route

from tests.fakes.edge import Client, FakeAnswer, FakeUpstream, stream
from tests.openai.test_stream_relay import streams

CUTS = st.lists(st.integers(0, 10**6), max_size=12)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Without empty ones: upstream's side never hands on nothing."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


def relayed(data: bytes, cuts: list[int], dialect: str, *, strip: bool = False) -> bytes:
    """What the client gets of a stream that comes in these pieces; the preamble is held as ever."""
    client, passed = Client(), Passed()

    async def run() -> None:
        answer = FakeAnswer(FakeUpstream({}), stream(*pieces(data, cuts)))
        await pass_stream(client, answer, [], StreamRelay(dialect, strip), 0.5, passed, EchoFilter("a secret"))

    asyncio.run(run())
    assert client.finished
    assert passed.complete
    return client.got


@given(streams(), CUTS)
def test_a_chat_stream_passes_as_it_came_and_stripped_as_if_nobody_had_asked(both, cuts):
    never_asked, asked = both
    assert relayed(asked, cuts, "chat") == asked
    assert relayed(never_asked, cuts, "chat") == never_asked
    assert relayed(asked, cuts, "chat", strip=True) == never_asked


@st.composite
def typed_streams(draw) -> bytes:
    """Events as responses, images, audio and runs send them, with comments, names, ids, and every kind of line end."""
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    kinds = ["response.created", "response.in_progress", "keepalive", "response.output_text.delta", "thread.run.queued",
             "image_generation.partial_image", "transcript.text.delta", "speech.audio.delta", "x"]  # fmt: skip
    out = []
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            out.append(draw(st.sampled_from([": ping", ":", "retry: 10", "id: 1"])) + newline * 2)
            continue
        kind = draw(st.sampled_from(kinds))
        data = {"type": kind, "delta": draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))}
        if draw(st.booleans()):
            data["response"] = {"id": "resp_1", "usage": draw(st.sampled_from([None, {"input_tokens": 1}]))}
        text = json.dumps(data, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        name = f"event: {kind}{newline}" if draw(st.booleans()) else ""
        out.append(name + newline.join(f"data: {line}" for line in text.split("\n")) + newline * 2)
    out.append(
        draw(st.sampled_from(["", "data: [DONE]\n\n", 'data: {"type":"response.completed"}\n\n', "data: cut of"]))
    )
    return "".join(out).encode()


@given(typed_streams(), CUTS)
def test_a_typed_stream_passes_as_it_came(data, cuts):
    assert relayed(data, cuts, "responses") == data


@given(st.binary(max_size=200), CUTS, st.sampled_from(["chat", "responses"]), st.booleans())
def test_so_do_bytes_that_are_no_events(data, cuts, dialect, strip):
    assert relayed(data, cuts, dialect, strip=strip) == data


@pytest.mark.parametrize("strip", [False, True])
def test_an_event_of_megabytes_passes_whole(strip):
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 3_000_000 + b'"}}]}\n\n'
    assert relayed(event * 2, list(range(0, 6_000_000, 65_536)), "chat", strip=strip) == event * 2


# ---- paths

SEGMENT = st.text("abcXYZ019-_.~!$&'()*+,;=:@", min_size=1, max_size=8) | st.sampled_from(
    ["models", "files", "chat", "completions", "responses", "content", "file-1", "%41", "a%20b", "%e2%82%ac", "ft:x::y"]
)
QUERY = st.text("abc&=[]%20+/?:@-._~!$'()*,;", max_size=30)


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
    st.lists(SEGMENT, min_size=1, max_size=6),
    st.none() | QUERY,
)
def test_a_path_that_is_forwarded_goes_out_letter_by_letter(method, segments, query):
    target = "/v1/" + "/".join(segments) + ("" if query is None else f"?{query}")
    if not isinstance(resolve(method, target), Endpoint):
        return
    upstream = UpstreamClient("http://upstream.example/prefix", Timeouts(1, 1, 1))
    head, _ = upstream._head(method, target, [], None)
    assert head.startswith(f"{method} /prefix{target} HTTP/1.1\r\n".encode())
    assert Route("http://elsewhere.example").target(target) == target
    asked = Route("http://elsewhere.example", query={"zz": "1"}).target(target)
    assert asked.startswith(target)
    assert asked.removeprefix(target) in {"?zz=1", "&zz=1", "zz=1"}
