"""Whoever reads a recording gets all of it, at its own pace, and how it ended."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.cache.recording import End, Reader, Recording
from quotapool.openai.replay import Form


async def all_of(reader: Reader, pace: int = 0) -> bytes:
    parts = []
    try:
        while piece := await reader.piece():
            parts.append(piece)
            for _ in range(pace):
                await asyncio.sleep(0)
    finally:
        reader.close()
    return b"".join(parts)


@given(
    st.lists(st.binary(min_size=1, max_size=9), max_size=12),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=5),
    st.integers(1, 200),
)
def test_all_readers_get_all_bytes_whenever_they_come_and_however_slow_they_are(pieces, readers, most):
    """A reader may begin at any piece, as long as the answer can still be kept."""

    async def told() -> None:
        recording = Recording(most)
        recording.begin(200, "text/event-stream; charset=utf-8")
        reading = []
        for number in range(len(pieces) + 1):
            reading += [
                asyncio.create_task(all_of(recording.reader(), pace))
                for begins, pace in readers
                if begins == number and recording.takes_readers
            ]
            await asyncio.sleep(0)
            if number < len(pieces) and (full := recording.add(pieces[number])) is not None:
                await full
        recording.end(End.WHOLE)
        assert await asyncio.gather(*reading) == [b"".join(pieces)] * len(reading)
        assert recording.body() == (b"".join(pieces) if len(b"".join(pieces)) <= most else b"")
        assert recording.form is Form.EVENTS

    asyncio.run(told())


async def test_a_long_answer_waits_for_its_slowest_reader_and_is_not_hoarded():
    recording = Recording(1000)
    recording.begin(200, "application/json")
    slow = recording.reader()
    for _ in range(2):
        assert recording.add(bytes(500)) is None
    adding = asyncio.ensure_future(recording.add(bytes(600)))  # 1,600 bytes that nobody has read
    await asyncio.sleep(0)
    assert not adding.done()
    assert not recording.takes_readers
    await slow.piece()
    await slow.piece()
    await asyncio.sleep(0.001)
    assert adding.done()
    assert [len(piece) for piece in recording.pieces] == [600]  # the first two are gone
    assert len(await slow.piece()) == 600


async def test_a_reader_that_leaves_holds_nobody_up():
    recording = Recording(10)
    recording.begin(200, "application/json")
    reader = recording.reader()
    adding = asyncio.ensure_future(recording.add(bytes(30)))
    await asyncio.sleep(0)
    assert not adding.done()
    reader.close()
    await adding
    assert recording.add(bytes(30)) is None
    assert recording.pieces == []


async def test_one_that_nobody_reads_is_bounded():
    recording = Recording(100)
    recording.begin(200, "application/json")
    for _ in range(1000):
        assert recording.add(bytes(10)) is None
        assert sum(map(len, recording.pieces)) <= 100
    assert (recording.body(), recording.takes_readers) == (b"", False)


@pytest.mark.parametrize("end", End)
async def test_how_it_ended_is_told_to_those_who_wait_and_to_those_who_come_later(end):
    recording = Recording(100)
    early = recording.reader()
    waiting = asyncio.ensure_future(early.begins())
    await asyncio.sleep(0)
    recording.end(end)
    assert await waiting is False
    assert recording.ended is end
    recording.end(End.WHOLE)  # the first word counts
    assert recording.ended is end
    assert recording.takes_readers is (end is End.WHOLE)


async def test_the_last_reader_who_leaves_is_noticed():
    recording, left = Recording(100), []
    one, other = recording.reader(), recording.reader()
    recording.deserted = lambda: left.append(len(recording.readers))
    one.close()
    assert left == []
    other.close()
    assert left == [0]


async def test_a_reader_that_is_cancelled_takes_nothing_from_the_others():
    recording = Recording(100)
    recording.begin(200, "application/json")
    one, other = asyncio.create_task(all_of(recording.reader())), asyncio.create_task(all_of(recording.reader()))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.sleep(0)
    recording.add(b"abc")
    recording.end(End.WHOLE)
    assert await other == b"abc"
