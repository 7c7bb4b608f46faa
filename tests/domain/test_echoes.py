"""A secret in what upstream answers is found at any split, and nothing else is changed."""

from __future__ import annotations

import json
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.echoes import EchoFilter, shows

USUAL = "sk-proj-" + "aB3_-" * 8
ODD = 'p"w/ä&%\\d!'


def pieces(text: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def through(secret: str, parts: list[bytes]) -> bytes:
    echo = EchoFilter(secret)
    return b"".join([echo.feed(part) for part in parts]) + echo.finish()


@given(
    st.lists(
        st.sampled_from([USUAL.encode(), USUAL[:20].encode(), b"s", b"sk", b"sk-", b"\n", b"\n\n", b"hello "]),
        max_size=9,
    ),
    st.lists(st.integers(0, 10**6), max_size=9),
)
def test_the_secret_is_replaced_at_any_split_and_the_length_stays(words, cuts):
    text = b"".join(words)
    got = through(USUAL, pieces(text, cuts))
    assert got == text.replace(USUAL.encode(), b"*" * len(USUAL))


@given(st.binary(max_size=300), st.lists(st.integers(0, 10**6), max_size=9))
def test_what_has_no_secret_passes_untouched(noise, cuts):
    assert through("abcabcabd", pieces(noise, cuts)) == noise.replace(b"abcabcabd", b"*" * 9)
    echo = EchoFilter(USUAL)
    assert echo.whole(noise) is noise


@pytest.mark.parametrize("spelled", [json.dumps(ODD)[1:-1], quote(ODD, safe=""), "p&quot;w/ä&amp;%\\d!"])
def test_an_odd_secret_is_found_in_the_spellings_of_json_urls_and_html(spelled):
    text = f"before {spelled} after".encode()
    for at in range(len(text)):
        got = through(ODD, [text[:at], text[at:]])
        assert (spelled.encode() in got, len(got)) == (False, len(text))


def test_events_are_held_back_only_while_the_secret_may_begin_at_their_end():
    echo = EchoFilter(USUAL)
    line = b'data: {"a":"sk"}\n\n'
    assert echo.feed(line) is line
    assert echo.feed(b"data: sk-pr") == b"data: "
    assert echo.feed(b"etty\n\n") == b"sk-pretty\n\n"
    assert echo.finish() == b""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"https://x/?key={USUAL}", True),
        (f"https://x/?key={USUAL.replace('-', '%2D')}", True),
        (f"https://x/?to={quote('https://y/?key=' + USUAL.replace('-', '%2d'), safe='')}", True),
        ("https://x/?key=sk%2Dproj%2D", False),
        ("100%", False),
        ("%" * 5000, False),
    ],
)
def test_a_header_shows_the_secret_whatever_it_is_percent_encoded_with(text, found):
    assert shows(text, USUAL) is found
