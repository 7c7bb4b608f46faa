"""WebSocket frames: RFC 6455 §5, held against bytes that were written by hand or by the other codec in the tests."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.websocket.frames import (
    BINARY,
    CLOSE,
    PING,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    FrameError,
    FrameReader,
    close_code,
    close_payload,
    head_of,
)

MASKED_HELLO = bytes.fromhex("818537fa213d7f9f4d5158")  # §5.7: a single-frame masked text message "Hello"
PLAIN_HELLO = bytes.fromhex("810548656c6c6f")
FRAGMENTED_HELLO = bytes.fromhex("010348656c80026c6f")
PING_HELLO = bytes.fromhex("890548656c6c6f")


def from_server(most: int = 1000) -> FrameReader:
    return FrameReader(masked=False, most=most)


def messages(reader: FrameReader, *pieces: bytes) -> list[tuple[int, bytes]]:
    return [(opcode, bytes(payload)) for piece in pieces for opcode, payload in reader.feed(piece)]


def test_the_examples_of_the_rfc():
    assert messages(from_server(), PLAIN_HELLO) == [(TEXT, b"Hello")]
    assert messages(from_server(), FRAGMENTED_HELLO) == [(TEXT, b"Hello")]
    assert messages(from_server(), PING_HELLO) == [(PING, b"Hello")]
    assert messages(FrameReader(masked=True, most=1000), MASKED_HELLO) == [(TEXT, b"Hello")]
    assert messages(from_server(), bytes.fromhex("827e0100") + bytes(256)) == [(BINARY, bytes(256))]
    large = bytes.fromhex("827f0000000000010000") + bytes(65_536)
    assert messages(from_server(70_000), large) == [(BINARY, bytes(65_536))]


def test_a_control_frame_may_come_between_fragments():
    stream = FRAGMENTED_HELLO[:5] + PING_HELLO + FRAGMENTED_HELLO[5:]
    assert messages(from_server(), stream) == [(PING, b"Hello"), (TEXT, b"Hello")]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
def test_bytes_may_come_in_any_pieces(step):
    stream = PLAIN_HELLO + FRAGMENTED_HELLO + PING_HELLO + bytes.fromhex("827e0100") + bytes(256) + b"\x81\x00"
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    expected = [(TEXT, b"Hello"), (TEXT, b"Hello"), (PING, b"Hello"), (BINARY, bytes(256)), (TEXT, b"")]
    assert messages(from_server(), *pieces) == expected


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_001])
@pytest.mark.parametrize("masks", [True, False])
def test_what_is_written_is_read_again(size, masks):
    text = bytes(n % 251 for n in range(size))
    payload = bytearray(text)
    written = head_of(BINARY, payload, masks=masks) + payload
    assert len(written) == size + (2 if size < 126 else 4 if size < 65_536 else 10) + (4 if masks else 0)
    assert messages(FrameReader(masked=masks, most=2**20), written) == [(BINARY, text)]


BROKEN = {
    "a reserved bit": "c100",
    "an opcode that nobody knows": "8300",
    "a control opcode that nobody knows": "8b00",
    "a masked frame of a server": "818537fa213d7f9f4d5158",
    "a fragmented ping": "0900",
    "a long ping": "897e0080",
    "a continuation of nothing": "8000",
    "a new message within one": "0101418100",
    "half a close code": "880103",
    "close code 1005, which is never sent": "880203ed",
    "close code 1006": "880203ee",
    "close code 1015": "880203f7",
    "close code 1004": "880203ec",
    "close code 999": "880203e7",
    "close code 2999": "88020bb7",
    "close code 5000": "88021388",
}


@pytest.mark.parametrize("stream", BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_protocol_is_refused(stream):
    with pytest.raises(FrameError) as refused:
        from_server().feed(bytes.fromhex(stream))
    assert refused.value.code == PROTOCOL_ERROR


def test_a_clients_frame_without_mask_is_refused():
    with pytest.raises(FrameError):
        FrameReader(masked=True, most=1000).feed(PLAIN_HELLO)


def test_a_message_that_is_too_big_is_refused_at_its_head():
    with pytest.raises(FrameError) as refused:
        from_server(1000).feed(bytes.fromhex("827e03e9"))  # 1,001 bytes are announced, none has come
    assert refused.value.code == TOO_BIG
    # Fragments count together.
    reader = from_server(1000)
    assert reader.feed(bytes.fromhex("027e0258") + bytes(600)) == []
    with pytest.raises(FrameError):
        reader.feed(bytes.fromhex("807e0258"))


def test_close_frames_say_a_code_and_a_reason_that_fits():
    assert bytes(close_payload(1000, "bye")) == b"\x03\xe8bye"
    assert len(close_payload(1011, "x" * 200)) == 125
    assert bytes(close_payload(1005)) == bytes(close_payload(1006)) == b""
    assert (close_code(b"\x03\xe8bye"), close_code(b"")) == (1000, 1005)
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999):
        frame = b"\x88\x02" + code.to_bytes(2, "big")
        assert messages(from_server(), frame) == [(CLOSE, code.to_bytes(2, "big"))]


@given(
    st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), st.binary(max_size=300), st.booleans()), max_size=6),
    st.lists(st.integers(1, 40), min_size=1),
    st.booleans(),
)
def test_any_messages_in_any_fragments_and_any_pieces_come_out_as_they_went_in(said, sizes, masked):
    stream = bytearray()
    for opcode, payload, fragmented in said:
        half = len(payload) // 2 if fragmented else len(payload)
        parts = [(opcode, payload[:half]), *([(0, payload[half:])] if fragmented else [])]
        for number, (code, part) in enumerate(parts):
            head = bytearray(head_of(code, body := bytearray(part), masks=masked))
            if number < len(parts) - 1:
                head[0] &= 0x7F  # more follows
            stream += head + body
    reader, found, at, turn = FrameReader(masked=masked, most=1000), [], 0, 0
    while at < len(stream):
        step = sizes[turn % len(sizes)]
        found += messages(reader, bytes(stream[at : at + step]))
        at, turn = at + step, turn + 1
    assert found == [(opcode, payload) for opcode, payload, _ in said]


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_at_all_do_more_than_break_the_protocol(noise, masked):
    reader = FrameReader(masked=masked, most=1000)
    found: list[tuple[int, bytes]] = []
    with contextlib.suppress(FrameError):
        found = messages(reader, noise)
    assert sum(len(payload) for _, payload in found) <= len(noise)
