"""Two bodies have the same canonical text exactly if they say the same, however they are spelled."""

from __future__ import annotations

import json
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from quotapool.openai.cacheable import canonical
from quotapool.openai.endpoints import Endpoint, resolve
from quotapool.openai.facts import Canonical

TARGET = "/v1/embeddings"
BLANKS = ("", "", " ", "\n", "\t", "\r\n  ")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"', "\\", ":", '\\u003a":', '","a":', "{}", "\x00", "é", "😀", "e\u0301"]
)
numbers = (
    st.integers(-3, 3)
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(-2, 2, places=3).map(float)
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def kept(text: bytes) -> bytes:
    endpoint = resolve("POST", TARGET)
    assert isinstance(endpoint, Endpoint)
    found = canonical(endpoint, "POST", TARGET, text)
    assert isinstance(found, Canonical), found
    return found.text


def number(value: float, random: Random) -> str:
    """One of the ways to write this number's exact decimal value, as Python writes it."""
    decimal = Decimal(repr(value))
    sign, digits, exponent = decimal.as_tuple()
    assert isinstance(exponent, int)
    if not any(digits):
        return random.choice(("0", "-0", "0.0", "-0.0", "0e7", "0.00E-3"))
    written = "".join(map(str, digits))
    way = random.randrange(4)
    if way == 0:
        return repr(value)
    if way == 1:  # trailing zeros, and an exponent that takes them back
        zeros = random.randrange(1, 4)
        return f"{'-' * sign}{written}{'0' * zeros}{random.choice('eE')}{exponent - zeros}"
    if way == 2:  # all behind the point
        return f"{'-' * sign}0.{'0' * 2}{written}{'0' * random.randrange(3)}e{exponent + len(written) + 2:+d}"
    if abs(exponent) > 40:
        return repr(value)
    plain = f"{decimal:f}"
    return plain + ("0" if "." in plain else ".0")


def string(value: str, random: Random) -> str:
    written = []
    for character in value:
        way = random.randrange(3)
        if way == 0:
            units = character.encode("utf-16-be")
            upper = random.random() < 0.5
            codes = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
            written += [f"\\u{code.upper() if upper else code}" for code in codes]
        elif way == 1 and character == "/":
            written.append("\\/")
        else:
            written.append(json.dumps(character, ensure_ascii=random.random() < 0.5)[1:-1])
    return f'"{"".join(written)}"'


def spelled(value: Any, random: Random) -> str:
    """The value as JSON in one of its many spellings."""

    def blank() -> str:
        return random.choice(BLANKS)

    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return string(value, random)
    if isinstance(value, int | float):
        return number(value, random)
    if isinstance(value, list):
        return "[" + blank() + ",".join(blank() + spelled(one, random) + blank() for one in value) + "]"
    members = list(value.items())
    random.shuffle(members)
    return (
        "{"
        + blank()
        + ",".join(f"{blank()}{string(k, random)}{blank()}:{blank()}{spelled(v, random)}{blank()}" for k, v in members)
        + "}"
    )


def meaning(value: Any) -> object:
    """What a value says: equal for equal numbers, apart for true and 1."""
    if isinstance(value, dict):
        return "object", frozenset((name, meaning(member)) for name, member in value.items())
    if isinstance(value, list):
        return "array", tuple(meaning(one) for one in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", Decimal(repr(value))
    return type(value).__name__, value


def body(value: Any) -> dict[str, Any]:
    return {"model": "m", "input": "Hi", "x": value}


@given(values, st.randoms(use_true_random=False))
def test_order_blanks_escapes_and_the_spelling_of_numbers_do_not_matter(value, random):
    assert kept(spelled(body(value), random).encode()) == kept(json.dumps(body(value)).encode())


@given(values, values, st.randoms(use_true_random=False))
def test_what_says_something_else_has_another_text(one, other, random):
    same = meaning(one) == meaning(other)
    assert (kept(spelled(body(one), random).encode()) == kept(spelled(body(other), random).encode())) is same


@given(st.dictionaries(texts, values, min_size=1, max_size=5), values, st.data())
def test_a_change_of_any_member_changes_the_text(members, new, data):
    name = data.draw(st.sampled_from(sorted(members)))
    assume(meaning(members[name]) != meaning(new))
    before = kept(json.dumps(body(members)).encode())
    assert kept(json.dumps(body({**members, name: new})).encode()) != before
    assert kept(json.dumps(body({k: v for k, v in members.items() if k != name})).encode()) != before


@given(values)
def test_the_text_says_what_the_body_said(value):
    said = json.loads(kept(json.dumps(body(value)).encode()), parse_float=Decimal, parse_int=Decimal)

    def of_decimals(one: Any) -> object:
        if isinstance(one, Decimal):
            return "number", one
        if isinstance(one, dict):
            return "object", frozenset((name, of_decimals(member)) for name, member in one.items())
        return ("array", tuple(map(of_decimals, one))) if isinstance(one, list) else (type(one).__name__, one)

    assert of_decimals(said) == meaning(body(value))


@given(st.dictionaries(texts, values, max_size=4), texts, values, st.randoms(use_true_random=False))
def test_a_repeated_name_is_found_wherever_it_stands(members, name, value, random):
    twice = f"{string(name, random)}:{spelled(value, random)}"
    text = f'{{"model":"m","input":"Hi","x":[{spelled(members, random)},{{{twice},{twice}}}]}}'
    endpoint = resolve("POST", TARGET)
    assert isinstance(endpoint, Endpoint)
    assert canonical(endpoint, "POST", TARGET, text.encode()) == "repeated_member"


@pytest.mark.parametrize(
    ("spellings", "canonically"),
    [
        (("1", "1.0", "1e0", "1E+0", "10e-1", "0.1e1", "1.000000000000000000000"), "1"),
        (("0", "-0", "0.0", "-0.0", "0e5", "0.000000000000000000000e999"), "0"),
        (("0.5", "5e-1", "0.5e0", "0.50", "0.000000000000000000005e20"), "0.5"),
        (("100000000000000000000", "1e20", "1.0e+20"), "100000000000000000000"),
        (("9007199254740993",), "9007199254740993"),  # no double: 2**53 + 1
        (("0.1000000000000000055511151231257827",), "1000000000000000055511151231257827e-34"),  # the double of 0.1
        (("1e400", "10e399"), "1e400"),
        (("1e-400",), "1e-400"),
        (("-2.5", "-25e-1"), "-2.5"),
    ],
)
def test_a_number_has_one_spelling(spellings, canonically):
    for number in spellings:
        assert kept(f'{{"model":"m","input":"","x":{number}}}'.encode()) == (
            f'{{"input":"","model":"m","x":{canonically}}}'.encode()
        )


def test_a_number_takes_time_in_proportion_to_its_digits():
    """1e999999999 written out would be a gigabyte."""
    assert kept(b'{"model":"m","input":"","x":1e999999999}').endswith(b'"x":1e999999999}')
    assert kept(b'{"model":"m","input":"","x":0.' + b"1" * 100_000 + b"}").endswith(b"1e-100000}")
