"""A form is read as SDKs and browsers write it, in pieces of any size; what has a second reading is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai.forms import FieldReader, FormError, FormReader, Part, boundary_of
from quotapool.openai.ids import reference_in_part

B = b"----WebKitFormBoundary7MA4YWxkTrZu0gW"


def part(disposition: str, value: bytes, *more: str) -> bytes:
    head = "\r\n".join([f"Content-Disposition: form-data; {disposition}", *more])
    return b"--" + B + b"\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n"


END = b"--" + B + b"--\r\n"
FILE = part('name="file"; filename="a.mp3"', b"\x00\xff" * 500, "Content-Type: audio/mpeg")
MODEL = part('name="model"', b"whisper-1")


def read(form: bytes, size: int = 10_000) -> list[Part]:
    reader = FormReader(B)
    return [found for at in range(0, len(form), size) for found in reader.feed(form[at : at + size])]


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; boundary="a b\'c"; charset=utf-8', b"a b'c"),
        ("Multipart/Form-Data;Boundary=--x--", b"--x--"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=a; boundary=b", b""),
        ('multipart/form-data; x="boundary=a"; boundary=b', b""),
        ("application/json; boundary=abc", b""),
        ("multipart/mixed; boundary=abc", b""),
        ("", b""),
    ],
)
def test_the_boundary_is_the_only_one_in_the_content_type(content_type, boundary):
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_parts_are_found_before_and_after_the_file_however_they_arrive(size):
    model, n = Part("model", b"whisper-1", False), Part("n", b"2", False)
    file = Part("file", None, True)
    assert read(MODEL + FILE + END, size) == [model, file]
    assert read(FILE + MODEL + part("name=n", b"2") + part('name="x"', b"") + END, size) == [
        file, model, n, Part("x", b"", False),
    ]  # fmt: skip


def test_an_incomplete_part_is_not_returned():
    whole = MODEL + END
    found = [read(whole[:at]) for at in range(len(whole) + 1)]
    assert all(parts in ([], [Part("model", b"whisper-1", False)]) for parts in found)
    assert found[len(MODEL)] == []
    assert found[-1] != []


@pytest.mark.parametrize(
    ("disposition", "more"),
    [
        ('name="file"; filename="C:\\temp\\a.mp3"', ["Content-Type: audio/mpeg", "Content-Transfer-Encoding: binary"]),
        ("name=file; filename=a.mp3; filename*=utf-8''a.mp3", ["Content-Length: 3"]),  # .NET, OkHttp
        ('name="file"; filename="na\u00efve; name.mp3"', ["content-type: audio/mpeg"]),
        ('filename="a.mp3"; name="file"', ["Content-Type: text/plain; charset=utf-8"]),
    ],
)
def test_what_clients_write_is_a_file(disposition, more):
    assert read(part(disposition, b"abc", *more) + END) == [Part("file", b"abc", True)]


@pytest.mark.parametrize(
    ("disposition", "more"),
    [
        ('name="prompt"; name="model"', []),
        ('name ="model"', []),
        ('name= "model"', []),
        ('NAME="model"', []),
        ('name="mod\\el"', []),
        ("name*=utf-8''mod%65l", []),
        ("name='model'", []),
        ('name="a"; filename="b\\"; name="model"', []),
        ('name="a"; x="b"', []),
        ('filename="model"', []),
        ('name="prompt"', ['X-Y: a; name="model"']),
        ('name="prompt"', ['Content-Disposition: form-data; name="model"']),
        ('name="prompt"', [" folded: 1"]),
        ('name="prompt"', ["X-Y: a\nContent-Disposition: form-data"]),
        ('name="prompt"', ["Content-Disposition : form-data"]),
        ('name="prompt"', ["Content-Transfer-Encoding: base64"]),
        ('name="prompt"', ["Content-Encoding: gzip"]),
        ('name="prompt"', ["Content-Type: multipart/mixed; boundary=x"]),
        ('name="prompt"', ["Content-Type: text/plain; charset=utf-16"]),
        ('name="prompt"', ["X-Padding: " + "x" * 10_000]),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_a_part_that_may_have_another_name_or_value_is_refused(disposition, more, size):
    with pytest.raises(FormError):
        read(part(disposition, b"gpt-4o", *more) + END, size)


@pytest.mark.parametrize(
    "form",
    [
        b"preamble\r\n" + MODEL + END,
        MODEL + END + MODEL + END,
        MODEL.replace(b"\r\n", b"\n") + END,
        b"--" + B + b" \r\n" + MODEL + END,
        part('name="a"', b"\n--" + B + b"\n") + END,
        part('name="a"', b"x" + B[:0] + b"--" + B) + END,
        MODEL * 2_001 + END,
    ],
)
def test_a_form_whose_parts_may_be_divided_in_another_way_is_refused(form):
    with pytest.raises(FormError):
        read(form)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("file_id", "file-1", ("file", "file-1")),
        ("video[id]", "video_1", ("video", "video_1")),
        ("input_reference[file_id]", "file-1", ("file", "file-1")),  # any content that looks like an id
        ("prompt", "x", None),
        ("file_id", "", None),
    ],
)
def test_a_form_names_a_file(name, value, expected):
    found = reference_in_part(name, value)
    assert (found and (found.kind.name, found.id)) == expected


@given(st.binary(max_size=400), st.binary(min_size=1, max_size=20), st.integers(1, 50))
def test_no_bytes_raise_anything_else(data, boundary, size):
    reader = FormReader(boundary)
    try:
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
    except FormError:
        pass


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
    fields = FieldReader(B, with_files=False)
    for start, end in pairwise(edges):
        fields.feed(form[start:end])
    models = {
        name for name, given in (("whisper-1", MODEL), ("other", part('name="model"', b"other"))) if given in parts
    }
    expected = {"model": models.pop() if len(models) == 1 else ""} if models else {}
    assert fields.found == expected | ({"n": "2"} if N in parts else {})


def test_only_the_wanted_fields_are_found_and_none_that_contradicts_itself():
    def found(form, **kinds):
        fields = FieldReader(B, **({"with_files": False} | kinds))
        fields.feed(form)
        return fields.found, [*fields.models]

    other = part('name="model"', b"other")
    assert found(part('name="prompt"', b"secret words") + MODEL + MODEL + END) == (
        {"model": "whisper-1"},
        ["whisper-1"],
    )
    assert found(MODEL + other + END) == ({"model": ""}, ["whisper-1", "other"])
    assert found(part('name="model"', b"x" * 10_000) + END) == ({"model": ""}, [""])
    file = part('name="model"; filename="a"', b"gpt-4o")
    assert found(file + END) == ({}, [])
    assert found(file + END, with_files=True) == ({"model": "gpt-4o"}, ["gpt-4o"])
