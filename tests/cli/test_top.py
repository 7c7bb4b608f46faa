"""`quotapool top`: what a frame shows in a terminal of any size, and what each key changes."""

from __future__ import annotations

from io import StringIO
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.cli.now import attention_table
from quotapool.cli.top_frame import frame, percent, rate, rows_of
from quotapool.cli.top_view import HELP, LISTS, View, pressed
from quotapool.shapes.now import Attention, DryTime, Fact, Now, RoomRow, WaitingRow
from quotapool.shapes.top import ClientUse, KeyUse, Top, Traffic, Trouble
from rich.cells import cell_len
from rich.console import Console

AT = 1_795_000_000.0
AT_FIRST = View()


def a_room(model: str, left: float, *, limit: float = 1_000, dry: DryTime | None = None, cooling: int = 0) -> RoomRow:
    return RoomRow(model, "rpm", limit, left, 120, limit, 4, cooling, dry)


def a_key(name: str, state: str = "active", **changed) -> KeyUse:
    fields = {
        "account": name,
        "reason": "",
        "since": None,
        "next_try": None,
        "cooling_s": 0.0,
        "left": 0.5,
        "emptiest": "gpt-5 rpm",
        "attempts_per_minute": 0.0,
        "failed_per_minute": 0.0,
    }
    return KeyUse(id=name, state=state, **{**fields, **changed})


def a_client(name: str, requests: float = 0.0, **changed) -> ClientUse:
    fields = {"refused_per_minute": 0, "failed_per_minute": 0, "tokens_per_minute": 0, "usd_per_hour": 0, "waiting": 0}
    return ClientUse(client=name, requests_per_minute=requests, **{**fields, **changed})


def a_top(**changed) -> Top:
    """A pool with something in each list."""
    now = Now(
        at=AT,
        pool="default",
        version="1.0",
        sentence="Serving: 4,998 of 5,000 keys. gpt-5 has no room left (rpm). 3 requests wait in the queue.",
        facts=[Fact("serving")],
        keys={"active": 4_998, "removed": 2},
        usable_keys=4_998,
        accounts=5_000,
        attention=[Attention("critical", "key", "invalid_api_key", ["k-1", "k-2"], 2, 0.0, "make new keys", [])],
        room=changed.pop("room", [a_room("o3", 900), a_room("gpt-5", 0, dry=DryTime(0, 0, 0))]),
        waiting=[WaitingRow("gpt-5", "rpm", "app", "", 3, 4.2)],
        credit=[],
        outside_use=[],
        requests_per_minute=600,
        errors_per_minute=30,
        spent_today_usd=12.5,
        daily_limit_usd=50.0,
    )
    top = Top(
        now=now,
        traffic=Traffic(10.0, 0.5, 0.0, 0.0, 1_200.0, 450.0, 2_300.0),
        keys=[
            a_key("k-1", "removed", reason="invalid_api_key", since=AT - 7_200, left=None),
            a_key("k-3", attempts_per_minute=300, left=0.03),
        ],
        clients=[a_client("app", 420, refused_per_minute=25, waiting=3), a_client("batch", 80)],
        troubles=[Trouble(AT - 3, "app", "gpt-5", 429, "queue_full", "k-3:wait", "qp-1")],
        buckets_at=AT,
    )
    for name, value in changed.items():
        setattr(top, name, value)
    return top


def shown(top: Top, view: View = AT_FIRST, width: int = 80, height: int = 24) -> list[str]:
    return [line.plain.rstrip() for line in frame(top, view, width, height)]


def where(lines: list[str], text: str) -> int:
    return next(n for n, line in enumerate(lines) if text in line)


def test_a_screen_of_80_by_24_has_all_that_is_asked_first():
    lines = shown(a_top())
    assert len(lines) == 24
    assert lines[0].startswith("quotapool top  default  4,998 of 5,000 keys")
    assert "$12.50 of $50.00 today" in lines[0]
    assert lines[1].startswith("Serving: 4,998 of 5,000 keys. gpt-5 has no room left (rpm).")
    assert lines[2].startswith("10.0 requests/s  0.50 429/s  0 failed/s  3 wait (up to 4 s)")
    assert lines[3] == "critical: key k-1 and 1 more: make new keys"
    assert where(lines, "ROOM") < where(lines, "KEYS") < where(lines, "CLIENTS") < where(lines, "ERRORS")
    room, keys = lines[where(lines, "ROOM") + 1], lines[where(lines, "KEYS") + 1]
    assert room.split()[:5] == ["gpt-5", "rpm", "0", "1,000", "0%"]
    assert "now" in room
    assert keys.split()[:2] == ["k-1", "removed"]
    assert "invalid_api_key, for 2 h" in keys
    client = lines[where(lines, "CLIENTS") + 1]
    assert client.split()[:4] == ["app", "420", "25", "3"]
    error = lines[where(lines, "ERRORS") + 1]
    assert "429 queue_full" in error
    assert error.endswith("qp-1")
    assert lines[-1].startswith("q quit")


def test_what_concerns_the_whole_pool_is_said_of_the_pool_by_no_name():
    top = a_top()
    full = Attention("critical", "pool", "daily_limit", ["pool"], 1, 0.0, "the day is spent", [])
    top.now.attention = [full]
    assert shown(top)[3] == "critical: the pool: the day is spent"
    console = Console(width=80, file=StringIO())
    console.print(attention_table([full]))
    assert "critical  the pool  daily_limit: the day is spent" in console.file.getvalue()


@given(st.integers(-1, 200), st.integers(-1, 70), st.integers(0, 3), st.booleans(), st.booleans(), st.booleans())
def test_a_frame_fits_every_terminal(width, height, focus, is_whole, shows_help, typing):
    view = View(focus=focus, is_whole=is_whole, shows_help=shows_help, typing=typing, only="模" * 3 if typing else "")
    many = a_top(
        room=[a_room(f"模型-{n}", n) for n in range(30)],
        keys=[a_key(f"key-{n}", cooling_s=3.0, state="cooling") for n in range(30)],
        clients=[a_client("client-" * n, n) for n in range(30)],
        troubles=[Trouble(AT - n, "c" * n, "m" * n, 500, "w" * n, "t" * n, "i" * n) for n in range(30)],
    )
    for top in (many, a_top(), a_top(room=[], keys=[], clients=[], troubles=[])):
        lines = frame(top, view, width, height)
        assert len(lines) == max(height, 1)
        assert all(line.cell_len <= max(width, 1) for line in lines)


def test_the_list_in_focus_has_more_lines_and_none_vanishes():
    top = a_top(
        room=[a_room(f"m-{n}", n) for n in range(40)],
        keys=[a_key(f"key-{n}") for n in range(40)],
        clients=[a_client(f"c-{n}") for n in range(40)],
        troubles=[Trouble(AT - n, "c", "m", 500, "w", "t", "i") for n in range(40)],
    )
    for focus, title in enumerate(("ROOM", "KEYS", "CLIENTS", "ERRORS")):
        lines = shown(top, View(focus=focus), 80, 40)
        starts = [*(where(lines, name) for name in ("ROOM", "KEYS", "CLIENTS", "ERRORS")), 39]
        sizes = [following - start for start, following in pairwise(starts)]
        assert max(sizes) == sizes[focus], title
        assert min(sizes) >= 2
        assert sum(sizes) == 39 - starts[0]  # no line is left unused


def test_what_an_empty_list_does_not_need_others_have():
    lines = shown(a_top(room=[a_room(f"m-{n}", n) for n in range(40)], keys=[], clients=[], troubles=[]))
    assert where(lines, "KEYS") - where(lines, "ROOM") == 24 - 4 - 1 - 3
    assert lines[where(lines, "KEYS")].endswith("none")


def test_a_list_alone_has_the_whole_screen():
    lines = shown(a_top(keys=[a_key(f"key-{n}") for n in range(40)]), View(focus=1, is_whole=True))
    assert sum("key-" in line and "active" in line for line in lines) == 24 - 4 - 1 - 1
    assert not any("ROOM" in line for line in lines)


def test_the_first_list_says_what_runs_dry_first():
    late, soon = DryTime(50, 40, None), DryTime(4, 3, 6)
    top = a_top(room=[a_room("calm", 10), a_room("late", 900, dry=late), a_room("soon", 800, dry=soon)])
    assert [row.model for row in rows_of(top, View(), "room")] == ["soon", "late", "calm"]
    lines = shown(top, width=120)
    assert "4 min (3 min to 6 min)" in lines[where(lines, "soon")]


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (a_key("k", "cooling", cooling_s=41.0), "for 41 s"),
        (
            a_key("k", "quarantined", reason="insufficient_quota", since=AT - 120, next_try=AT + 600),
            "insufficient_quota, for 2 min, next try in 10 min",
        ),
        (a_key("k", "suspect", reason="forbidden", next_try=AT - 1), "forbidden"),
    ],
)
def test_a_key_that_does_not_serve_says_why_and_until_when(key, line):
    lines = shown(a_top(keys=[key]), width=140)
    assert lines[where(lines, "KEYS") + 1].endswith(line)


def test_clients_words_do_not_control_the_terminal():
    top = a_top(
        clients=[a_client("a\x1b[2Jb")], troubles=[Trouble(AT, "c", "m\r\n\x1b]0;x\x07", 500, "\x9b", "t", "i")]
    )
    for line in frame(top, View(), 120, 40):
        assert line.plain.isprintable()


# ---- keys


def after(*keys: str, view: View = AT_FIRST, rows: int = 100) -> View:
    for key in keys:
        found = pressed(view, key, rows)
        assert found is not None
        view = found
    return view


def test_q_quits_except_where_it_is_typed():
    assert pressed(View(), "q", 1) is None
    assert after("/", "q").only == "q"
    assert pressed(after("?"), "q", 1) is None


def test_tab_goes_round_the_lists_and_numbers_go_to_them():
    assert [after(*["tab"] * n).focus for n in range(6)] == [0, 1, 2, 3, 0, 1]
    assert after("back tab").focus == after("left").focus == 3
    assert after("3").focus == 2
    assert after("9").focus == after("0").focus == 0


def test_rows_are_scrolled_within_the_list_and_each_list_keeps_its_place():
    assert after("down", "down", "up").first[0] == 1
    assert after("up").first[0] == 0
    assert after("end", rows=7).first[0] == after("page down", rows=7).first[0] == 6
    assert after("end", "home").first[0] == 0
    view = after("down", "2", "page down")
    assert view.first == (1, 10, 0, 0)


def test_the_end_of_a_list_stays_on_the_screen():
    top = a_top(clients=[a_client(f"c-{n:02}", 100 - n) for n in range(30)])
    view = after("3", "z", "end", rows=30)
    lines = shown(top, view)
    assert lines[-2].startswith("c-29")
    assert lines[-19].startswith("c-12")
    assert "13-30 of 30" in lines[where(lines, "CLIENTS")]


def test_s_sorts_by_the_next_order_and_r_the_other_way_round():
    top = a_top(
        clients=[
            a_client("a", 10, tokens_per_minute=1, usd_per_hour=3),
            a_client("b", 20, tokens_per_minute=9, refused_per_minute=5),
            a_client("c", 30, tokens_per_minute=5),
        ]
    )

    def names(*keys: str) -> str:
        return "".join(row.client for row in rows_of(top, after("3", *keys), "clients"))

    assert [names(*["s"] * n) for n in range(6)] == ["cba", "bac", "bca", "abc", "abc", "cba"]
    assert names("S") == "abc"
    assert names("r") == "abc"
    assert names("r", "r") == "cba"


def test_a_text_leaves_only_rows_that_have_it_in_a_cell_in_every_list():
    top = a_top()
    view = after("/", *"GPT-5", "enter")
    assert [[len(rows_of(top, view, name)) for name in LISTS]] == [[1, 1, 0, 1]]
    assert not view.typing
    assert any("Esc all rows (now: GPT-5)" in line for line in shown(top, view))
    assert after("escape", view=view).only == ""
    assert after("backspace", view=after("/", *"ab")).only == "a"
    assert after("/", *"x" * 100).only == "x" * 60
    assert after("/", "up").only == ""


def test_pause_is_said():
    assert "PAUSED" in shown(a_top(), after(" "))[0]
    assert "PAUSED" not in shown(a_top(), after(" ", "p"))[0]


def test_help_has_every_key_and_any_key_ends_it():
    lines = shown(a_top(), after("?"))
    assert all(any(key in line for line in lines) for key, _ in HELP)
    assert all(cell_len(what) + 15 <= 80 for _, what in HELP)
    assert after("?", "x") == View()


@given(st.lists(st.sampled_from(["up", "down", "tab", "s", "r", "z", "/", "a", "enter", "escape", " ", "?", "end"])))
def test_whatever_is_pressed_there_is_a_frame(keys):
    top, view = a_top(), View()
    for key in keys:
        after_key = pressed(view, key, len(rows_of(top, view, LISTS[view.focus])))
        assert after_key is not None
        view = after_key
        assert len(frame(top, view, 80, 24)) == 24


@pytest.mark.parametrize(
    ("per_s", "text"), [(0, "0"), (0.25, "0.25"), (7.31, "7.3"), (99.9, "99.9"), (120, "120"), (12_345, "12.3k")]
)
def test_rates_have_three_digits(per_s, text):
    assert rate(per_s) == text


@pytest.mark.parametrize(("share", "text"), [(0, "0%"), (0.001, "<1%"), (0.42, "42%"), (1, "100%"), (1.7, "100%")])
def test_shares_are_percents(share, text):
    assert percent(share) == text
