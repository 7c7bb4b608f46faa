"""What a report of usage is asked for: by what, from when until when, in what steps. Pure.

Days are UTC days, as OpenAI bills them; times of day are those of the pool's zone, unless they name an offset.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final, Literal
from zoneinfo import ZoneInfo

from quotapool.money.rollups import DAY, HOUR, MINUTE, NotKeptError, Slot, ceiling, cover, floor

Name = Literal["account", "key", "model", "client"]

BY: Final = ("account", "key", "model", "client", "day", "pool")
EVERY: Final = {
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
}
_PAIRS: Final[tuple[tuple[Name, Name], ...]] = (("client", "model"), ("account", "model"), ("key", "model"))
_DAYS: Final = re.compile(r"(\d{1,4})d")
_SPAN: Final = re.compile(r"([1-9]\d{0,5})([mh])")
_TIME: Final = re.compile(r"\d{1,2}:\d{2}")
_TIMES: Final = "must be a day (2026-11-01), a time (15:00, or 2026-11-01T15:00), a span (90m, 24h, 7d), or month"
MOST_TOP: Final = 100
_LONGEST: Final = 60  # of a given value that an error repeats


class BadQuestionError(ValueError):
    """A question that has no answer. `option`: of the command, such as `since`; the text is one line for people."""

    def __init__(self, option: str, why: str) -> None:
        super().__init__(why)
        self.option = option


@dataclass(frozen=True, slots=True)
class Question:
    """`names`: by what rows are told apart, beside time; none: the whole pool. `since` to `until`, exclusive: in UTC,
    multiples of `every`, else full minutes. `per_day`: rows are named by their day. `slots`: what makes up the span.
    `only`: rows whose first name is this one. `top`: so many names at most, the others are one row."""

    names: tuple[Name, ...]
    since: datetime
    until: datetime
    every: timedelta | None
    per_day: bool
    zone: tzinfo
    slots: tuple[Slot, ...]
    only: str | None = None
    top: int | None = None

    @property
    def by(self) -> str:
        """As it is asked for: `client,model`, `day`, `pool`."""
        return ",".join([*self.names, *(["day"] if self.per_day else [])]) or "pool"

    @property
    def every_word(self) -> str | None:
        return next((word for word, step in EVERY.items() if step == self.every), None)

    @property
    def in_days(self) -> bool:
        """The span consists of whole UTC days."""
        return all(resolution is DAY for resolution, _ in self.slots)

    def row_start(self, slot_start: datetime) -> datetime | None:
        """The beginning of the row that a slot belongs to; None if there is one row for all of the time."""
        return floor(slot_start, self.every) if self.every is not None else None


def question(
    by: str,
    since: str,
    until: str | None,
    every: str | None,
    *,
    zone: str,
    now: datetime,
    only: str | None = None,
    top: int | None = None,
) -> Question:
    """`now` in UTC; `zone`: the pool's. Raises BadQuestionError."""
    names, per_day = _names(by)
    for option, given in (("only", only), ("top", top)):
        if given is not None and not names:
            raise BadQuestionError(option, f"there are no names by {by}: say whose, such as by account")
    if top is not None and not 1 <= top <= MOST_TOP:
        raise BadQuestionError("top", f"must be between 1 and {MOST_TOP}")
    local: tzinfo = UTC if zone == "UTC" else ZoneInfo(zone)
    if every is not None and every not in EVERY:
        raise BadQuestionError("every", f"{_short(every)} must be one of {', '.join(EVERY)}")
    if per_day and every not in {None, "1d"}:
        raise BadQuestionError("every", f"{every} contradicts a row for each day")
    step = EVERY["1d"] if per_day else EVERY[every] if every is not None else None
    begin, is_day = moment("since", since, local, now)
    if begin > now:
        raise BadQuestionError("since", f"{_short(since)} is in the future (now is {_told(now, local)})")
    tomorrow = floor(now, DAY.size) + DAY.size
    earliest = tomorrow - DAY.size - DAY.kept
    begin = max(begin, earliest)
    if until is not None:
        end, ends_with_day = moment("until", until, local, now)
        if end < earliest:
            raise BadQuestionError(
                "until", f"{_short(until)} is older than the {DAY.kept.days} days that usage is kept"
            )
        end = min(end, tomorrow)
        end = min(end + DAY.size, tomorrow) if ends_with_day else end
    else:
        end = tomorrow if is_day else ceiling(now, MINUTE.size)
    if end <= begin:
        raise BadQuestionError("until", f"{_told(end, local)} is not after {_told(begin, local)}")
    size = step or MINUTE.size
    begin, end = floor(begin, size), ceiling(end, size)
    try:
        slots = cover(begin, end, step or DAY.size, now)
    except NotKeptError as refused:
        raise _not_kept(refused, step, local) from None
    return Question(names, begin, end, step, per_day, local, tuple(slots), only, top)


def since_day(text: str, today: date) -> date | None:
    """The first day of `2026-11-01`, `7d` (today and the six before) or `month`; None if it is none of these."""
    if text == "month":
        return today.replace(day=1)
    if days := _DAYS.fullmatch(text):
        return today - timedelta(days=max(1, int(days[1])) - 1)
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _names(by: str) -> tuple[tuple[Name, ...], bool]:
    given = [word.strip() for word in by.split(",")]
    if unknown := [word for word in given if word not in BY]:
        raise BadQuestionError(
            "by", f"{_short(unknown[0])} must be one of {', '.join(BY)}, or a pair such as client,model"
        )
    names: tuple[Name, ...] = tuple(word for word in given if word not in {"day", "pool"})  # type: ignore[misc]  # of BY
    is_kept = len(names) < 2 or set(names) in [set(pair) for pair in _PAIRS]
    if len(given) > 2 or len(set(given)) < len(given) or not is_kept:
        pairs = "; ".join(",".join(pair) for pair in _PAIRS)
        raise BadQuestionError("by", f"{_short(by)} is not kept; pairs are {pairs}; or one of these and day")
    return names, "day" in given


def moment(option: str, text: str, zone: tzinfo, now: datetime) -> tuple[datetime, bool]:
    """What a time of `option` means, in UTC, and whether it is a whole UTC day, which begins there. Raises
    BadQuestionError."""
    if day := since_day(text, now.date()):
        return datetime.combine(day, time(), UTC), True
    if span := _SPAN.fullmatch(text):
        number = int(span[1])
        back = timedelta(minutes=min(number, 10**6)) if span[2] == "m" else timedelta(hours=min(number, 10**4))
        # Minutes are kept for a while only, so a longer span begins with its hour.
        return floor(now - back, MINUTE.size if back < MINUTE.kept else HOUR.size), False
    try:
        if _TIME.fullmatch(text):
            clock = time.fromisoformat(text.zfill(5))
            return _utc(option, datetime.combine(now.astimezone(zone).date(), clock), zone), False
        found = datetime.fromisoformat(text)
        return (found.astimezone(UTC) if found.tzinfo else _utc(option, found, zone)), False
    except BadQuestionError:
        raise
    except (ValueError, OverflowError):
        raise BadQuestionError(option, f"{_short(text)} {_TIMES}") from None


def _utc(option: str, local: datetime, zone: tzinfo) -> datetime:
    """Of a time on the zone's clocks; of two, when they are set back, the first."""
    moment = local.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) != local:
        raise BadQuestionError(option, f"{local:%Y-%m-%d %H:%M} does not exist in {zone}: the clocks were set forward")
    return moment


def _not_kept(refused: NotKeptError, step: timedelta | None, zone: tzinfo) -> BadQuestionError:
    """Which option asks for what is no longer there, and what could be asked instead."""
    place = _told(refused.at, zone)
    if refused.kept is HOUR:
        why = f"minutes are kept for 48 hours, and {place} is older"
        if step is not None:
            return BadQuestionError("every", f"{why}: use 1h or 1d")
        return BadQuestionError("since", f"{why}: begin and end with full hours of UTC, or ask for every 1h")
    why = f"hours are kept for 90 days, and {place} is older"
    if step is not None:
        return BadQuestionError("every", f"{why}: use 1d")
    return BadQuestionError("since", f"{why}: begin and end with days of UTC, such as 2026-11-01")


def _told(moment: datetime, zone: tzinfo) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M} in {zone}"


def _short(text: str) -> str:
    return repr(text[:_LONGEST]) if text else "''"


def iso(moment: datetime, zone: tzinfo) -> str:
    """With the zone's offset: `2026-11-22T15:00:00+01:00`."""
    return moment.astimezone(zone).isoformat(timespec="seconds")


def shown_zone(question: Question) -> tzinfo:
    """Rows of days are those of UTC, whatever the pool's zone."""
    return UTC if question.in_days or question.every == DAY.size else question.zone
