"""Keys as a terminal sends them, and the bytes that turn one frame into the next."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.cli.screen import Keys, Painter
from rich.console import Console
from rich.text import Text

from tests.fakes.terminal import lines_of


def keys_of(*data: bytes) -> list[str]:
    keys = Keys()
    return [key for part in data for key in keys.feed(part)]


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B\x1b[C\x1b[D", ["up", "down", "right", "left"]),
        (b"\x1bOA\x1bOB", ["up", "down"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[F\x1b[1~\x1b[4~", ["page up", "page down", "home", "end", "home", "end"]),
        (b"\t\x1b[Z", ["tab", "back tab"]),
        (b"\r\n\x7f\x08 ", ["enter", "enter", "backspace", "backspace", " "]),
        ("ä模".encode(), ["ä", "模"]),
        (b"\x1b[15~a", ["a"]),  # F5, which nothing knows
        (b"\x01\x00a", ["a"]),
        (b"\xffa", ["\ufffd", "a"]),
    ],
)
def test_what_is_pressed_has_a_name(data, keys):
    assert keys_of(data) == keys
    assert keys_of(*(bytes([one]) for one in data)) == keys  # as a slow line brings it


def test_an_escape_is_the_key_only_if_nothing_follows():
    keys = Keys()
    assert list(keys.feed(b"\x1b")) == []
    assert keys.is_waiting
    assert list(keys.rest()) == ["escape"]
    assert not keys.is_waiting
    assert list(keys.feed(b"\x1b")) == []
    assert list(keys.feed(b"[A")) == ["up"]
    assert list(keys.feed(b"\x1b[")) == []
    assert list(keys.rest()) == []  # the beginning of one that never came


@given(st.lists(st.binary(max_size=8), max_size=8))
def test_no_bytes_are_too_strange(parts):
    for key in keys_of(*parts):
        assert key.isprintable()


def painter() -> Painter:
    return Painter(Console(file=StringIO(), force_terminal=True, width=10_000, color_system="standard"))


def test_only_lines_that_changed_are_written_again():
    paint = painter()
    first = paint.bytes_for([Text("one"), Text("two", "red")], (20, 2))
    assert lines_of(first.rpartition("\x1b[2J")[2], (20, 2)) == ["one", "two"]
    assert paint.bytes_for([Text("one"), Text("two", "red")], (20, 2)) == ""
    second = paint.bytes_for([Text("one"), Text("three", "red")], (20, 2))
    assert "\x1b[2J" not in second
    assert "one" not in second
    assert "three" in second


def test_after_another_size_or_another_program_all_of_it_is_drawn():
    paint = painter()
    lines = [Text("one"), Text("two")]
    paint.bytes_for(lines, (20, 2))
    assert "one" in paint.bytes_for(lines, (40, 2))
    paint.forget()
    assert "one" in paint.bytes_for(lines, (40, 2))


words = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@given(st.lists(st.lists(words, min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_screen_shows_the_last_frame_whatever_came_before(frames):
    paint, written = painter(), ""
    for frame in frames:
        written += paint.bytes_for([Text(line, "bold") for line in frame], (12, 3))
    assert lines_of(written.rpartition("\x1b[2J")[2], (12, 3)) == [line.rstrip() for line in frames[-1]]


def test_a_frame_is_shown_at_once_where_the_terminal_can():
    shown = painter().bytes_for([Text("one")], (20, 1))
    assert re.fullmatch(r"\x1b\[\?2026h.*\x1b\[\?2026l", shown, re.DOTALL)
