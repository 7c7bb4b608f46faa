"""A request's body has one reading: it is decoded whole, within what was received, or refused."""

from __future__ import annotations

import contextlib
import gzip
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai.encoding import PIECE, TooLarge, Unreadable, decoded, decoded_request

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST = 64 * 2**20
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "X-GZIP": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    " br ": brotli.compress,
}
TEXT = b'{"model":"gpt-4o","input":"hi"}' * 50


def whole(packed: bytes, name: str, most: int = MOST) -> bytes:
    pieces = list(decoded_request(packed, name, most))
    assert all(len(piece) <= 4 * PIECE for piece in pieces)  # brotli gives somewhat more than it is asked for
    return b"".join(pieces)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoding_that_clients_use_is_read(name):
    packed = ENCODERS[name](TEXT)
    assert whole(packed, name) == TEXT
    assert decoded(packed, name, MOST) == TEXT
    assert decoded(packed, name, 10) == TEXT[:10]


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    "spoil", [lambda b, _: b + b"x", lambda b, e: b + e(b"more"), lambda b, _: b[:-1], lambda b, _: b"\n" + b]
)
def test_what_another_reader_may_read_otherwise_is_unreadable(name, spoil):
    with pytest.raises(Unreadable):
        whole(spoil(ENCODERS[name](TEXT), ENCODERS[name]), name)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("text", [b"x" * 2_000_000, random.Random(1).randbytes(300_000), b"", TEXT * 1_200])
def test_long_bodies_are_read_in_pieces(name, text):
    packed = ENCODERS[name](text)
    assert whole(packed, name) == text
    assert decoded(packed, name, MOST) == text
    for cut in {0, len(packed) // 2, len(packed) - 1, *range(0, len(packed), 2**16)} - {0}:
        with pytest.raises(Unreadable):
            whole(packed[:cut], name)
        assert text.startswith(decoded(packed[:cut], name, MOST))
    for more in (b"x", packed, b"\0" * 2**16):
        with pytest.raises(Unreadable):
            whole(packed + more, name)


@pytest.mark.parametrize("name", ["compress", "gzip, gzip", "gzip,", "gzip,identity", "identity, identity", "*"])
def test_unknown_encodings_are_unreadable(name):
    with pytest.raises(Unreadable):
        whole(gzip.compress(TEXT), name)


def test_raw_deflate_is_read_in_answers_only():
    packer = zlib.compressobj(wbits=-15)
    raw = packer.compress(TEXT) + packer.flush()
    assert decoded(raw, "deflate", MOST) == TEXT
    with pytest.raises(Unreadable):
        whole(raw, "deflate")


@pytest.mark.parametrize("name", ENCODERS)
def test_a_bomb_takes_no_more_memory_than_a_small_body(name):
    bomb = ENCODERS[name](b"[]," * 20_000_000)
    tracemalloc.start()
    with pytest.raises(TooLarge):
        whole(bomb, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_no_encoding_is_the_same_object():
    assert next(decoded_request(TEXT, "", MOST)) is next(decoded_request(TEXT, "Identity", MOST)) is TEXT


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "zstd", "br", "x"]))
def test_no_bytes_raise_anything_else(data, name):
    decoded(data, name, 1000)
    with contextlib.suppress(Unreadable, TooLarge):
        whole(data, name, 1000)
