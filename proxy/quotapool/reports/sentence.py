"""The state of the pool in one sentence: which facts are worth saying, and how they are said in English. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from quotapool.domain.quantities import PERIOD_S, Dimension
from quotapool.shapes.now import CreditRow, Fact, RoomRow, WaitingRow

_SOON_MIN: Final = {False: 60.0, True: 1440.0}  # of a minute's budget, of a day's: later ones are no news
_MOST_EMPTY: Final = 3  # models that are named as empty


def is_empty(row: RoomRow) -> bool:
    return row.dry is not None and not row.dry.minutes


def is_daily(row: RoomRow) -> bool:
    return PERIOD_S[Dimension(row.dimension)] > 60


def runs_dry_soon(row: RoomRow) -> bool:
    """Whether its forecast is worth a word: soon, and not only by chance."""
    return row.dry is not None and row.dry.latest is not None and row.dry.minutes <= _SOON_MIN[is_daily(row)]


def facts_of(
    *,
    usable: int,
    keys: int,
    room: Sequence[RoomRow],
    waiting: Sequence[WaitingRow],
    credit: Sequence[CreditRow],
    store_away: bool,
) -> list[Fact]:
    """In the order in which they are said. `credit`: the first to run out first."""
    facts = [Fact("store_away")] if store_away else []
    facts.append(Fact("serving", number=usable, of=keys) if usable else Fact("not_serving", of=keys))
    empty = [row for row in room if is_empty(row)]
    facts += [Fact("dry_now", row.model, row.dimension) for row in empty[:_MOST_EMPTY]]
    soon = [row for row in room if runs_dry_soon(row) and not is_empty(row)]
    first = min(soon, key=lambda row: (_minutes(row), row.model, row.dimension), default=None)
    if first is not None:
        facts.append(Fact("dry", first.model, first.dimension, _minutes(first)))
    elif room and not empty:
        facts.append(Fact("not_dry"))
    if queued := sum(row.waiting for row in waiting):
        facts.append(Fact("queue", number=queued))
    ends = next((row for row in credit if row.empty_at is not None), None)
    if ends is not None and ends.empty_at is not None:
        facts.append(Fact("credit", ends.account, at=ends.empty_at))
    return facts


def _minutes(row: RoomRow) -> float:
    return 0.0 if row.dry is None else row.dry.minutes


def sentence(facts: Sequence[Fact], at: float) -> str:
    """`at`: now, Unix seconds."""
    return " ".join(_WORDS[fact.code](fact, at) for fact in facts)


def about(minutes: float) -> str:
    """`6 min`, `3 h`, `2 d`."""
    if minutes < 1:
        return "1 min"
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 36 * 60 else f"{minutes / 1440:.0f} d"


def _day(text: str, at: float) -> str:
    day, today = datetime.fromisoformat(text), datetime.fromtimestamp(at, UTC)
    return f"{day.day} {day:%b}" if day.year == today.year else f"{day.day} {day:%b %Y}"


def _serving(fact: Fact, _: float) -> str:
    return f"Serving: {fact.number:,.0f} of {fact.of:,.0f} key{'s' * (fact.of != 1)}."


def _queue(fact: Fact, _: float) -> str:
    one = fact.number == 1
    return f"{fact.number:,.0f} request{'s' * (not one)} wait{'s' * one} in the queue."


_WORDS: Final[dict[str, Callable[[Fact, float], str]]] = {
    "store_away": lambda _, __: "The store is away, what follows is as it was last known.",
    "serving": _serving,
    "not_serving": lambda fact, _: f"Not serving: none of {fact.of:,.0f} keys is usable.",
    "dry_now": lambda fact, _: f"{fact.name} has no room left ({fact.dimension}).",
    "dry": lambda fact, _: f"{fact.name} runs dry in about {about(fact.number)} ({fact.dimension}).",
    "not_dry": lambda _, __: "No model runs dry at this pace.",
    "queue": _queue,
    "credit": lambda fact, at: f"{fact.name}'s credit lasts until {_day(fact.at, at)}.",
}
