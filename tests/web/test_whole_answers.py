"""An answer that is whole goes down in one write, as the very bytes that it would be piece by piece."""

from __future__ import annotations

import itertools

import pytest
from quotapool.openai.head import Head
from quotapool.upstream.answer import StreamedAnswer
from quotapool.upstream.interface import UpstreamFailure
from quotapool.web.exchange import Exchange

HEADERS = [(b"Content-Type", b"application/json"), (b"X-Odd", b"\xff")]


class Connection:
    """Under an exchange and under an answer: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.lost = self.was_cut = False
        self.drained = None

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def abort(self) -> None:
        self.was_cut = True


def exchange(connection: Connection, method: str = "POST", *, modern: bool = True) -> Exchange:
    made = Exchange(connection, method, "/", Head([]), modern=modern, keep_alive=True)
    made.id = "qp-1"
    made.feed_end()
    return made


BODIES = (b"", b"{}", b"x" * 500)
LENGTHS = ("none", "same", "more", "less")
CASES = list(itertools.product(("POST", "HEAD"), (True, False), (200, 204, 304, 502), LENGTHS, BODIES))


@pytest.mark.parametrize(("method", "modern", "status", "length", "body"), CASES)
async def test_at_once_or_piece_by_piece_the_client_gets_the_same(method, modern, status, length, body):
    lengths = {"none": None, "same": len(body), "more": len(body) + 1, "less": max(0, len(body) - 1)}
    one, other = Connection(), Connection()
    at_once, in_pieces = exchange(one, method, modern=modern), exchange(other, method, modern=modern)
    assert at_once.reply(status, "", HEADERS, lengths[length], body) is None
    await in_pieces.start(status, "", HEADERS, lengths[length])
    await in_pieces.write(body)
    await in_pieces.finish()
    if not (one.was_cut and not body):  # a head whose connection is cut before anything followed it
        assert b"".join(one.sent) == b"".join(other.sent)
        assert len(one.sent) == 1
    assert one.was_cut == other.was_cut
    assert (at_once.started, at_once.keep_alive, at_once.was_cut) == (True, in_pieces.keep_alive, in_pieces.was_cut)


@pytest.mark.parametrize("value", [b"a\r\nb", b"a\nb", b"\r", b"\0", b"\x7f"])
def test_an_answer_that_would_not_be_one_head_is_refused_and_nothing_has_begun(value):
    connection = Connection()
    down = exchange(connection)
    with pytest.raises(ValueError, match="not one line"):
        down.reply(200, "", [(b"X-A", value)], 2, b"{}")
    assert not down.started
    assert connection.sent == []


def test_a_client_that_has_left_is_noticed():
    connection = Connection()
    connection.lost = True
    with pytest.raises(ConnectionResetError):
        exchange(connection).reply(200, "", HEADERS, 2, b"{}")
    assert connection.sent == []


def test_of_upstreams_answer_all_is_given_once_it_is_there_and_nothing_before():
    answer = StreamedAnswer(Connection(), None)
    answer.feed(b"{")
    assert answer.whole() is None
    answer.feed(b"}")
    assert answer.whole() is None
    answer.end()
    assert answer.whole() == b"{}"
    assert answer.whole() == b""


def test_of_a_broken_answer_there_is_no_whole():
    answer = StreamedAnswer(Connection(), None)
    answer.feed(b"{")
    answer.end(UpstreamFailure("reset", "it broke off", sent=True))
    assert answer.whole() is None
