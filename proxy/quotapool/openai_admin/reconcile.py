"""Our books beside OpenAI's costs: by day and key, with what can explain a difference. Pure.

Amounts are picodollars (1e-12 USD), days UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from quotapool.domain.wallet import PICO
from quotapool.money.spend_store import Spent
from quotapool.openai_admin.client import Cost, Used
from quotapool.openai_admin.collect import Told

_EQUAL: Final = PICO // 1_000_000  # a micro-dollar: below it nobody asks

Books = Mapping[date, Mapping[str, Spent]]  # day -> key id -> spent


@dataclass(slots=True)
class Line:
    """One key's day. `key` "": what OpenAI charges to the account's project and to no key of ours.

    `theirs` None: not told.
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
    """`ours` and `theirs` count the accounts whose costs OpenAI told; `untold` is our spend of all others."""

    lines: Sequence[Line]
    ours: int
    theirs: int
    untold: int
    reasons: Sequence[str]

    @property
    def difference(self) -> int:
        return self.ours - self.theirs

    @property
    def percent(self) -> float | None:
        """Of theirs; None where they charge nothing."""
        return _percent(self.difference, self.theirs)


def reconcile(
    books: Books,
    costs: Iterable[Cost],
    usage: Iterable[Used],
    told: Told,
    account_of: Mapping[str, str],
    asked: Iterable[str],
    today: date,
) -> Reconciliation:
    """`account_of`: our key -> its account, for keys that are configured; `asked`: accounts whose costs OpenAI told."""
    lines: dict[tuple[date, str, str], Line] = {}

    def line(day: date, account: str, key: str) -> Line:
        return lines.setdefault((day, account, key), Line(day, account, key))

    compared = set(asked)
    for day, keys in books.items():
        for key, spent in keys.items():
            own = line(day, account_of.get(key, ""), key)
            own.ours, own.estimated = spent.total, spent.estimated
            own.unpriced_requests, own.our_requests = spent.unpriced_requests, spent.requests
    for cost in costs:
        key = told.key_ids.get(cost.api_key or "", "")
        account = account_of.get(key) or told.projects.get(cost.project or "")
        if account in compared and account is not None:
            theirs = line(cost.day, account, key)
            theirs.theirs = (theirs.theirs or 0) + int(cost.usd * PICO)
    for used in usage:
        key = told.key_ids.get(used.api_key or "", "")
        account = account_of.get(key) or told.projects.get(used.project or "")
        if account in compared and account is not None:
            theirs = line(used.day, account, key)
            theirs.their_requests = (theirs.their_requests or 0) + used.requests
    matched = set(told.key_ids.values())
    for row in lines.values():
        if row.account in compared and row.key in matched and row.theirs is None:
            row.theirs = 0  # a key that OpenAI knows and charges nothing
    ordered = sorted(lines.values(), key=lambda row: (row.day, row.account, row.key))
    known = [row for row in ordered if row.account in compared]
    ours, theirs_total = sum(row.ours for row in known), sum(row.theirs or 0 for row in known)
    untold = sum(row.ours for row in ordered if row.account not in compared)
    return Reconciliation(ordered, ours, theirs_total, untold, _reasons(known, ours - theirs_total, today))


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 6) if whole else None


def _reasons(lines: Sequence[Line], difference: int, today: date) -> list[str]:
    """What may explain the difference, the likeliest first. None where there is none."""
    if abs(difference) < _EQUAL and all(abs(row.difference or 0) < _EQUAL for row in lines):
        return []
    reasons = []
    if any(row.day >= today for row in lines):
        reasons.append("today is in it: OpenAI books costs later, by minutes to hours; compare days that are over")
    if estimated := sum(row.estimated for row in lines):
        reasons.append(
            f"${estimated / PICO:.6f} of ours is estimated: answers that were cut before they told their usage"
        )
    if unpriced := sum(row.unpriced_requests for row in lines):
        reasons.append(f"{unpriced} of our requests have no price: name one under prices: in the configuration")
    more = [row for row in lines if row.their_requests is not None and row.their_requests > row.our_requests]
    if more:
        seen = sum((row.their_requests or 0) - row.our_requests for row in more)
        reasons.append(f"{seen} requests did not pass here: somebody else uses these keys or their project")
    if any(row.key == "" and row.theirs for row in lines):
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
