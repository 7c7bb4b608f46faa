"""The fields of a multipart form that the proxy needs are found wherever they are, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai.forms import boundary_of, fields_in

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
