"""Events as lines, and as cells that no spreadsheet calculates."""

from __future__ import annotations

import pytest
from quotapool.cli.events import line, safe_cell, start_of
from quotapool.observe.events import StoredEvent
from rich.cells import cell_len

DAY = 1_793_491_200.0  # 2026-11-01 00:00 UTC


@pytest.mark.parametrize(
    ("since", "start"),
    [
        ("90m", DAY - 5400),
        ("7d", DAY - 604_800),
        ("2026-11-01", DAY),
        ("2026-11-01T15:00", DAY + 54_000),
        ("2026-11-01T15:00+02:00", DAY + 46_800),
        ("100000d", 0.0),
        ("yesterday", None),
        ("-5m", None),
    ],
)
def test_since_is_a_span_or_a_moment(since, start):
    assert start_of(since, DAY) == start


def test_a_change_says_who_where_from_what_and_how():
    data = {"kind": "operator", "field": "k/alpha", "actor": "jane@example.com", "address": "192.0.2.7"}
    data |= {"action": "disable_key", "reason": "done", "changes": '{"state":["active","disabled"],"tier":["a",null]}'}
    shown = line(StoredEvent("1-0", str(DAY), data))
    said = "jane@example.com from 192.0.2.7: disable_key k/alpha (state: active → disabled, tier: a → -)"
    assert shown == f"2026-11-01T00:00:00Z  operator  {said}"
    refused = line(StoredEvent("1-0", str(DAY), {**data, "reason": "role_not_enough", "changes": "{}"}))
    assert refused.endswith("disable_key refused (role_not_enough) k/alpha")


def test_what_upstream_said_cannot_control_the_terminal():
    data = {"kind": "state", "field": "k/alpha", "from": "active", "to": "removed", "reason": "x", "by": "observed"}
    shown = line(StoredEvent("1-0", "nonsense", {**data, "message": "\x1b[2Jno\nmore"}))
    assert shown == "nonsense  state     k/alpha: active → removed, x by observed: [2Jnomore"


def test_a_change_of_state_names_the_operator_who_made_it():
    data = {"kind": "state", "field": "k/alpha", "from": "active", "to": "disabled", "reason": "operator"}
    event = StoredEvent("1-0", str(DAY), {**data, "by": "operator", "actor": "jane@example.com"})
    assert line(event).endswith("k/alpha: active → disabled, operator by jane@example.com")


@pytest.mark.parametrize(
    ("width", "time", "rest"),
    [
        (0, "2026-11-01T00:00:00Z", "observed: 余额不足" + 60 * "!"),
        (200, "2026-11-01T00:00:00Z", "observed: 余额不足" + 60 * "!"),
        (120, "2026-11-01T00:00:00Z", "observed: 余额不足" + 23 * "!" + "…"),  # 96 cells without any
        (80, "11-01 00:00:00Z", "observ…"),
    ],
)
def test_at_a_terminal_an_event_is_one_line_and_in_a_pipe_whole(width, time, rest):
    data = {"kind": "state", "field": "k/alpha", "from": "active", "to": "removed"}
    data |= {"reason": "invalid_api_key", "by": "observed", "message": "余额不足" + "!" * 60}
    found = line(StoredEvent("1-0", str(DAY), data), width)
    assert found == f"{time}  state     k/alpha: active → removed, invalid_api_key by {rest}"
    assert not width or cell_len(found) <= width


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_no_cell_is_a_formula(text):
    assert safe_cell(text) == f"'{text}"
    assert safe_cell("k/alpha") == "k/alpha"
