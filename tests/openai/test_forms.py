"""The fields of a multipart form that the proxy needs are found wherever they are, and nothing else is."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai.forms import FormReader, boundary_of, fields_in

B = b"----WebKitFormBoundary7MA4YWxkTrZu0gW"


def part(disposition: str, value: bytes, *more: str) -> bytes:
    head = "\r\n".join([f"Content-Disposition: form-data; {disposition}", *more])
    return b"--" + B + b"\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n"


END = b"--" + B + b"--\r\n"
FILE = part('name="file"; filename="a.mp3"', b"\x00\xff" * 500, "Content-Type: audio/mpeg")
MODEL = part('name="model"', b"whisper-1")


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; boundary="a b\'c"; charset=utf-8', b"a b'c"),
        ("Multipart/Form-Data;Boundary=--x--", b"--x--"),
        ("multipart/form-data", b""),
        ("application/json; boundary=abc", b""),
        ("multipart/mixed; boundary=abc", b""),
        ("", b""),
    ],
)
def test_the_boundary_is_what_the_content_type_says(content_type, boundary):
    assert boundary_of(content_type) == boundary


def test_fields_are_found_before_and_after_the_file():
    assert fields_in(MODEL + FILE + END, B) == {"model": "whisper-1"}
    assert fields_in(FILE + MODEL + part("name=n", b"2") + END, B) == {"model": "whisper-1", "n": "2"}


def test_an_incomplete_field_is_not_returned():
    whole = MODEL + END
    found = [fields_in(whole[:at], B) for at in range(len(whole) + 1)]
    assert all(fields in ({}, {"model": "whisper-1"}) for fields in found)
    assert found[0] == {}
    assert found[-1] == {"model": "whisper-1"}


def test_a_file_is_no_field_whatever_its_name():
    assert fields_in(part('name="model"; filename="x"', b"gpt-4o") + END, B) == {}
    assert fields_in(part('filename="model"; name="file"', b"gpt-4o") + MODEL + END, B) == {"model": "whisper-1"}


def test_only_the_wanted_fields_are_returned_and_none_that_contradicts_itself():
    assert fields_in(part('name="prompt"', b"secret words") + MODEL + MODEL + END, B) == {"model": "whisper-1"}
    assert fields_in(MODEL + part('name="model"', b"other") + END, B) == {"model": ""}
    assert fields_in(part('name="model"', b"x" * 10_000) + END, B) == {}


@given(st.binary(max_size=400), st.binary(min_size=1, max_size=20))
def test_no_bytes_raise(data, boundary):
    assert set(fields_in(data, boundary)) <= {"model", "n", "stream"}


@given(st.text(max_size=80))
def test_no_content_type_raises(content_type):
    assert isinstance(boundary_of(content_type), bytes)


N = part("name=n", b"2")
OTHER = part('name="prompt"', b"x" * 6000)


@given(
    st.lists(st.sampled_from([FILE, MODEL, N, OTHER, FILE * 9, part('name="model"', b"other")]), max_size=6),
    st.lists(st.integers(0, 20_000), max_size=12),
)
def test_a_form_read_in_pieces_tells_what_it_tells_as_a_whole(parts, cuts):
    form = b"".join(parts) + END
    edges = [0, *sorted(cut % (len(form) + 1) for cut in cuts), len(form)]
    reader = FormReader(B)
    for start, end in pairwise(edges):
        reader.feed(form[start:end])
        assert len(reader._rest) <= 4096
    assert reader.found == fields_in(form, B)


def test_a_form_in_tiny_pieces_takes_time_linear_in_it():
    def taken(size):
        form = part('name="file"; filename="a"', b"-" * size) + MODEL + END
        reader, began = FormReader(B), time.process_time()
        for at in range(0, len(form), 3):
            reader.feed(form[at : at + 3])
        assert reader.found == {"model": "whisper-1"}
        return time.process_time() - began

    assert min(taken(160_000) for _ in range(3)) < 16 * min(taken(20_000) for _ in range(3))
