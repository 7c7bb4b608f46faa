"""The arithmetic of an account's credit: what is left, how fast it is spent, when it is gone, what will expire unused.

Money is an int in picodollars (1e-12 USD), days are UTC days. Grants are spent day by day, the one that expires
soonest first, as OpenAI does it. Spending that no grant covered is forgotten, not owed: what upstream served was paid
from credit we do not know of, and must not reduce the next top-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from typing import Final

PICO: Final = 10**12
"""Picodollars in one USD."""

CREDIT_STOP: Final = "credit_stop_at"
MONTHLY_STOP: Final = "monthly_stop_at"

BURN_DAYS: Final = 7  # days from which the burn rate is computed, recent ones with more weight
_LEAST_OF_TODAY: Final = Fraction(1, 24)  # a few minutes say nothing about the whole day
MOST_URGENT: Final = 8.0  # how much more an account is used whose credit is about to expire
_STEP: Final = 4  # urgency moves in quarters, so that workers are notified rarely


@dataclass(frozen=True, slots=True)
class Grant:
    """Credit: `amount` in picodollars, spendable from the beginning of `granted_on` until that of `expires_on` (UTC).

    Without `granted_on` it has always existed, without `expires_on` it never expires. `spent_before`: what had already
    been spent on its first day when it was granted, which it did not pay for.
    """

    amount: int
    granted_on: date | None = None
    expires_on: date | None = None
    spent_before: int = 0

    def is_valid(self, day: date) -> bool:
        return (self.granted_on is None or self.granted_on <= day) and not self.is_over(day)

    def is_over(self, day: date) -> bool:
        return self.expires_on is not None and self.expires_on <= day


@dataclass(frozen=True, slots=True)
class Balance:
    """One grant and what is left of it, picodollars."""

    grant: Grant
    left: int


@dataclass(frozen=True, slots=True)
class Wallet:
    """What an account has at one moment. All money in picodollars.

    granted = used + expired + remaining, over every grant that has begun; spent = used + uncovered, over every day.
    `remaining` is None if no grant is known: then nothing is known about the credit. `empty_at` None: not in sight.
    """

    remaining: int | None = None
    granted: int = 0
    used: int = 0
    expired: int = 0
    uncovered: int = 0
    month_spent: int = 0
    month_limit: int | None = None
    burn_per_day: int = 0
    empty_at: datetime | None = None
    expiring_unused: int = 0
    next_expiry: date | None = None
    urgency: float = 1.0  # how much faster it would have to be spent for nothing to expire; 1 to MOST_URGENT
    balances: tuple[Balance, ...] = field(default=(), repr=False)  # with money left, the next to be spent first

    def stop_reason(self, stop_at: float | None) -> str:
        """Why this account should stop now: `credit_stop_at`, `monthly_stop_at`, or "" to go on.

        `stop_at`: the share (0..1) that may be used, both of the grants that are not used up yet and of the month's
        limit.
        """
        if stop_at is None:
            return ""
        left_over = 1 - Fraction(str(stop_at))
        open_grants = sum(balance.grant.amount for balance in self.balances)
        if self.remaining is not None and self.remaining <= open_grants * left_over:
            return CREDIT_STOP
        if self.month_limit is not None and self.month_limit - self.month_spent <= self.month_limit * left_over:
            return MONTHLY_STOP
        return ""


def wallet(
    grants: Sequence[Grant], spent: Mapping[date, int], now: datetime, *, month_limit: int | None = None
) -> Wallet:
    """The wallet of an account with these `grants` that has `spent` so much (picodollars by UTC day) until `now`."""
    today = now.date()
    begun = [grant for grant in grants if grant.granted_on is None or grant.granted_on <= today]
    left, uncovered = _spend(begun, spent, today)
    balances = tuple(
        Balance(grant, amount) for grant, amount in zip(begun, left, strict=True) if amount and not grant.is_over(today)
    )
    balances = tuple(sorted(balances, key=lambda balance: _order(balance.grant)))
    granted, remaining = sum(grant.amount for grant in begun), sum(balance.left for balance in balances)
    expired = sum(amount for grant, amount in zip(begun, left, strict=True) if grant.is_over(today))
    month = today.replace(day=1)
    burn = burn_rate(spent, now)
    empty_at, unused = _project(balances, burn, now)
    return Wallet(
        remaining=remaining if grants else None,
        granted=granted,
        used=granted - remaining - expired,
        expired=expired,
        uncovered=uncovered,
        month_spent=sum(amount for day, amount in spent.items() if month <= day <= today),
        month_limit=month_limit,
        burn_per_day=burn,
        empty_at=empty_at if grants else None,
        expiring_unused=unused,
        next_expiry=next((p.grant.expires_on for p in balances if p.grant.expires_on), None),
        urgency=_urgency(balances, burn, now) if unused else 1.0,
        balances=balances,
    )


def burn_rate(spent: Mapping[date, int], now: datetime) -> int:
    """Picodollars per day over the last seven days: today weighs 7, yesterday 6, and so on.

    Of today, only the part that is over counts. Days before the first one with spending are ignored.
    """
    today = now.date()
    first = min((day for day, amount in spent.items() if amount and day <= today), default=today)
    over = Fraction(int((now - _start(today)).total_seconds()), 86_400)
    weighted, weights = Fraction(0), Fraction(0)
    for ago in range(min(BURN_DAYS, (today - first).days + 1)):
        weight = BURN_DAYS - ago
        weighted += weight * spent.get(today - timedelta(ago), 0)
        weights += weight * (max(over, _LEAST_OF_TODAY) if ago == 0 else 1)
    return int(weighted / weights)


def _spend(grants: Sequence[Grant], spent: Mapping[date, int], today: date) -> tuple[list[int], int]:
    """What is left of each grant after every day's spending is taken from those valid that day; what none covered."""
    left = [grant.amount for grant in grants]
    order = sorted(range(len(grants)), key=lambda i: _order(grants[i]))
    uncovered = 0
    for day in sorted(day for day in spent if day <= today):
        valid = [i for i in order if grants[i].is_valid(day)]
        granted_at = {i: grants[i].spent_before if grants[i].granted_on == day else 0 for i in valid}
        begins = 0
        for ends in sorted({min(before, spent[day]) for before in granted_at.values()} | {spent[day]}):
            due = ends - begins
            for i in valid:
                if due and granted_at[i] <= begins:
                    taken = min(due, left[i])
                    left[i] -= taken
                    due -= taken
            uncovered += due
            begins = ends
    return left, uncovered


def _project(balances: Sequence[Balance], burn: int, now: datetime) -> tuple[datetime | None, int]:
    """When the last of it will be spent or expired at this pace, and how much will expire. `balances` in order."""
    if not burn:
        ends = [_start(p.grant.expires_on) for p in balances if p.grant.expires_on]
        never = len(ends) < len(balances)
        return (None if never else max(ends, default=now)), sum(p.left for p in balances if p.grant.expires_on)
    at, unused = Fraction(0), 0  # seconds from now
    for balance in balances:
        takes = Fraction(balance.left * 86_400, burn)
        if balance.grant.expires_on is not None:
            lasts = max(Fraction(0), _seconds(_start(balance.grant.expires_on) - now) - at)
            if takes > lasts:
                unused += balance.left - int(lasts * burn / 86_400)
                takes = lasts
        at += takes
    try:
        return now + timedelta(microseconds=round(at * 1_000_000)), unused
    except OverflowError:  # at this pace it outlasts the calendar
        return None, unused


def _urgency(balances: Sequence[Balance], burn: int, now: datetime) -> float:
    """The multiple of today's pace at which nothing would expire."""
    total, wanted = 0, Fraction(0)
    for balance in balances:
        total += balance.left
        if balance.grant.expires_on is not None:
            days = Fraction(max(1, int((_start(balance.grant.expires_on) - now).total_seconds())), 86_400)
            wanted = max(wanted, total / days)
    times = MOST_URGENT if not burn else float(wanted / burn)
    return min(MOST_URGENT, max(1.0, round(times * _STEP) / _STEP))


def _order(grant: Grant) -> tuple[date, date]:
    return grant.expires_on or date.max, grant.granted_on or date.min


def _seconds(span: timedelta) -> Fraction:
    return Fraction(span // timedelta(microseconds=1), 1_000_000)


def _start(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def usd(pico: int) -> float:
    """US dollars, to the millionth."""
    return round(pico / PICO, 6)
