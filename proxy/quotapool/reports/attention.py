"""What an operator should look at: rows from what is known, alike ones together: 5,000 dead keys are one row. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from quotapool.alerts import rules
from quotapool.domain.alert import Alert, Severity
from quotapool.domain.counted import counted
from quotapool.domain.outside import KIND, OutsideUse
from quotapool.domain.states import WALLET, Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.wallet import MONTHLY_STOP, Wallet
from quotapool.ledger.stored_rules import Level
from quotapool.openai.advice import advice
from quotapool.reports.sentence import about, is_daily, is_empty, runs_dry_soon
from quotapool.shapes.now import Action, Attention, RoomRow, WaitingRow

MOST_ROWS: Final = 50
_MOST_IDS: Final = 20
_CLIENTS_WITHIN: Final = timedelta(days=14)
_SOON_EMPTY: Final = timedelta(days=3)
_LONG_QUEUE: Final = 10  # requests
_LONG_WAIT_S: Final = 5.0
_RANK: Final = {"critical": 0, "warning": 1, "info": 2}

_Severity = Literal["critical", "warning", "info"]
_Kind = Literal["key", "account", "organization", "model", "client", "pool"]
_OF_STATE: Final[dict[State, tuple[_Severity, tuple[Action, ...]]]] = {
    State.REMOVED: ("critical", ("replace", "enable")),
    State.QUARANTINED: ("warning", ("topup", "probe")),
    State.SUSPECT: ("warning", ("probe", "enable")),
    State.DISABLED: ("info", ("enable",)),
    State.DRAINING: ("info", ("enable",)),
}
_SHOW_CLIENT: Final[tuple[Action, ...]] = ("show_client",)
_SHOW: Final[dict[str, Action]] = {"key": "show_key", "account": "show_account", "organization": "show_account"}


@dataclass(frozen=True, slots=True)
class Concern:
    """One thing to look at. `next`: if it is the only one of its kind; `several`: for more of them together."""

    severity: _Severity
    kind: _Kind
    code: str
    id: str
    next: str
    several: str
    actions: tuple[Action, ...] = ()
    since: float = 0.0


def grouped(concerns: Iterable[Concern]) -> list[Attention]:
    """Those alike as one row; the most urgent first, then those that concern most. At most `MOST_ROWS`."""
    found: dict[tuple[str, str, str], tuple[Concern, Attention]] = {}
    for one in concerns:
        name = one.severity, one.kind, one.code
        known = found.get(name)
        if known is None:
            row = Attention(one.severity, one.kind, one.code, [one.id], 1, one.since, one.next, list(one.actions))
            found[name] = one, row
            continue
        row = known[1]
        row.count += 1
        row.next = one.several
        if len(row.ids) < _MOST_IDS:
            row.ids.append(one.id)
        if one.since and (not row.since or one.since < row.since):
            row.since = one.since
    rows = [row for _, row in found.values()]
    rows.sort(key=lambda row: (_RANK[row.severity], -row.count, row.kind, row.code))
    return rows[:MOST_ROWS]


def of_record(subject: Subject, record: Record) -> Concern | None:
    """A key, account or organisation that is not active."""
    kind, known = subject.kind, _OF_STATE.get(record.state)
    if kind is None or known is None:
        return None
    severity, actions = known
    if record.reason == KIND:
        severity = "warning"  # not of an operator's own making
    if record.by == WALLET and record.reason == MONTHLY_STOP:
        actions = ()
    if kind.value == "organization":
        actions = tuple(action for action in actions if action not in {"topup", "replace"})
    text = advice(record.reason, state=record.state.value)
    until = advice(record.reason, state=record.state.value, until=record.until)
    code = record.reason or record.state.value
    shown: Action = _SHOW[kind.value]
    return Concern(severity, kind.value, code, subject.id, until, text, (*actions, shown), record.since)


def of_locked(names: Iterable[str]) -> Iterator[Concern]:
    """Stored keys whose master key is missing."""
    text = advice("master_key")
    for name in names:
        yield Concern("critical", "key", "locked", name, text, text, ("show_key",))


def of_room(rows: Iterable[RoomRow]) -> Iterator[Concern]:
    """Model groups that have run dry, or soon will."""
    for row in rows:
        if is_empty(row):
            text = f"{row.model} has no {row.dimension} left"
            severity: _Severity = "critical" if is_daily(row) else "warning"  # a minute's comes back within one
        elif row.dry is not None and row.dry.latest is not None and runs_dry_soon(row):
            span = f"{about(row.dry.earliest)} to {about(row.dry.latest)}"
            text = f"{row.model} runs dry in about {about(row.dry.minutes)} ({span}; {row.dimension})"
            severity = "warning"
        else:
            continue
        help_ = "slow down who uses most, or add keys of another organisation"
        yield Concern(severity, "model", "dry", row.model, f"{text}: {help_}", help_, ("show_requests",))


def of_queues(rows: Sequence[WaitingRow]) -> Iterator[Concern]:
    """Models and clients for which many wait, or one for long."""
    for row in rows:
        if row.waiting < _LONG_QUEUE and row.longest_s < _LONG_WAIT_S:
            continue
        what = f"its rule {row.rule}" if row.rule else (row.dimension or "room")
        wait = f"wait{'s' * (row.waiting == 1)}"
        text = (
            f"{counted(row.waiting, 'request')} for {row.model} {wait} for {what}, the first for {row.longest_s:.0f} s"
        )
        action: Action = "show_client" if row.rule else "show_requests"
        kind: _Kind = "client" if row.rule else "model"
        yield Concern("warning", kind, "queue", row.client if row.rule else row.model, text, text, (action,))


def of_outside_use(named: Iterable[OutsideUse]) -> Iterator[Concern]:
    """Accounts that somebody uses without us."""
    several = advice(KIND)
    for one in named:
        only = f"; its only key is {one.key}" if one.key else ""
        text = f"somebody else uses account {one.account}: {one.words}{only}. See docs/outside-use.md"
        yield Concern("warning", "account", KIND, one.account, text, several, ("show_account",), one.since)


def of_wallets(
    wallets: Mapping[str, Wallet], *, below: int | None, within: timedelta, now: datetime
) -> Iterator[Concern]:
    """Credit below `below` (picodollars) or that ends within three days, and credit that expires unused."""
    low: set[str] = set()
    top_up = "top up at OpenAI and record it: quotapool keys topup"
    for alert in rules.of_wallets(wallets, below=below, within=within, now=now):
        account = alert.subject.removeprefix("account ")
        if alert.kind == "credit_low":
            low.add(account)
            yield Concern("warning", "account", "credit_low", account, alert.text, top_up, ("topup", "show_account"))
        elif wallets[account].expiring_unused:
            text = "credit expires unused: use these accounts first, or more"
            yield Concern("info", "account", "credit_expires", account, alert.text, text, ("show_account",))
    for account, wallet in wallets.items():
        ends = wallet.empty_at
        if ends is not None and account not in low and wallet.remaining and ends - now <= _SOON_EMPTY:
            text = f"account {account}'s credit lasts until {ends:%Y-%m-%d %H:%M} UTC at this pace: {top_up}"
            yield Concern("warning", "account", "credit_low", account, text, top_up, ("topup", "show_account"))


def of_clients(
    levels: Mapping[str, Sequence[Level]], expiries: Mapping[str, float], now: datetime
) -> Iterator[Concern]:
    """Budgets of clients and teams that reached a share they warn at, and clients whose access ends soon."""
    several = "budgets of these are nearly or wholly used"
    for subject, of_subject in levels.items():
        for alert in rules.of_client_budgets(subject, of_subject, now.timestamp()):
            name, actions = subject.removeprefix("client "), _SHOW_CLIENT if subject.startswith("client ") else ()
            yield Concern(_severity(alert), "client", "client_budget", name, alert.text, several, actions)
    for alert in rules.of_expiring_clients(expiries, within=_CLIENTS_WITHIN, now=now):
        name = alert.subject.removeprefix("client ")
        text = "the access of these ends soon: quotapool clients set NAME --expires-on DATE"
        yield Concern("info", "client", "client_expires", name, alert.text, text, ("show_client",))


def of_daily_limit(spent: int, closed_until: float, now: datetime) -> Iterator[Concern]:
    alert = rules.day_is_spent(spent, closed_until, now)
    if alert is not None:
        yield Concern("critical", "pool", "daily_limit", "pool", alert.text, alert.text)


def of_store_away() -> Concern:
    text = "the store does not answer: see the log, and docs/operations.md#the-store-is-down"
    return Concern("critical", "pool", "store_away", "pool", text, text)


def of_empty_pool() -> Concern:
    text = "the pool has no key yet: `quotapool keys add` adds one, `quotapool keys import` a list"
    return Concern("critical", "pool", "no_keys", "pool", text, text)


def _severity(alert: Alert) -> _Severity:
    return {Severity.CRITICAL: "critical", Severity.WARNING: "warning", Severity.INFO: "info"}[alert.severity]  # type: ignore[return-value]
