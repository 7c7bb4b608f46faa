"""What a source makes: demand in order of time, how good the record is, and what is said of it to people. Pure."""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from quotapool.domain.wallet import PICO
from quotapool.observe.redaction import Redactor
from quotapool.plan.demand import Demand
from quotapool.plan.queues import NO_ROOM_CODES

MOST: Final = 500_000
"""Requests that are kept, the last ones: some 300 bytes each, and a minute or two to replay."""
_MOST_NAMES: Final = 10_000  # of clients and models; a file's are anybody's
_LONGEST_NAME: Final = 128
_OTHER: Final = "other"
_FEW: Final = 500
MOST_COUNT: Final = 10**12
"""Of one request: tokens, or images. What is more is no count."""
MOST_USD: Final = 1e6
"""Of one request."""
_LAST: Final = 1e11  # Unix seconds of the year 5138: a larger number has milliseconds
_LONGEST_S: Final = 31 * 86_400.0  # of one call, and of a wait
_FIRST: Final = datetime(2020, 1, 1, tzinfo=UTC).timestamp()  # OpenAI has had an API since June 2020
_NO_TIME: Final = "from before there was an API, or from the future: the clock that they were written by was wrong"
_NO_NUMBER: Final = "with numbers that no request has"


REFUSED: Final = -1.0
"""Instead of a wait: the request was refused for want of room."""
FAILED: Final = -2.0
"""Instead of a wait: it was refused, or failed, for another reason."""


class SourceError(Exception):
    """A source that cannot be read, in one line for people, without anything of its contents."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the pool knows about names in a record. `group_of`: a model's group; `patience_of`: seconds that a client
    waits if its request does not say less; `client_by_hash`: by the SHA-256 of its key.

    `price`: picodollars of (model, prompt, cached part of it, completion) tokens; None: no price is known.
    """

    group_of: Callable[[str], str]
    patience_of: Callable[[str], float]
    client_by_hash: Mapping[str, str]
    price: Callable[[str, int, int, int], int | None]


@dataclass(slots=True)
class Happened:
    """What the record says came of it, to compare a replay with. `fared`: in the order of the demand, the seconds that
    each request waited, REFUSED or FAILED; None: it does not say how long they waited. `refused`: requests by error
    code. `pico`: picodollars, as far as prices are known."""

    fared: array[float] | None
    refused: Counter[str] = field(default_factory=Counter)
    pico: int = 0

    @property
    def waits_s(self) -> list[float] | None:
        """Of those that were served."""
        return None if self.fared is None else [wait_s for wait_s in self.fared if wait_s >= 0]


@dataclass(frozen=True, slots=True)
class Record:
    """`about`: one sentence; `assumed`: what the record does not say and was taken for granted; `left_out`: how many
    entries, by reason."""

    demand: list[Demand]
    about: str
    assumed: tuple[str, ...]
    left_out: Mapping[str, int]
    happened: Happened

    @property
    def since(self) -> float:
        """Unix seconds of the first arrival."""
        return self.demand[0].at if self.demand else 0.0

    @property
    def until(self) -> float:
        return self.demand[-1].at if self.demand else 0.0


class Collector:
    """Takes a source's requests in any order. Only those from `since` until `until` (Unix seconds; the latter
    exclusive), and of these the last `most`. Memory is bounded by that, and by so many names. `now`: when they were
    read; what a day later is dated cannot have happened."""

    def __init__(
        self,
        *,
        since: float = 0.0,
        until: float = math.inf,
        most: int = MOST,
        waits_known: bool = True,
        now: float = _LAST,
    ) -> None:
        self.since = since
        self.until = until
        self._latest = min(now, _LAST) + 86_400.0
        self._kept: deque[tuple[Demand, float, str]] = deque(maxlen=most)  # with its wait, and why it was refused
        self._names: dict[str, str] = {}
        self._clean = Redactor().clean
        self._waits_known = waits_known
        self._assumed: dict[str, None] = {}
        self.left_out: Counter[str] = Counter()
        self.taken = 0

    def name(self, text: str) -> str:
        """The same object for the same name, as it may be shown: without control characters, or what looks like a
        secret."""
        text = text[:_LONGEST_NAME]
        known = self._names.get(text)
        if known is None:
            if len(self._names) >= _MOST_NAMES:
                return _OTHER
            shown = "".join(filter(str.isprintable, self._clean(text)))
            known = self._names[text] = shown
        return known

    def add(self, one: Demand, *, wait_s: float = 0.0, code: str = "") -> None:
        """`code`: why it was refused; "": it was served, after `wait_s`."""
        if not _FIRST <= one.at < self._latest:
            self.left_out[_NO_TIME] += 1
            return
        if not _is_possible(one, wait_s):
            self.left_out[_NO_NUMBER] += 1
            return
        if not self.since <= one.at < self.until:
            self.left_out["outside the span that was asked for"] += 1
            return
        self.taken += 1
        self._kept.append((one, wait_s, code and (self.name(code) or _OTHER)))

    def leave_out(self, why: str, count: int = 1) -> None:
        self.left_out[why] += count

    def assume(self, what: str) -> None:
        """Said once."""
        self._assumed[what] = None

    def no_waits(self) -> None:
        """The record does not say how long requests waited."""
        self._waits_known = False

    def record(self, about: str) -> Record:
        """`about`: what was read, such as `the ring`. Raises SourceError if nothing was."""
        if not self._kept:
            reasons = "; ".join(f"{count:,} {why}" for why, count in self.left_out.most_common(5))
            raise SourceError(f"{about} has no request to replay{f' ({reasons})' if reasons else ''}")
        demand, happened = [], Happened(array("d") if self._waits_known else None)
        for one, wait_s, code in sorted(self._kept, key=lambda kept: kept[0].at):
            demand.append(one)
            if code:
                happened.refused[code] += 1
            if happened.fared is not None:
                happened.fared.append(wait_s if not code else REFUSED if code in NO_ROOM_CODES else FAILED)
            happened.pico += one.pico or 0
        if self.taken > len(demand):
            self.leave_out(f"before the last {len(demand):,} that are replayed", self.taken - len(demand))
        words = f"{about} holds {len(demand):,} {'requests' if len(demand) != 1 else 'request'}"
        words += f" of {long(demand[-1].at - demand[0].at)}, until {utc(demand[-1].at)} UTC"
        if len(demand) < _FEW:
            self.assume("of so few requests, the p99 of waits is that of one or two of them")
        return Record(demand, words, tuple(self._assumed), dict(self.left_out), happened)


def _is_possible(one: Demand, wait_s: float) -> bool:
    counts = one.reserved, one.images, max(0, one.tokens)  # UNSEEN is below 0
    return (
        all(0 <= count <= MOST_COUNT for count in counts)
        and 0 <= (one.pico or 0) <= MOST_USD * PICO
        and 0 <= one.took_s <= _LONGEST_S
        and 0 <= wait_s <= _LONGEST_S
        and -1 <= one.priority <= 1
        and (one.patience_s is None or 0 <= one.patience_s <= _LONGEST_S)
    )


def long(seconds: float) -> str:
    """`41 minutes`, `23 hours`, `9 days`."""
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}s"
    return "one second" if round(seconds) == 1 else f"{seconds:.0f} seconds"


def utc(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def moment_of(given: object) -> float | None:
    """Unix seconds of a time as programs write it: seconds or milliseconds since 1970, a datetime, or ISO 8601; without
    an offset it is UTC. None: it is none."""
    if isinstance(given, str):
        text = given.strip()
        try:
            given = float(text)
        except ValueError:
            try:
                given = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
            except ValueError:
                return None
    if isinstance(given, datetime):
        seconds = (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
    elif isinstance(given, int | float) and not isinstance(given, bool) and 0 < given < 1000 * _LAST:
        seconds = given / 1000 if given > _LAST else float(given)
    else:
        return None
    return seconds if 0 < seconds < _LAST else None


def count_of(given: object) -> int:
    """A number of tokens or the like; 0 if it is none."""
    return int(value) if 0 < (value := _number(given)) <= MOST_COUNT else 0


def pico_of(usd: object) -> int | None:
    """Picodollars; None: that is no price of a request."""
    return round(value * PICO) if 0 < (value := _number(usd)) <= MOST_USD else None


def text_of(given: object) -> str:
    """A name or another word; "" if it is none."""
    return "" if given is None or isinstance(given, dict | list) else str(given)


def _number(given: object) -> float:
    try:
        return float(given)  # type: ignore[arg-type]  # whatever it is
    except (TypeError, ValueError, OverflowError):
        return 0.0
