"""A file of keys is read line by line; a bad line is named by its number and never shown."""

from __future__ import annotations

import pytest
from quotapool.operators.key_file import BadFile, read


def read_text(text: str):
    return list(read(text.splitlines(keepends=True)))


def test_one_secret_a_line_with_comments_and_blanks_between():
    lines = read_text("\ufeff# ours\n\nsk-one\n  sk-two  \n")
    assert [(line.number, line.entry.secret, line.entry.id) for line in lines] == [
        (3, "sk-one", None),
        (4, "sk-two", None),
    ]


def test_a_csv_carries_what_is_known_of_the_account():
    (line,) = read_text(
        "id,secret,account,tier,weight,grant_usd,granted_on,expires_on\n"
        "one,sk-one,acme,trial,2,$18,2026-10-01,2027-01-01\n"
    )
    assert (line.entry.id, line.entry.secret, line.entry.account) == ("one", "sk-one", "acme")
    assert line.entry.account_settings == {
        "tier": "trial",
        "weight": 2.0,
        "grants": [{"usd": 18.0, "granted_on": "2026-10-01", "expires_on": "2027-01-01"}],
    }


def test_an_empty_cell_says_nothing():
    (line,) = read_text("secret,id,account,tier\nsk-one,,,\n")
    assert (line.entry.id, line.entry.account, line.entry.account_settings) == (None, None, {})


@pytest.mark.parametrize(
    ("header", "row", "problem"),
    [
        ("secret,id", ",one", "has no secret"),
        ("secret,id", "sk-canary,one,more", "has 3 cells for 2 columns"),
        ("secret,grant_usd", "sk-canary,much", "grant_usd must be a number greater than 0"),
        ("secret,grant_usd", "sk-canary,-5", "grant_usd must be a number greater than 0"),
        ("secret,weight", "sk-canary,nan", "weight must be a number greater than 0"),
        ("secret,expires_on", "sk-canary,2027-01-01", "has the dates of a grant and no grant_usd"),
        ("secret,id", '"sk-canary,one', "has an unclosed quote"),
        ("secret,id", "sk-canary" * 1000, "is longer than 4096 characters"),
        ("sk-first", "sk-canary,one", "contains a comma; a table must begin with a header such as id,secret,account"),
    ],
)
def test_a_bad_line_says_why_and_not_what(header, row, problem):
    *_, line = read_text(f"{header}\n{row}\n")
    assert (line.number, line.entry, line.problem) == (2, None, problem)
    assert "canary" not in repr(line)


def test_a_wrong_header_is_refused_as_a_whole_with_the_nearest_real_name():
    with pytest.raises(BadFile, match="did you mean grant_usd"):
        read_text("secret,grant_us\nsk-one,5\n")
    with pytest.raises(BadFile, match="a column twice"):
        read_text("secret,id,id\n")


def test_a_file_is_never_held_in_memory():
    def endless():
        while True:
            yield "sk-one\n"

    lines = read(endless())
    assert [next(lines).number for _ in range(3)] == [1, 2, 3]
