"""Over real sockets: a form that names its model behind its file, and an upstream that repeats our key."""

from __future__ import annotations

import json

import pytest

from tests.fakes.wire import open_wire, post

FORM = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n' + b"\xff" * 200_000 + b"\r\n"
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b--\r\n'
)
UPLOAD = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: %d\r\n\r\n" % len(FORM)
) + FORM
CHAT = b'{"model": "gpt-4o", "messages": [], "stream": true}'


async def test_the_third_upload_a_minute_is_refused_where_two_fit_though_the_model_comes_last(valkey_url):
    limits = {"models": {"whisper-1": {"rpm": 3}}}
    async with open_wire(valkey_url, limits=limits, queue={"max_wait": 0}) as wire:
        statuses = []
        for _ in range(3):
            head, body = await wire.ask(UPLOAD)
            statuses.append(head[9:12])
        assert statuses == [b"200", b"200", b"429"]
        assert json.loads(body)["error"]["code"] == "rate_limit_exceeded"
        assert b"retry-after: " in head
        assert [request.endswith(FORM) for request in wire.upstream.requests] == [True, True]
        assert (await wire.ask(post(CHAT)))[0].startswith(b"HTTP/1.1 200 ")  # nothing is left behind


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "text/plain"])
async def test_a_key_that_upstream_repeats_reaches_no_client_whatever_carries_it(valkey_url, content_type, framing):
    async with open_wire(valkey_url) as wire:
        secret = wire.house.secrets["a1"].encode()
        said = (
            b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\ndata: {"error": {"message": "odd: '
            + secret
            + b'"}}\n\n'
        )
        more = {"length": b"Content-Length: %d\r\n" % len(said), "chunked": b"Transfer-Encoding: chunked\r\n"}
        cut = len(said) - 30
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (said[:cut], said[cut:])) + b"0\r\n\r\n"
        head = b"HTTP/1.1 200 Key %b\r\nContent-Type: %b\r\nLocation: /?k=%b\r\n" % (
            secret,
            content_type.encode(),
            secret,
        )
        wire.upstream.answer = head + more.get(framing, b"") + b"\r\n" + (chunks if framing == "chunked" else said)
        if framing == "close":
            send = wire.upstream.answer

            async def script(request) -> None:
                await request.rest()
                await request.send(send)

            wire.upstream.script = script
        client = await wire.connect()
        await client.send(post(CHAT, "Connection: close"))
        got = await client.reader.read(-1)
        assert got.startswith(b"HTTP/1.1 200 ")
        assert secret not in got
        assert b"odd: ***" in got
