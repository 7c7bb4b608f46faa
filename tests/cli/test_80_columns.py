"""What commands print on a terminal of 80 columns: each word whole, each name in one line."""

from __future__ import annotations

import re

import pytest
from quotapool.cli import cache, savings, tables
from quotapool.cli.now import room_table
from quotapool.shapes.cache import CacheState, CacheSums
from quotapool.shapes.now import RoomRow, Savings

NAME = "text-embedding-3-small"
SUMS = CacheSums(8, 3, 45, 4, 11, 10_000, 172, 1234.5, 0)


@pytest.fixture
def printed(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")

    def lines() -> list[str]:
        found = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
        assert max(map(len, found)) <= 80
        return found

    return lines


def test_a_models_room_is_a_line_with_its_whole_name(printed):
    tables.console().print(room_table([RoomRow(NAME, "rpm", 10_000, 12_300, 1_234, 10_000, 4, 0, None)]))
    (line,) = [line for line in printed() if "rpm" in line]
    assert line.split() == [NAME, "rpm", "12.3k", "10.0k", "1,234", "10.0k", "-"]


def test_what_the_cache_did_is_a_line_for_today_and_one_for_the_month(printed):
    cache._show(CacheState([NAME], 47, 1024, 2**20, 0, 0, [], [], "2026-11-01", SUMS, SUMS, []))
    rows = [line.split() for line in printed() if "$1,234.50" in line]
    assert [(row[0], row[-1]) for row in rows] == [("today", "$1,234.50"), ("month", "$1,234.50")]


@pytest.mark.parametrize(("requests", "words"), [(0, "0 requests were"), (1, "1 request was"), (2, "2 requests were")])
def test_one_request_is_not_several(printed, requests, words):
    none = CacheSums(requests, 0, 0, 0, 1, 0, 0, 0.0, 0)
    savings._show(Savings("2026-11-01T00:00:00", {"key": requests}, 0, 0, 0.0, none, none))
    said = " ".join(" ".join(printed()).split())
    assert f"2026-11-01: {words} served after an attempt had failed" in said
    assert f"{words} served by the pool's own cache" in said
