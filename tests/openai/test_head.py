"""Header lines from one parser to the other: looked up in any case, and sent on as they came or not at all."""

from __future__ import annotations

import string

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from quotapool.openai.head import Head
from quotapool.openai.header_names import KNOWN
from quotapool.openai.headers import encode_headers, headers_for_client, headers_for_upstream

SECRET = "sk-test-secret-0123456789"
CREDENTIAL = (b"Authorization", b"Bearer " + SECRET.encode())
ADDED = [(b"Accept-Encoding", b"identity"), CREDENTIAL]

tokens = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1, max_size=12)
names = st.one_of(tokens, st.sampled_from(["Host", "host", "X-A", "x-a", "X-a"]))
values = st.binary(max_size=20).map(lambda value: value.translate(None, b"\r\n\0").strip())
fields = st.lists(st.tuples(names, values), max_size=12)
cases = st.sampled_from([str, str.lower, str.upper, str.title, str.swapcase])


def decoded(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


@given(fields, names, cases)
def test_a_head_answers_as_a_case_insensitive_dictionary_of_its_lines_would(pairs, absent, spelled):
    head = Head([(name.encode(), value) for name, value in pairs])
    reference = CIMultiDict((name, decoded(value)) for name, value in pairs)
    assert head.items() == list(reference.items())
    assert len(head) == len(reference)
    for name in (spelled(name) for name in [*reference, absent]):
        assert (name in head) == (name in reference)
        assert head.get(name) == reference.get(name)
        assert head.get(name, "otherwise") == reference.get(name, "otherwise")
        assert head.getall(name) == reference.getall(name, [])
        assert head.is_repeated(name) == (len(reference.getall(name, [])) > 1)
        raw = head.raw(name)
        assert (None if raw is None else decoded(raw)) == reference.get(name)
        if name in reference:
            assert head[name] == reference[name]
        else:
            with pytest.raises(KeyError):
                head[name]


class Parser:
    """The lines that a parser makes of a message; None: it refuses it."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    @classmethod
    def read(cls, first: bytes, lines: bytes) -> list[tuple[bytes, bytes]] | None:
        seen = cls()
        kind = httptools.HttpResponseParser if first.startswith(b"HTTP/") else httptools.HttpRequestParser
        try:
            kind(seen).feed_data(first + b"\r\n" + lines + b"\r\n")
        except httptools.HttpParserError:
            return None
        return seen.fields


WAYS = {
    "up": (b"GET / HTTP/1.1", lambda head: headers_for_upstream(head, CREDENTIAL), ADDED),
    "down": (b"HTTP/1.1 204 No Content", lambda head: headers_for_client(head, secret=SECRET), []),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", [b"X-%bA: 1", b"%bX-A: 1", b"X-A%b: 1", b"X-A: %b", b"X-A: 1%b2", b"X-A: 1%b"])
def test_each_byte_in_a_name_or_a_value_is_refused_or_comes_out_in_one_line_as_it_came_in(way, place):
    first, passed, added = WAYS[way]
    outcomes = set()
    for byte in range(256):
        line = place % bytes([byte])
        came = Parser.read(first, b"X-Before: 1\r\n" + line + b"\r\nX-After: 2\r\n")
        if came is None:
            outcomes.add("refused by the parser")
            continue
        sent = passed(Head(came))
        try:
            lines = encode_headers(sent)
        except ValueError:
            outcomes.add("refused by us")
            continue
        outcomes.add("sent")
        assert lines.count(b"\r\n") == lines.count(b"\n") == lines.count(b"\r") == len(sent)
        name, _, value = line.partition(b":")
        if byte not in b"\r\n":  # they end the line, and what remains of it is a line or is refused
            expected = [(b"X-Before", b"1"), (name, value.strip(b" \t")), (b"X-After", b"2"), *added]
            assert sent == expected
            assert Parser.read(first, lines) == expected
    assert {"refused by the parser", "sent"} <= outcomes


@pytest.mark.parametrize("control", [n for n in range(0x20) if n != 9] + [0x7F])
def test_a_control_character_is_sent_in_neither_direction_whatever_a_parser_lets_through(control):
    for line in ((b"X-%c" % control, b"1"), (b"X-A", b"1%c2" % control)):
        for _, passed, _ in WAYS.values():
            with pytest.raises(ValueError, match="not one line"):
                encode_headers(passed(Head([line])))


def test_what_is_remembered_of_names_is_bounded_however_many_are_invented():
    for n in range(3_000):
        Head([(b"X-Invented-%d" % n, b"1"), (b"X-Long-%d-" % n + b"x" * 60, b"1")])
    assert 0 < len(KNOWN) <= 1_024
    assert max(map(len, KNOWN)) <= 64


def test_a_head_shows_no_values():
    assert SECRET not in repr(Head([CREDENTIAL]))
