"""Vectors of embeddings: which form is known from which; none is given in digits that upstream would not write."""

import base64
import json
import struct
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from quotapool.openai.vectors import MOST_NUMBERS, Vector, read_vector

SINGLES = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40)
DOUBLES = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40)


def packed(numbers: list[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def in_base64(numbers: list[float]) -> bytes:
    return json.dumps(base64.b64encode(packed(numbers)).decode()).encode()


def fewest_digits(number: float) -> float:
    """As Go, Rust and numpy write a 32-bit float."""
    for digits in range(1, 10):
        short = float(f"%.{digits}g" % number)
        try:
            if struct.pack("<f", short) == struct.pack("<f", number):
                return short
        except OverflowError:  # rounded up beyond the largest
            continue
    raise AssertionError


def read(text: bytes) -> Vector:
    vector = read_vector(text)
    assert vector is not None
    return vector


@given(SINGLES)
def test_base64_is_given_as_it_came_and_never_as_numbers(numbers):
    vector = read(in_base64(numbers))
    assert vector.written(base64=True) == in_base64(numbers)
    assert vector.written(base64=False) is None
    assert vector.length == len(numbers)


@given(DOUBLES)
def test_numbers_are_given_as_the_same_numbers(numbers):
    vector = read(json.dumps(numbers).encode())
    assert json.loads(vector.written(base64=False)) == numbers
    assert vector.length == len(numbers)


@given(SINGLES)
def test_numbers_that_are_32_bit_floats_exactly_are_given_in_both_forms(numbers):
    vector = read(json.dumps(numbers).encode())
    assert struct.unpack(f"<{len(numbers)}f", base64.b64decode(json.loads(vector.written(base64=True)))) == tuple(
        numbers
    )
    assert json.loads(vector.written(base64=False)) == numbers


@given(SINGLES)
def test_the_fewest_digits_of_32_bit_floats_tell_their_base64(numbers):
    short = [fewest_digits(number) for number in [*numbers, 0.012345679]]  # one that takes eight digits
    assert len(f"{short[-1]}".lstrip("0.")) == 8
    vector = read(json.dumps(short).encode())
    assert vector.written(base64=True) == in_base64([*numbers, 0.012345679])


@given(st.lists(st.tuples(st.floats(-1e30, 1e30), st.integers(5, 17)), min_size=1, max_size=12))
def test_base64_is_given_of_exact_32_bit_floats_or_if_all_have_nine_digits_and_one_more_than_seven(drawn):
    numbers = [float(f"%.{digits}g" % number) for number, digits in drawn]
    lengths = [len(Decimal(repr(number)).normalize().as_tuple().digits) for number in numbers]
    nearest = struct.unpack(f"<{len(numbers)}f", packed(numbers))
    lost = any(number and not single for number, single in zip(numbers, nearest, strict=True))
    told = max(lengths) <= 9 and max(lengths) > 7 and not lost
    expected = in_base64(numbers) if told or list(nearest) == numbers else None
    assert read(json.dumps(numbers).encode()).written(base64=True) == expected


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ([0.1234567890123, 0.5], "a double"),
        ([0.123457, 0.0234], "rounded to six digits: 0.12345679 is as near"),
        ([0.012345679, 1e300], "too large for 32 bits"),
        ([0.012345679, 1e-60], "too small for 32 bits"),
    ],
)
def test_base64_of_other_numbers_is_not_known(numbers, why):
    assert read(json.dumps(numbers).encode()).written(base64=True) is None, why


def test_what_openai_and_lm_studio_write_tells_the_base64():
    short, wide = b"[-0.021661555, -0.0149241]", b"[-0.015835333615541458, 0.025248516350984573]"
    assert read(short).written(base64=True) == in_base64([-0.021661555, -0.0149241])
    assert read(wide).written(base64=True) == in_base64([-0.015835333615541458, 0.025248516350984573])
    assert json.loads(read(short).written(base64=False)) == [-0.021661555, -0.0149241]
    assert json.loads(read(wide).written(base64=False)) == [-0.015835333615541458, 0.025248516350984573]


@given(SINGLES, st.data())
def test_both_forms_are_known_side_by_side(numbers, data):
    digits = data.draw(st.lists(st.floats(-1, 1), min_size=len(numbers), max_size=len(numbers)))
    in_text, in_digits = read(in_base64(numbers)), read(json.dumps(digits).encode())
    assume(not in_digits.wide)  # it knows both forms by itself
    for both in (in_text.beside(in_digits), in_digits.beside(in_text)):
        assert json.loads(both.written(base64=False)) == digits
        assert both.written(base64=True) == in_base64(numbers)


def test_a_vector_of_another_length_is_not_put_beside_it():
    assert read(in_base64([0.5, 0.25])).beside(read(b"[0.1]")) == read(in_base64([0.5, 0.25]))


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b'""', b"null", b"{}", b"[true]", b'["1"]', b"[[1]]", b"[1,", b'"AAA"', b'"AAAA"', b'"AAA\\n="',
     b"[1e999]", b'"AAAAAA=\n="', b"[NaN]", b"[" + b",".join([b"1"] * (MOST_NUMBERS + 1)) + b"]",
     b'"' + base64.b64encode(bytes(4 * MOST_NUMBERS + 4)) + b'"'],
)  # fmt: skip
def test_what_is_no_vector_is_none(text):
    assert read_vector(text) is None


def test_escaped_base64_is_read():
    slashes = b"\xff\xff\xff\x3e"  # "////Pg==": some JSON writers escape each slash
    assert read(b'"\\/\\/\\/\\/Pg=="').singles == slashes
    assert read(b'"////Pg=="').singles == slashes
