"""One screen of `quotapool top`: lines of text for a terminal of any size. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.cells import cell_len
from rich.text import Text

from quotapool.cli import tables
from quotapool.cli.columns import GAP, Column, cell, cut, printable, widths
from quotapool.cli.now import concerned, dry_in, number
from quotapool.cli.top_view import HELP, LISTS, ORDERS, ListName, View
from quotapool.domain.counted import counted
from quotapool.domain.states import State
from quotapool.operators.keys import COOLING
from quotapool.reports.forecasts import NOTHING_LEFT
from quotapool.reports.timeline import span
from quotapool.shapes.now import RoomRow
from quotapool.shapes.top import ClientUse, KeyUse, Top, Trouble

_BAR: Final = 10
_FULL, _EMPTY = "█", "░"
_FEW_CONCERNS: Final = 4
_RED, _YELLOW, _DIM, _BOLD, _HEADING = "bold red", "yellow", "dim", "bold", "reverse"
_LOW, _VERY_LOW = 0.25, NOTHING_LEFT
_SEVERITIES: Final = {"critical": _RED, "warning": _YELLOW}


@dataclass(frozen=True, slots=True)
class _List:
    """A list: how it is called, its columns, and a row's cells and colour."""

    title: str
    columns: tuple[Column, ...]
    cells: Callable[[Any, float], tuple[str, ...]]
    style: Callable[[Any], str]


def frame(top: Top, view: View, width: int, height: int) -> list[Text]:
    """Exactly `height` lines, none wider than `width` cells."""
    width, height = max(width, 1), max(height, 1)
    if view.shows_help:
        lines = [_title(top, view, width), Text(), *_help(width)]
        return _fill(lines, height, Text(cut("any key goes back", width), _DIM))
    head = _head(top, view, width, height)
    footer = _footer(view, width)
    free = height - len(head) - 1
    lines = list(head)
    for name, share in _shares(top, view, free).items():
        lines += _list(top, view, name, width, share)
    return _fill(lines, height, footer)


def rows_of(top: Top, view: View, name: ListName) -> list[Any]:
    """The rows of a list that have the view's text in them, in the view's order."""
    everything: dict[ListName, Sequence[Any]] = {
        "room": top.now.room,
        "keys": top.keys,
        "clients": top.clients,
        "errors": top.troubles,
    }
    only, at = view.only.lower(), top.now.at
    cells = _LISTS[name].cells
    rows = [row for row in everything[name] if not only or only in " ".join(cells(row, at)).lower()]
    rows.sort(key=ORDERS[name][view.order_of(name)])
    return rows[::-1] if view.is_reversed[LISTS.index(name)] else rows


def _fill(lines: list[Text], height: int, footer: Text) -> list[Text]:
    """The last line is the footer, if there is place for it."""
    if height < 2:
        return lines[:height]
    lines = lines[: height - 1]
    return [*lines, *(Text() for _ in range(height - 1 - len(lines))), footer]


# ---- above the lists


def _head(top: Top, view: View, width: int, height: int) -> list[Text]:
    now = top.now
    lines = [_title(top, view, width), Text(cut(printable(now.sentence), width), _BOLD), _rates(top, width)]
    concerns = min(_FEW_CONCERNS, max(0, height - 20) // 4 + 1) if height >= 16 else 0
    for row in now.attention[:concerns]:
        text = f"{row.severity}: {concerned(row, 1)}: {row.next}"
        lines.append(Text(cut(printable(text), width), _SEVERITIES.get(row.severity, "")))
    return lines[: max(1, height - 2)]


def _title(top: Top, view: View, width: int) -> Text:
    now = top.now
    limit = "" if now.daily_limit_usd is None else f" of ${now.daily_limit_usd:,.2f}"
    left = f"quotapool top  {now.pool}  {now.usable_keys:,} of {counted(sum(now.keys.values()), 'key')}"
    right = f"${now.spent_today_usd:,.2f}{limit} today  {datetime.fromtimestamp(now.at).astimezone():%H:%M:%S}"
    if view.is_paused:
        right = f"PAUSED  {right}"
    room = width - cell_len(right) - GAP
    if room < cell_len("quotapool top"):
        return Text(cell(left, width), _HEADING)
    return Text(cell(left, room) + " " * GAP + right, _HEADING)


def _rates(top: Top, width: int) -> Text:
    """As many of these as there is place for, the most important first."""
    traffic, now = top.traffic, top.now
    waiting = sum(row.waiting for row in now.waiting)
    longest = max((row.longest_s for row in now.waiting), default=0.0)
    parts = [
        (f"{rate(traffic.requests_per_s)} requests/s", ""),
        (f"{rate(traffic.refused_per_s)} 429/s", _YELLOW if traffic.refused_per_s else ""),
        (f"{rate(traffic.failed_per_s)} failed/s", _RED if traffic.failed_per_s else ""),
        (f"{waiting:,} wait{f' ({_longest(longest)})' if waiting else ''}", _YELLOW if waiting else ""),
        (f"p50 {_ms(traffic.total_p50_ms)} p99 {_ms(traffic.total_p99_ms)}", ""),
        (f"wait p99 {_ms(traffic.wait_p99_ms)}", ""),
    ]
    line = Text()
    for text, style in parts:
        gap = " " * GAP if line.cell_len else ""
        if line.cell_len + len(gap) + cell_len(text) > width:
            break
        line.append(gap)
        line.append(text, style)
    return line


def _footer(view: View, width: int) -> Text:
    if view.typing:
        return Text(cut(f"only rows with: {view.only}▏  Enter keeps it, Esc ends it", width), _BOLD)
    order = view.order_of(LISTS[view.focus])
    only = f"Esc all rows (now: {view.only})" if view.only else "/ filter"
    parts = ["q quit", "? help", "Tab list", "↑↓ scroll", f"s sort ({order})", "Space pause", "Enter whole screen"]
    parts.insert(2 if view.only else 5, only)
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line else part
        if cell_len(longer) > width:
            break
        line = longer
    return Text(line, _DIM)


def _help(width: int) -> list[Text]:
    keys = max(cell_len(key) for key, _ in HELP)
    return [Text(cut(f"{cell(key, keys)}  {what}", width)) for key, what in HELP]


# ---- the lists


def _shares(top: Top, view: View, free: int) -> dict[ListName, int]:
    """How many lines each list has: its heading and its rows. The one in focus has what it needs before the others,
    but leaves them a heading and a row."""
    focus = LISTS[view.focus]
    if view.is_whole:
        return {focus: free}
    needs = {name: 1 + len(rows_of(top, view, name)) for name in LISTS}
    shown = [focus, *(name for name in LISTS if name != focus)][: max(1, free // 2)]
    shares = {name: min(2, needs[name], free) for name in LISTS if name in shown}
    left = free - sum(shares.values())
    of_focus = max(0, min(needs[focus] - shares[focus], left // 2))
    shares[focus] += of_focus
    left -= of_focus
    while left > 0 and (short := [name for name in shares if shares[name] < needs[name]]):
        shares[min(short, key=lambda name: (shares[name], LISTS.index(name)))] += 1
        left -= 1
    return shares


def _list(top: Top, view: View, name: ListName, width: int, lines: int) -> list[Text]:
    """`lines` or fewer, the heading first."""
    rows, made = rows_of(top, view, name), _LISTS[name]
    at = top.now.at
    here, space = max(0, min(view.first[LISTS.index(name)], len(rows) - 1)), max(0, lines - 1)
    here = max(0, min(here, len(rows) - space))
    seen = rows[here : here + space]
    cells = [tuple(map(printable, made.cells(row, at))) for row in seen]
    titles = [Column(made.title, 0, 0), *made.columns[1:]]
    contents = [max(map(cell_len, column)) for column in zip(*cells, strict=True)] or [0] * len(titles)
    contents[0] = max(contents[0], cell_len(made.title))
    wide = widths(made.columns, contents, width)
    heading = _line([column.title for column in titles], titles, wide) if rows else made.title
    where = f"{here + 1}-{here + len(seen)} of {len(rows):,}" if seen else f"{len(rows):,}" if rows else "none"
    order = view.order_of(name) + (", reversed" if view.is_reversed[LISTS.index(name)] else "")
    for note in (f"{order}, {where}" if rows else where, where):
        if cell_len(heading) + GAP + cell_len(note) <= width:
            heading = cell(heading, width - cell_len(note)) + note
            break
    style = "bold underline" if LISTS[view.focus] == name else "underline"
    out = [Text(cell(heading, width), style)]
    for row, texts in zip(seen, cells, strict=True):
        out.append(Text(cut(_line(texts, made.columns, wide), width), made.style(row)))
    return out[:lines]


def _line(texts: Sequence[str], columns: Sequence[Column], wide: Sequence[int]) -> str:
    shown = [
        cell(text, width, right=column.right) for text, column, width in zip(texts, columns, wide, strict=True) if width
    ]
    return (" " * GAP).join(shown).rstrip()


def _room_cells(row: RoomRow, _: float) -> tuple[str, ...]:
    share = row.remaining / row.limit if row.limit else 0.0
    waits = f"{row.cooling:,} of {row.accounts:,}" if row.cooling else ""
    return (
        row.model,
        row.dimension,
        number(row.remaining),
        number(row.limit),
        percent(share),
        _bar(share),
        number(row.used_per_minute),
        dry_in(row.dry),
        waits,
    )


def _room_style(row: RoomRow) -> str:
    share = row.remaining / row.limit if row.limit else 0.0
    if share <= _VERY_LOW or (row.dry is not None and not row.dry.minutes):
        return _RED
    return _YELLOW if share < _LOW else ""


def _key_cells(row: KeyUse, at: float) -> tuple[str, ...]:
    if row.state == COOLING:
        why = f"for {tables.span(max(1.0, row.cooling_s))}"
    else:
        since = f"for {tables.span(at - row.since)}" if row.since else ""
        again = f"next try in {tables.span(row.next_try - at)}" if row.next_try and row.next_try > at else ""
        why = ", ".join(filter(None, (row.reason, since, again)))
    left = "" if row.left is None else f"{percent(row.left)} {row.emptiest}"
    failed = number(row.failed_per_minute) if row.failed_per_minute else ""
    account = row.account if row.account != row.id else ""
    return row.id, account, row.state, number(row.attempts_per_minute), failed, left, why


def _key_style(row: KeyUse) -> str:
    if row.state in {State.DISABLED.value, State.DRAINING.value}:
        return _DIM
    if row.state not in {State.ACTIVE.value, COOLING}:
        return _RED
    return _YELLOW if row.state == COOLING or row.failed_per_minute else ""


def _client_cells(row: ClientUse, _: float) -> tuple[str, ...]:
    return (
        row.client or "-",
        number(row.requests_per_minute),
        number(row.refused_per_minute) if row.refused_per_minute else "",
        number(row.failed_per_minute) if row.failed_per_minute else "",
        f"{row.waiting:,}" if row.waiting else "",
        number(row.tokens_per_minute),
        f"${row.usd_per_hour:,.2f}",
    )


def _client_style(row: ClientUse) -> str:
    return _YELLOW if row.refused_per_minute or row.failed_per_minute or row.waiting else ""


def _trouble_cells(row: Trouble, _: float) -> tuple[str, ...]:
    at = f"{datetime.fromtimestamp(row.at).astimezone():%H:%M:%S}"
    return at, row.client or "-", row.model, f"{row.status or '-'} {row.why}".strip(), row.tried, row.id


def _trouble_style(row: Trouble) -> str:
    return _YELLOW if row.status == 429 else _RED


_LISTS: Final[dict[ListName, _List]] = {
    "room": _List(
        "ROOM",
        (
            Column("model", 22, 30),
            Column("", 3, 3),
            Column("left", 5, 8, right=True),
            Column("of", 5, 8, right=True, rank=6),
            Column("%", 4, 4, right=True),
            Column("", _BAR, _BAR, rank=2),
            Column("used/min", 8, 8, right=True),
            Column("dry in", 6, 26),
            Column("cooling", 7, 14, rank=3),
        ),
        _room_cells,
        _room_style,
    ),
    "keys": _List(
        "KEYS",
        (
            Column("key", 10, 28),
            Column("account", 8, 20, rank=3),
            Column("state", 6, 11),
            Column("calls/min", 9, 9, right=True, rank=6),
            Column("failed", 6, 6, right=True, rank=7),
            Column("least left", 15, 26, rank=5),
            Column("why", 20, 60, rank=8),
        ),
        _key_cells,
        _key_style,
    ),
    "clients": _List(
        "CLIENTS",
        (
            Column("client", 16, 34),
            Column("req/min", 7, 7, right=True),
            Column("429/min", 7, 7, right=True),
            Column("failed", 6, 6, right=True, rank=5),
            Column("waiting", 7, 7, right=True, rank=6),
            Column("tokens/min", 10, 10, right=True, rank=4),
            Column("$/hour", 7, 12, right=True, rank=3),
        ),
        _client_cells,
        _client_style,
    ),
    "errors": _List(
        "ERRORS",
        (
            Column("time", 8, 8),
            Column("client", 8, 24, rank=6),
            Column("model", 8, 24, rank=5),
            Column("status", 10, 34),
            Column("keys tried", 8, 40, rank=3),
            Column("id", 16, 24, rank=4),
        ),
        _trouble_cells,
        _trouble_style,
    ),
}


# ---- words


def rate(per_s: float) -> str:
    """`0`, `0.25`, `7.3`, `120`, `12.3k`: three digits."""
    if not per_s:
        return "0"
    return f"{per_s:.2f}" if per_s < 1 else f"{per_s:.1f}" if per_s < 100 else number(per_s)


def percent(share: float) -> str:
    """`0%`, `<1%`, `42%`."""
    return "<1%" if 0 < share < 0.005 else f"{100 * min(share, 1.0):.0f}%"


def _bar(share: float) -> str:
    full = round(_BAR * max(0.0, min(share, 1.0)))
    return _FULL * full + _EMPTY * (_BAR - full)


def _longest(seconds: float) -> str:
    return f"up to {tables.span(seconds)}" if seconds >= 1 else "under 1 s"


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else span(1000 * milliseconds)
