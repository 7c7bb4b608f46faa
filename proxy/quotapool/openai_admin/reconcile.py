"""Compares our spend with OpenAI's costs, by day and key, and explains differences. Pure.

Amounts are picodollars (1e-12 USD), days UTC.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from quotapool.domain.wallet import PICO
from quotapool.money.spent import Spent
from quotapool.openai_admin.client import KeyCost, KeyUsage
from quotapool.openai_admin.collect import Collected

_EQUAL: Final = PICO // 1_000_000  # a micro-dollar: less is no difference

OurSpend = Mapping[date, Mapping[str, Spent]]  # day -> key id -> spent


@dataclass(slots=True)
class KeyDay:
    """One key's spend on one day. `key` "": OpenAI's charge to the account's project for none of our keys.

    `theirs` None: not reported.
    """

    day: date
    account: str
    key: str
    ours: int = 0
    estimated: int = 0
    unpriced_requests: int = 0
    our_requests: int = 0
    theirs: int | None = None
    their_requests: int | None = None

    @property
    def difference(self) -> int | None:
        """Ours less theirs."""
        return None if self.theirs is None else self.ours - self.theirs

    @property
    def percent(self) -> float | None:
        """Of theirs; None where they charge nothing."""
        return None if self.difference is None else _percent(self.difference, self.theirs or 0)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """`ours` and `theirs`: of the accounts whose costs OpenAI reported; `not_compared`: our spend of all others."""

    rows: Sequence[KeyDay]
    ours: int
    theirs: int
    not_compared: int
    reasons: Sequence[str]

    @property
    def difference(self) -> int:
        return self.ours - self.theirs

    @property
    def percent(self) -> float | None:
        """Of theirs; None where they charge nothing."""
        return _percent(self.difference, self.theirs)


def reconcile(
    our_spend: OurSpend,
    costs: Iterable[KeyCost],
    usage: Iterable[KeyUsage],
    collected: Collected,
    account_of: Mapping[str, str],
    compared: Collection[str],
    today: date,
) -> Reconciliation:
    """`account_of`: configured key -> its account; `compared`: accounts whose costs OpenAI reported."""
    rows: dict[tuple[date, str, str], KeyDay] = {}

    def row_of(day: date, account: str, key: str) -> KeyDay:
        return rows.setdefault((day, account, key), KeyDay(day, account, key))

    def theirs_of(report: KeyCost | KeyUsage) -> KeyDay | None:
        key = collected.key_ids.get(report.api_key or "", "")
        account = account_of.get(key) or collected.projects.get(report.project or "")
        return row_of(report.day, account, key) if account is not None and account in compared else None

    for day, keys in our_spend.items():
        for key, spent in keys.items():
            row = row_of(day, account_of.get(key, ""), key)
            row.ours, row.estimated = spent.total, spent.estimated
            row.unpriced_requests, row.our_requests = spent.unpriced_requests, spent.requests
    for cost in costs:
        if (theirs := theirs_of(cost)) is not None:
            theirs.theirs = (theirs.theirs or 0) + int(cost.usd * PICO)
    for used in usage:
        if (theirs := theirs_of(used)) is not None:
            theirs.their_requests = (theirs.their_requests or 0) + used.requests
    matched = set(collected.key_ids.values())
    for row in rows.values():
        if row.account in compared and row.key in matched and row.theirs is None:
            row.theirs = 0  # a key that OpenAI knows and charges nothing
    ordered = sorted(rows.values(), key=lambda row: (row.day, row.account, row.key))
    known = [row for row in ordered if row.account in compared]
    ours, theirs_total = sum(row.ours for row in known), sum(row.theirs or 0 for row in known)
    not_compared = sum(row.ours for row in ordered if row.account not in compared)
    return Reconciliation(ordered, ours, theirs_total, not_compared, _reasons(known, ours - theirs_total, today))


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 6) if whole else None


def _reasons(rows: Sequence[KeyDay], difference: int, today: date) -> list[str]:
    """What may explain the difference, the likeliest first; empty if there is none."""
    if abs(difference) < _EQUAL and all(abs(row.difference or 0) < _EQUAL for row in rows):
        return []
    reasons = []
    if any(row.day >= today for row in rows):
        reasons.append("today is in it: OpenAI books costs later, by minutes to hours; compare days that are over")
    if estimated := sum(row.estimated for row in rows):
        reasons.append(
            f"${estimated / PICO:.6f} of ours is estimated: answers that were cut before they reported their usage"
        )
    if unpriced := sum(row.unpriced_requests for row in rows):
        reasons.append(f"{unpriced} of our requests have no price: name one under prices: in the configuration")
    more = [row for row in rows if row.their_requests is not None and row.their_requests > row.our_requests]
    if more:
        seen = sum((row.their_requests or 0) - row.our_requests for row in more)
        reasons.append(f"{seen} requests did not pass here: somebody else uses these keys or their project")
    if any(row.key == "" and row.theirs for row in rows):
        reasons.append("OpenAI charges these projects for keys that are not in this pool, or names no key")
    if difference < 0:
        reasons.append(
            "what cannot be seen here: storage, tools that are charged by call or session, WebRTC's audio, batches"
        )
    if difference > 0:
        reasons.append(
            "OpenAI may charge less than its list: agreed prices, complimentary tokens, requests it did not bill"
        )
    return reasons
