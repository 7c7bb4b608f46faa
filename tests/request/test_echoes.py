"""An upstream that repeats our key: it reaches no client, wherever the key stands and however it is written."""

from __future__ import annotations

import contextlib
import gzip
import json
from dataclasses import replace

import pytest

from tests.fakes.edge import DONE, Client, Reply, chat_body, delta, event, says, stream

SECRET = f"sk-test-a1-{'x' * 32}"
RESPONSE = json.dumps({"model": "gpt-4o", "input": "hi", "stream": True}).encode()
NAMES = {"content-type": "application/json"}


def shown(client: Client) -> str:
    return client.got.decode("latin-1") + str(client.answered)


async def answered(open_pool, reply: Reply, client: Client | None = None, reason: str = "") -> Client:
    pool = await open_pool({"a": 1})
    assert pool.secrets["a1"] == SECRET
    send = pool.upstream.send

    async def sent(*args, **more):
        answer = await send(*args, **more)
        answer.reason = reason
        return answer

    pool.upstream.send = sent
    pool.upstream.otherwise = reply
    client = client or Client(chat_body())
    await pool.ask(client)
    assert SECRET not in shown(client) + client.reason
    assert pool.is_idle()
    return client


ECHO = json.dumps({"error": {"message": f"odd: {SECRET}", "type": "x", "code": "y", "param": None}}).encode()


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "gzip, gzip", "x-unheard-of", "gzip"])
async def test_an_error_whose_encoding_cannot_be_read_becomes_a_clean_one_of_the_same_status(open_pool, encoding):
    body = b"\x0b\x02\x80" + ECHO  # as a brotli stream stores what does not compress
    client = await answered(open_pool, Reply(400, pieces=[body]).named(Content_Encoding=encoding, x_request_id="r"))
    assert (client.status, client.header("content-encoding"), client.header("x-request-id")) == (400, None, "r")
    assert (client.header("content-type"), client.error["type"]) == ("application/json", "invalid_request_error")
    assert "encoding" in client.error["message"]


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(b"{}") + gzip.compress(ECHO),  # clients read both members
        gzip.compress(b" " * 2**20 + ECHO),  # beyond what is read here
        gzip.compress(ECHO)[:-4],
    ],
    ids=["two members", "long", "truncated"],
)
async def test_an_encoded_error_passes_as_it_came_only_if_all_of_it_was_read(open_pool, body):
    client = await answered(open_pool, Reply(400, pieces=[body]).named(Content_Encoding="gzip"))
    assert (client.status, client.header("content-encoding")) == (400, None)


@pytest.mark.parametrize(
    "body",
    [
        ECHO,
        ECHO.replace(b"sk-", b"\\u0073k\\u002d"),
        ECHO.decode().encode("utf-16"),
        ECHO.decode().encode("utf-32-be"),
        b"<html>" + ECHO,
    ],
    ids=["plain", "JSON escapes", "utf-16", "utf-32", "page"],
)
async def test_an_error_body_shows_the_key_in_no_spelling(open_pool, body):
    client = await answered(open_pool, Reply(400, pieces=[body]))
    assert client.status == 400
    assert SECRET not in client.got.replace(b"\0", b"").decode("latin-1")
    with contextlib.suppress(ValueError, RecursionError):  # it may be no JSON
        assert SECRET not in str(json.loads(client.got))


async def test_an_error_that_no_client_can_read_does_not_pass(open_pool):
    client = await answered(open_pool, Reply(400, pieces=[b"[" * 30_000 + b'"\\u0073' + ECHO]))
    assert client.status == 502
    assert SECRET not in client.got.decode("latin-1")


@pytest.mark.parametrize("status", [200, 201, 302, 400, 404])
@pytest.mark.parametrize(
    "reason", [f"Key {SECRET}", f"Key {SECRET.replace('-', '%2d')}", "Key sk-proj-other1234567890abcdef"]
)
async def test_a_reason_phrase_that_shows_a_key_is_dropped(open_pool, status, reason):
    client = await answered(open_pool, says(status, {}), reason=reason)
    assert (client.status, client.reason) == (status, "")


async def test_any_other_reason_phrase_passes(open_pool):
    client = await answered(open_pool, says(400, {}), reason="Bad Request of a new kind")
    assert client.reason == "Bad Request of a new kind"


@pytest.mark.parametrize("status", [200, 302, 400])
@pytest.mark.parametrize(
    "value",
    [
        f"https://x/?key={SECRET}",
        f"https://x/?key={SECRET.replace('-', '%2D')}",
        f"https://x/?a={SECRET.replace('-', '%252D')}",
    ],
)
async def test_a_location_that_shows_the_key_does_not_pass(open_pool, status, value):
    client = await answered(open_pool, says(status, {}).named(Location=value, X_Other="100%"))
    assert (client.status, client.header("location"), client.header("x-other")) == (status, None, "100%")
    assert "%2D" not in shown(client)
    assert "%252D" not in shown(client)


async def test_a_header_named_like_the_key_does_not_pass(open_pool):
    assert (await answered(open_pool, says(200, {}).named(**{SECRET: "1"}))).status == 200


@pytest.mark.parametrize("size", [1, 7, 50, 10_000])
@pytest.mark.parametrize("streamed", ["chat", "responses", "other"])
async def test_an_event_that_repeats_the_key_is_cleaned_at_any_split(open_pool, streamed, size):
    failed = event({"type": "error", "error": {"message": f"odd: {SECRET}", "code": "server_error"}})
    begun = (
        event({"type": "response.output_text.delta", "delta": "Hi"}) if streamed == "responses" else delta(content="Hi")
    )
    whole = begun + failed + (DONE if streamed == "chat" else b"")
    parts = [whole[at : at + size] for at in range(0, len(whole), size)]
    client = {
        "chat": Client(chat_body(stream=True)),
        "responses": Client(RESPONSE, target="/v1/responses"),
        "other": Client(chat_body(stream=True), target="/v1/unheard/of"),
    }[streamed]
    await answered(open_pool, stream(*parts), client)
    assert client.got == whole.replace(SECRET.encode(), b"*" * len(SECRET))


async def test_an_error_that_begins_a_stream_is_cleaned_too(open_pool):
    failed = event({"error": {"message": f"odd: {SECRET}", "code": "invalid_value", "type": "invalid_request_error"}})
    client = await answered(open_pool, stream(failed, DONE), Client(chat_body(stream=True)))
    assert (client.status, client.error["code"]) == (400, "invalid_value")


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
@pytest.mark.parametrize(
    "client",
    [
        Client(chat_body()),
        Client(b'{"model":"gpt-image-2","prompt":"x"}', target="/v1/images/generations"),
        Client(target="/v1/files/file-1", method="GET"),
        Client(target="/v1/models", method="GET"),
    ],
    ids=["chat", "images", "file", "models"],
)
async def test_json_under_200_that_repeats_the_key_is_cleaned(open_pool, client, encoding):
    import zlib

    packed = {"": ECHO, "gzip": gzip.compress(ECHO), "deflate": zlib.compress(ECHO)}[encoding]
    reply = Reply(200, pieces=[packed])
    reads = client.method == "POST"
    if encoding and not reads:
        return  # passes unread, as it came
    fresh = replace(client, pieces=[], answered=[])
    await answered(open_pool, reply.named(Content_Encoding=encoding) if encoding else reply, fresh)
    assert fresh.status == 200
    assert json.loads(fresh.got)["error"]["message"] == "odd: " + "*" * len(SECRET)


async def test_a_large_answer_and_a_file_keep_their_lengths(open_pool):
    body = b'{"pad":"' + b"s" * 5 * 2**20 + SECRET.encode() + b'"}'
    parts = [body[at : at + 65_000] for at in range(0, len(body), 65_000)]
    expected = body.replace(SECRET.encode(), b"*" * len(SECRET))
    for client in (Client(chat_body()), Client(target="/v1/files/file-1/content", method="GET")):
        await answered(open_pool, Reply(200, pieces=parts).named(Content_Length=str(len(body))), client)
        assert (client.got, client.length, client.finished) == (expected, len(body), True)


async def test_an_encoded_answer_without_the_key_passes_as_it_came_and_its_usage_is_read(open_pool):
    usage = {"prompt_tokens": 400, "completion_tokens": 100}
    packed = gzip.compress(json.dumps({"object": "chat.completion", "choices": [], "usage": usage}).encode())
    pool = await open_pool({"a": 1})
    pool.upstream.next(Reply(200, pieces=[packed]).named(Content_Encoding="gzip"))
    client = await pool.ask()
    assert (client.got, client.header("content-encoding")) == (packed, "gzip")
    assert await pool.taken("a") == (1, 500)
