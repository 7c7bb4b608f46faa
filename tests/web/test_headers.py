"""Which headers cross the proxy, both ways: a few rules, and beyond them every byte, in order, duplicates included."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai.head import Head
from quotapool.openai.headers import encode_headers as lines_of
from quotapool.openai.headers import headers_for_client, headers_for_upstream

from tests.fakes.heads import head, lines, text
from tests.fakes.wire import parse_head, post

HOP_BY_HOP = "Connection Keep-Alive Proxy-Authenticate Proxy-Authorization Proxy-Connection TE Trailer"
HOP_BY_HOP += " Transfer-Encoding Upgrade"
OURS_TO_SET = (
    "Host Authorization api-key Cookie Content-Length Expect Accept-Encoding OpenAI-Organization OpenAI-Project"
)
HANDSHAKE = "Sec-WebSocket-Key Sec-WebSocket-Version Sec-WebSocket-Protocol Sec-WebSocket-Extensions"
NEVER_UP = {name.lower() for name in f"{HOP_BY_HOP} {OURS_TO_SET} {HANDSHAKE}".split()}
NEVER_DOWN = {
    name.lower() for name in f"{HOP_BY_HOP} Set-Cookie OpenAI-Organization OpenAI-Project Content-Length".split()
}
SECRET = "sk-test-secret-0123456789"

names = st.one_of(
    st.text(string.ascii_letters + string.digits + "-_.!~", min_size=1, max_size=20),
    st.sampled_from("Content-Type User-Agent X-Stainless-Lang Accept traceparent OpenAI-Beta Idempotency-Key".split()),  # noqa: SIM905
    st.sampled_from([*sorted(NEVER_UP | NEVER_DOWN), "X-RateLimit-Limit-Requests", "X-Quotapool-Source"]),
)
values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30)
fields = st.lists(st.tuples(names, values), max_size=12)
connections = st.lists(
    st.tuples(st.sampled_from(["Connection", "connection"]), st.lists(names, max_size=3).map(", ".join)), max_size=2
)


def trimmed(items):
    return [(name, value.rstrip(" ")) for name, value in items]


def named_by_connection(items) -> set[str]:
    return {part.strip().lower() for name, v in items if name.lower() == "connection" for part in v.split(",")}


@given(fields, connections)
def test_upward_only_the_named_rules_change_anything(some, more):
    items = some + more
    dropped = NEVER_UP | named_by_connection(items)
    kept = [(n, v) for n, v in items if n.lower() not in dropped and not n.lower().startswith("x-quotapool-")]
    sent = text(headers_for_upstream(head(items), (b"Authorization", b"Bearer x")))
    assert sent == [*trimmed(kept), ("Accept-Encoding", "identity"), ("Authorization", "Bearer x")]


@pytest.mark.parametrize(
    ("asked", "sent"),
    [("gzip", "gzip"), ("gzip, deflate, br, zstd", "gzip, deflate"), ("br;q=1, gzip;q=0.5", "gzip;q=0.5"),
     ("br", "identity"), ("*", "identity"), ("identity", "identity"), ("", "identity")],
)  # fmt: skip
def test_a_downloads_accept_encoding_is_the_clients_without_what_errors_could_hide_in(asked, sent):
    out = headers_for_upstream(head([("Accept-Encoding", asked)]), (b"api-key", b"x"), readable=False)
    assert text(out) == [("Accept-Encoding", sent), ("api-key", "x")]


def test_a_download_that_says_nothing_of_encodings_goes_up_so():
    credential = (b"Authorization", b"x")
    assert headers_for_upstream(head(), credential, readable=False) == [credential]


@given(fields, connections)
def test_downward_only_the_named_rules_change_anything(some, more):
    items = some + more
    dropped = NEVER_DOWN | named_by_connection(items)
    kept = [
        (n, v)
        for n, v in items
        if n.lower() not in dropped and not n.lower().startswith(("x-quotapool-", "x-ratelimit-"))
    ]
    assert text(headers_for_client(head(items), secret=SECRET)) == trimmed(kept)


@pytest.mark.parametrize("shown", [SECRET, SECRET.replace("-", "%2D"),
                                   SECRET.replace("-", "%252d")])  # fmt: skip
def test_a_header_that_repeats_the_keys_secret_stays_behind(shown):
    items = [("X-Before", "100%"), ("X-Debug", f"used {shown}!"), ("X-Other", "fine"), ("X-Odd", "\udcff")]
    assert text(headers_for_client(head(items), secret=SECRET)) == [items[0], *items[2:]]


plain = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30)


@given(st.lists(st.tuples(names, plain), max_size=12))
def test_each_header_is_one_line_as_it_was_given(items):
    assert lines_of(lines(items)) == "".join(f"{name}: {value}\r\n" for name, value in items).encode()


@given(st.lists(st.tuples(names, plain), max_size=3), st.tuples(names, plain, plain), st.integers(0, 3))
@pytest.mark.parametrize("control", [chr(n) for n in range(0x20) if n != 9] + ["\x7f", "\r\n", "\r\nX-More: 1"])
def test_a_value_that_would_not_be_one_line_is_refused_wherever_it_stands(control, items, odd, place):
    name, before, after = odd
    items.insert(place, (name, before + control + after))
    with pytest.raises(ValueError, match="not one line"):
        lines_of(lines(items))


@given(st.lists(st.tuples(names, st.binary(max_size=30), st.text(" \t", max_size=3)), max_size=12))
def test_bytes_of_any_kind_pass_as_they_came_but_for_space_at_a_values_end(items):
    """RFC 9112 §5: that space is not part of the value. Nor need the rest be UTF-8."""
    fields = [
        (name.encode(), value.translate(None, bytes([*range(0x20), 0x7F])).strip(), space)
        for name, value, space in items
    ]
    came = [(name, value + space.encode()) for name, value, space in fields]
    assert lines_of(Head(came).lines) == b"".join(b"%b: %b\r\n" % (name, value) for name, value, _ in fields)


async def test_space_around_a_value_is_left_behind_both_ways(wire):
    wire.upstream.answer = b"HTTP/1.1 200 OK\r\nX-B: \t 2 \t \r\nX-Empty:  \r\nContent-Length: 2 \r\n\r\n{}"
    head, body = await wire.ask(post(b'{"model": "gpt-4o"}', "X-A:\t 1 2 \t"))
    assert b"\r\nX-A: 1 2\r\n" in wire.upstream.requests[0]
    assert b"\r\nx-b: 2\r\nx-empty: \r\n" in head.lower()
    assert body == b"{}"


async def test_a_request_arrives_upstream_as_it_was_sent(wire):
    """In order, with duplicates and letters of any script; the key replaced, the length recomputed."""
    sent = [
        ("x-b", "2"), ("X-A", "1"), ("x-b", "3"), ("X-Odd", "caf\u00e9 \t tab"), ("Accept", "*/*"),
        ("OpenAI-Beta", "assistants=v2"), ("Idempotency-Key", "k"), ("X-Empty", ""),
    ]  # fmt: skip
    gone = [
        "Authorization: Bearer the-clients-own", "Cookie: a=b", "OpenAI-Organization: org-x", "OpenAI-Project: p",
        "Connection: close, X-Hop", "Connection: X-Hop2", "X-Hop: 1", "X-Hop2: 2", "TE: trailers",
        "Accept-Encoding: br", "X-Quotapool-Request-Id: forged", "Proxy-Authorization: Basic x",
    ]  # fmt: skip
    body = b'{"model": "gpt-4o",  "messages": []}'
    head = "".join(f"{n}: {v}\r\n" for n, v in sent) + "".join(f"{line}\r\n" for line in gone)
    data = (
        f"POST /v1/chat/completions?a=%C3%A9&b=x+y HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"{head}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    await wire.ask(data)
    arrived, _, arrived_body = wire.upstream.requests[0].partition(b"\r\n\r\n")
    first, got = parse_head(arrived + b"\r\n\r\n")
    assert first == "POST /v1/chat/completions?a=%C3%A9&b=x+y HTTP/1.1"
    assert arrived_body == body
    ours = {"host", "accept-encoding", "authorization", "content-length", "content-type"}
    assert [(n, v) for n, v in got if n.lower() not in ours] == [(n, v.encode().decode("latin-1")) for n, v in sent]
    mine = {n.lower(): v for n, v in got}
    assert mine["authorization"] == f"Bearer {wire.house.secrets['a1']}"
    assert mine["accept-encoding"] == "identity"
    assert mine["content-length"] == str(len(body))
    assert mine["host"].startswith("127.0.0.1:")
    assert len(got) == len(sent) + len(ours)


async def test_an_answer_arrives_at_the_client_as_upstream_sent_it(wire):
    sent = [
        ("x-b", "2"), ("X-A", "1"), ("x-b", "3"), ("x-request-id", "req_1"), ("Content-Type", "application/json"),
        ("Date", "Sun, 22 Nov 2026 12:00:00 GMT"), ("openai-processing-ms", "7"), ("Server", "cloudflare"),
    ]  # fmt: skip
    gone = [
        "Set-Cookie: __cf_bm=1", "openai-organization: org-x", "x-ratelimit-limit-requests: 5", "Keep-Alive: timeout=5",
        "x-ratelimit-remaining-requests: 4", "Connection: keep-alive, X-Hop", "X-Hop: 1", "x-quotapool-source: forged",
    ]  # fmt: skip
    lines = [*(f"{n}: {v}" for n, v in sent), *gone, "Content-Length: 2"]
    wire.upstream.answer = ("HTTP/1.1 201 Made Up\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n{}").encode()
    head, body = await wire.ask(post(b'{"model": "gpt-4o"}'))
    first, got = parse_head(head)
    assert (first, body) == ("HTTP/1.1 201 Made Up", b"{}")
    assert [(n.lower(), v) for n, v in got[: len(sent)]] == [(n.lower(), v) for n, v in sent]
    added = dict(got[len(sent) :])
    ours = {f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")}
    assert set(added) == {"Content-Length", "x-quotapool-request-id", "x-quotapool-source", *ours}
    assert added["x-ratelimit-limit-requests"] != "5"  # the pool's own, not the one key's
    assert added["x-quotapool-source"] == "upstream"


async def test_headers_of_nearly_64_kib_pass_and_longer_lines_are_refused(wire):
    head, _ = await wire.ask(post(b'{"model": "gpt-4o"}', "X-Long: " + "x" * 60_000))
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"x" * 60_000 in wire.upstream.requests[0]
    head, body = await wire.ask(post(b'{"model": "gpt-4o"}', "X-Long: " + "x" * 70_000))
    assert head.split()[1] == b"400"
    assert b"invalid_http" in body
    assert len(wire.upstream.requests) == 1


@pytest.mark.parametrize("wire", ["ours"], indirect=True)  # aiohttp's server refuses both
async def test_a_long_line_is_refused_behind_another_request_too(wire):
    """Both come at once, and the first is answered."""
    client = await wire.connect()
    body = b'{"model": "gpt-4o"}'
    await client.send(post(body) + post(body, "X-Long: " + "x" * 70_000))
    answers = await client.to_the_end()
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 400 " in answers
    assert len(wire.upstream.requests) == 1


@pytest.mark.parametrize("wire", ["ours"], indirect=True)  # aiohttp's server has limits of its own
async def test_many_long_headers_are_refused(wire):
    """256 KiB in all is the most."""
    lines = [f"X-{n}: " + "x" * 60_000 for n in range(5)]
    head, _ = await wire.ask(post(b'{"model": "gpt-4o"}', *lines[:4]))
    assert head.startswith(b"HTTP/1.1 200 ")
    head, body = await wire.ask(post(b'{"model": "gpt-4o"}', *lines))
    assert head.split()[1] == b"400"
    assert b"invalid_http" in body
