"""The faked client and answer of these tests do what the real ones do: each promise is asked of both."""

from __future__ import annotations

import asyncio

import pytest
from quotapool.openai.refusal import Refusal
from quotapool.upstream.answer import StreamedAnswer
from quotapool.upstream.interface import UpstreamFailure
from quotapool.web.exchange import Exchange

from tests.fakes.edge import Client, FakeAnswer, FakeUpstream, stream
from tests.fakes.heads import head, lines


class Connection:
    """What is under a real exchange, and under a real answer."""

    def __init__(self) -> None:
        self.lost, self.drained = False, None
        self.loop = asyncio.get_running_loop()

    def send(self, data: bytes) -> None:
        """It goes nowhere."""

    def resume_reading(self) -> None:
        """Nobody was held."""

    def abort(self) -> None:
        self.lost = True

    def give_up(self, answer: StreamedAnswer) -> None:
        answer.end(UpstreamFailure("reset", "given up", sent=True))

    def expect_by(self, deadline: float | None) -> None:
        """Without a deadline."""


def real_client(body: bytes, method: str) -> Exchange:
    made = Exchange(Connection(), method, "/", head([("Content-Length", str(len(body)))]), modern=True, keep_alive=True)
    made.feed(body)
    made.feed_end()
    return made


@pytest.fixture(params=["real", "faked"])
def client(request):
    """`client(body, method)`."""
    return real_client if request.param == "real" else lambda body, method: Client(body, method=method)


@pytest.fixture(params=["real", "faked"])
def answer(request):
    """`answer()`: one of which a first piece has come, and more would."""

    def made() -> StreamedAnswer | FakeAnswer:
        if request.param == "faked":
            return FakeAnswer(FakeUpstream({}), stream(b"first", asyncio.Event(), b"second"))
        real = StreamedAnswer(Connection(), None)
        real.feed(b"first")
        return real

    return made


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "\r"])
async def test_a_header_of_two_lines_is_refused_and_nothing_has_begun(client, value):
    down = client(b"x", "POST")
    with pytest.raises(ValueError, match="not one line"):
        await down.start(200, "", lines([("X-Name", value)]), None)
    assert not down.started


async def test_a_piece_is_put_without_waiting_where_there_is_room(client):
    down = client(b"x", "POST")
    await down.start(200, "", [], None)
    assert down.put(b"piece") is None


async def test_after_a_cut_nothing_can_be_written(client):
    down = client(b"x", "POST")
    await down.start(200, "", [], None)
    down.cut()
    with pytest.raises(ConnectionResetError):
        await down.write(b"piece")


@pytest.mark.parametrize(("method", "pieces", "cut"), [("GET", 2, False), ("GET", 1, True), ("HEAD", 0, False)])
async def test_an_answer_shorter_than_its_length_is_cut(client, method, pieces, cut):
    down = client(b"", method)
    await down.start(200, "", [], 10)
    for _ in range(pieces):
        await down.write(b"12345")
    await down.finish()
    assert down.was_cut is cut


async def test_a_body_is_read_once_and_only_up_to_the_limit(client):
    down = client(b"12345", "POST")
    assert (await down.read(5), await down.read(5)) == (b"12345", b"")
    with pytest.raises(Refusal):
        await client(b"12345", "POST").read(4)


async def test_an_answer_that_was_closed_in_its_middle_has_failed(answer):
    closed = answer()
    assert await closed.chunk() == b"first"
    closed.close()
    closed.close()
    for _ in range(2):
        with pytest.raises(UpstreamFailure) as failed:
            await closed.chunk()
        assert failed.value.reason == "reset"


async def test_who_waits_for_a_piece_notices_that_the_answer_was_closed(answer):
    closed = answer()
    assert await closed.chunk() == b"first"
    waiting = asyncio.create_task(closed.chunk())
    await asyncio.sleep(0.1)
    closed.close()
    with pytest.raises(UpstreamFailure):
        await waiting
