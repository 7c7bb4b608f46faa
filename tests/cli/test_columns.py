"""Columns that fit a terminal: nothing is wider than the line, and what matters least gives way first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from quotapool.cli.columns import GAP, Column, cell, cut, printable, widths
from rich.cells import cell_len

COLUMNS = (Column("name", 6, 20), Column("note", 5, 30, rank=2), Column("used", 4, 8, rank=5, right=True))


def test_where_there_is_place_each_is_as_wide_as_its_content_and_its_title():
    assert widths(COLUMNS, [10, 12, 2], 80) == [10, 12, 4]


def test_none_is_wider_than_its_most():
    assert widths(COLUMNS, [90, 90, 90], 200) == [20, 30, 8]


def test_what_has_most_to_give_is_cut_first():
    # 20 + 30 + 8 and two gaps of 2 are 62: 12 too many, all of which the note can give
    assert widths(COLUMNS, [90, 90, 90], 50) == [20 - 1, 30 - 11, 8]


def test_an_empty_column_gives_way_before_any_is_cut():
    assert widths(COLUMNS, [20, 0, 8], 30) == [20, 0, 8]
    assert widths(COLUMNS, [20, 0, 8], 36) == [20, 4, 8]


def test_of_those_that_do_not_fit_the_lowest_rank_leaves_first():
    assert widths(COLUMNS, [20, 20, 8], 14) == [6 + 1, 0, 4 + 1]  # 2 more than the least, one for each
    assert widths(COLUMNS, [20, 20, 8], 9) == [9, 0, 0]
    assert widths(COLUMNS, [20, 20, 8], 3) == [3, 0, 0]


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 30), st.integers(0, 9)), min_size=1, max_size=8),
    st.data(),
    st.integers(1, 200),
)
def test_a_line_always_fits(columns, data, width):
    made = [Column("x" * (n % 5), least, least + more, rank) for n, (least, more, rank) in enumerate(columns)]
    contents = [data.draw(st.integers(0, 60)) for _ in made]
    found = widths(made, contents, width)
    assert sum(found) + GAP * (sum(one > 0 for one in found) - 1) <= width
    assert all(one <= column.most for one, column in zip(found, made, strict=True))


@given(st.text(), st.integers(0, 40), st.booleans())
def test_a_cell_has_exactly_its_width_whatever_the_script(text, width, right):
    assert cell_len(cell(printable(text), width, right=right)) == width
    assert cell_len(cut(printable(text), width)) <= width


def test_what_is_cut_says_so():
    assert cut("gpt-4o-mini", 8) == "gpt-4o-…"
    assert cut("模型模型", 5) == "模型…"
    assert cut("gpt", 3) == "gpt"
    assert cell("7", 4, right=True) == "   7"


def test_what_controls_the_terminal_is_not_shown():
    assert printable("a\x1b[2Jb\nc") == "a[2Jbc"
