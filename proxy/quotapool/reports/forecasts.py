"""The pace of the last minutes and when budgets run dry, from the samples of the pool's room. Pure.

A minute's budget is forecast from the last five minutes in blocks of half a minute, a day's from the last hour in
blocks of five. Where samples are rarer, in very large pools, blocks are longer. The arithmetic: `domain/forecast.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from quotapool.domain.forecast import dry, pace_of
from quotapool.domain.quantities import PERIOD_S, Dimension
from quotapool.observe.samples import History, Room, Track
from quotapool.shapes.now import DryTime, RoomRow, WaitingRow

_PACE_S: Final = 300.0
NOTHING_LEFT: Final = 0.02  # of the limit: less is no room for anything
_FELT_S: Final = 1.0  # a shorter wait is the normal pace of a budget that is nearly used
_WHOLE_MINUTE: Final = 59.0  # seconds: samples are not taken to the millisecond


def room_row(room: Room, history: History) -> RoomRow:
    """A reading's room with its pace and forecast."""
    track = history.tracks.get(room.name)
    spans = [] if track is None else list(_spans(history, track, room.dimension, _PACE_S))
    minutes = sum(span for span, _, _ in spans)
    used = sum(amount for _, amount, _ in spans) / minutes if minutes else 0.0
    return RoomRow(
        room.model,
        room.dimension,
        room.limit,
        room.remaining,
        max(0.0, used),
        room.refill_per_minute,
        room.accounts,
        room.cooling,
        _dry(room, history, track),
    )


def as_it_is_felt(rows: Iterable[RoomRow], waiting: Iterable[WaitingRow]) -> list[RoomRow]:
    """A budget for which requests wait is dry for them, whatever is left: each needs more than any account has. Its
    level then stays where it is, and no forecast would say so."""
    short = {(row.model, row.dimension) for row in waiting if not row.rule and row.longest_s >= _FELT_S}
    dry_now = DryTime(0.0, 0.0, 0.0)
    return [msgspec.structs.replace(row, dry=dry_now) if (row.model, row.dimension) in short else row for row in rows]


def _dry(room: Room, history: History, track: Track | None) -> DryTime | None:
    if room.limit > 0 and room.remaining <= NOTHING_LEFT * room.limit:
        return DryTime(0.0, 0.0, 0.0)
    if track is None:
        return None
    per_day = PERIOD_S[Dimension(room.dimension)] > 60
    spans = _spans(history, track, room.dimension, 3600.0 if per_day else _PACE_S)
    pace = pace_of(((minutes, used - back) for minutes, used, back in spans), 5.0 if per_day else 0.5)
    found = dry(room.remaining, pace)
    return None if found is None else DryTime(found.after, found.earliest, found.latest)


def _spans(history: History, track: Track, dimension: str, seconds: float) -> Iterator[tuple[float, float, float]]:
    """Of the last `seconds`: minutes, what was used in them, and what came back. Without what is not known."""
    if not history.at:
        return
    since = history.at[-1] - seconds - 0.5
    per_minute = 60 / PERIOD_S[Dimension(dimension)]
    for at, span_s, used, limit in zip(history.at, history.spans_s, track.used, track.limit, strict=True):
        if at - span_s >= since and span_s > 0 and not math.isnan(used):
            yield span_s / 60, used, per_minute * limit * span_s / 60


def used_in_minute(spans_s: list[float], used: list[float]) -> list[float | None]:
    """What was used in the minute before each sample. If samples are rarer than that, in the time since the one before,
    as per minute. None: a part of it is not known."""
    found: list[float | None] = []
    first, covered, amount, unknown = 0, 0.0, 0.0, 0
    for n, (span_s, one) in enumerate(zip(spans_s, used, strict=True)):
        covered += span_s
        is_unknown = math.isnan(one) or not span_s
        unknown += is_unknown
        amount += 0.0 if is_unknown else one
        while first < n and covered - spans_s[first] >= _WHOLE_MINUTE:
            gone = math.isnan(used[first]) or not spans_s[first]
            covered -= spans_s[first]
            unknown -= gone
            amount -= 0.0 if gone else used[first]
            first += 1
        known = not unknown and covered >= _WHOLE_MINUTE
        found.append(max(0.0, amount * 60 / covered) if known else None)
    return found
