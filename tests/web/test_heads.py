"""How our own server reads heads: the same fields however the bytes are cut, and no framing without end."""

from __future__ import annotations

import asyncio

import pytest
from quotapool.openai.refusal import Refusal
from quotapool.web.server import Server

GET = b"GET /a HTTP/1.1\r\nHost: h\r\nX-Empty:\r\nx-space: \t a  b \t \r\nX-Twice: 1\r\nx-twice: 2\r\n\r\n"
GOT = [("Host", "h"), ("X-Empty", ""), ("x-space", "a  b"), ("X-Twice", "1"), ("x-twice", "2")]
ODD = b"\r\nPOST /b HTTP/1.1\r\nHost: h\r\nX-Odd: caf\xc3\xa9\xff:\r\nContent-Length: 3\r\n\r\nX:1"
CHUNKS = (
    b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4;x=y\r\n\r\n\r\n\r\n2\r\nA:\r\n0\r\nX-Trailer: 1\r\nX-Last: 2\r\n\r\n"
)
MESSAGES = {  # (bytes, then for each request in them: fields and body)
    "plain": (GET, [(GOT, b"")]),
    "odd bytes after an empty line": (
        ODD,
        [([("Host", "h"), ("X-Odd", "caf\u00e9\udcff:"), ("Content-Length", "3")], b"X:1")],
    ),
    "chunks and trailers": (CHUNKS, [([("Host", "h"), ("Transfer-Encoding", "chunked")], b"\r\n\r\nA:")]),
    "no field but the one that has to be": (
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n" + GET,
        [([("Host", "")], b""), (GOT, b"")],
    ),
    "one behind the other": (
        CHUNKS + GET + ODD + GET,
        [
            ([("Host", "h"), ("Transfer-Encoding", "chunked")], b"\r\n\r\nA:"),
            (GOT, b""),
            ([("Host", "h"), ("X-Odd", "caf\u00e9\udcff:"), ("Content-Length", "3")], b"X:1"),
            (GOT, b""),
        ],
    ),
}


class Wire(asyncio.Transport):
    """The network's edge: keeps what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.open = True

    def write(self, data) -> None:
        self.sent += data

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.open = False

    abort = close


class Requests:
    """What a server makes of bytes: the fields and the body of each request."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[tuple[str, str]], bytes]] = []
        self.server = Server(self._answer)

    async def _answer(self, exchange, _wanted) -> None:
        status = 200
        try:
            self.seen.append((list(exchange.headers.items()), await exchange.read(1000)))
        except Refusal as refusal:
            status = refusal.status
        await exchange.start(status, "", [], 0)
        await exchange.finish()

    async def receive(self, *pieces: bytes) -> Wire:
        connection, wire = self.server(), Wire()
        connection.connection_made(wire)
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        return wire


@pytest.fixture
async def requests():
    made = Requests()
    yield made
    await made.server.close()


@pytest.mark.parametrize("case", MESSAGES)
async def test_a_head_cut_at_any_byte_has_the_same_fields(requests, case):
    """Whole, in two pieces for every place to cut it, and byte by byte."""
    data, expected = MESSAGES[case]
    cuts = [(data,), *((data[:n], data[n:]) for n in range(1, len(data))), [data[n : n + 1] for n in range(len(data))]]
    for pieces in cuts:
        requests.seen.clear()
        wire = await requests.receive(*pieces)
        assert requests.seen == expected
        assert wire.sent.count(b"HTTP/1.1 200 ") == len(expected)
        assert wire.open


@pytest.mark.parametrize(
    "endless",
    [b"0\r\nX-A: ", b"0\r\n" + b"X-A: 1\r\n" * 10, b"5;x="],
    ids=["one trailer", "many trailers", "an extension of a chunk"],
)
async def test_framing_without_end_is_refused(requests, endless):
    """A client could fill the memory with it, though the body itself is short."""
    more = b"X-B: 1\r\n" * 1000 if endless.endswith(b"\n") else b"x" * 8000
    wire = await requests.receive(CHUNKS[: CHUNKS.index(b"4;")] + endless, *[more] * 9)
    assert wire.sent.startswith(b"HTTP/1.1 400 ")
    assert requests.seen == []
    assert not wire.open


async def test_a_long_head_leaves_room_for_the_framing_after_it(requests):
    """Given 200 KB of fields and a body that waits for its turn, I expect that it is taken when it comes."""
    fields = b"".join(b"X-%d: %b\r\n" % (n, b"x" * 50_000) for n in range(4))
    wire = await requests.receive(
        b"POST / HTTP/1.1\r\nHost: h\r\n" + fields + b"Transfer-Encoding: chunked\r\n\r\n",
        b"3",
        b"\r\nabc\r\n0\r\n\r\n",
    )
    assert [body for _, body in requests.seen] == [b"abc"]
    assert wire.sent.startswith(b"HTTP/1.1 200 ")
