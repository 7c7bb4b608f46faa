"""What commands print: whole words in a pipe, 80 columns on a terminal, and never a caller's text as markup."""

from __future__ import annotations

import re

import pytest
from quotapool.cli import tables
from quotapool.cli.usage import run
from quotapool.settings import Settings

LONG = "organization_spend_limit_exceeded_" * 6


def shown(made, capsys, at_least: int = 0) -> str:
    tables.console(at_least).print(made)
    return str(capsys.readouterr().out)


def test_a_pipe_gets_every_cell_whole_and_on_one_line(capsys):
    made = tables.table("key", "reason")
    made.add_row("key-0", LONG)
    assert any(LONG in line and "key-0" in line for line in shown(made, capsys).splitlines())


def test_a_terminal_of_80_columns_shows_all_of_a_long_cell_and_no_longer_line(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    made = tables.table("key", "reason")
    made.add_row("key-0", LONG)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown(made, capsys)).splitlines()
    assert max(map(len, lines)) <= 80
    assert "".join(line.replace("key-0", "").strip() for line in lines[3:]) == LONG


@pytest.mark.parametrize("name", ["[/]", "[red]x", "[link=file:///etc/passwd]m[/link]", ":smile:"])
def test_a_name_that_a_caller_chose_is_shown_as_it_is(name, capsys):
    made = tables.table("model")
    made.add_row(name)
    assert name in shown(made, capsys)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (7_199, "1 h"), (86_400, "1 d"), (800_000, "9 d")],
)
def test_a_length_of_time_is_told_in_its_largest_unit(seconds, words):
    assert tables.span(seconds) == words


def test_a_bill_of_future_days_is_refused(capsys):
    assert run(Settings(), by="model", since="2999-01-01", until=None, every=None, as_csv=False, as_json=False) == 2
    assert "in the future" in capsys.readouterr().err
