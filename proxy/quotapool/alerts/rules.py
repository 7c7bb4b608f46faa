"""Which conditions raise an alert, as pure rules: pool events, wallets, usable keys, spend of an hour or a day."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Final

from quotapool.domain import outside
from quotapool.domain.alert import Alert, AlertKind, Severity
from quotapool.domain.rule_words import amount, words
from quotapool.domain.rules import Kind, Mode
from quotapool.domain.states import OPERATOR, WALLET, State
from quotapool.domain.subject import Subject
from quotapool.domain.wallet import PICO, Wallet, usd
from quotapool.ledger.stored_rules import Level

_HOUR: Final = timedelta(hours=1)
_SAME_HOURS: Final = 3  # days with the same hour that make it a usual one
_ANY_HOURS: Final = 6  # else, hours of any kind
_LEAST_PER_HOUR: Final = PICO  # an hour that cost less than one dollar raises no alert
_SINGLE: Final = {
    "brake": (
        AlertKind.BRAKE,
        Severity.CRITICAL,
        "Removals of keys were stopped ({reason}): so many at once have one cause. The keys rest and are tried again.",
    ),
    "egress": (
        AlertKind.EGRESS,
        Severity.CRITICAL,
        "Every key fails alike ({reason}): the trouble is between here and OpenAI. No key is removed for it.",
    ),
    "policy": (
        AlertKind.POLICY,
        Severity.WARNING,
        "OpenAI refuses what {subject} sends ({reason}). Repeated, it can cost an account its access.",
    ),
}
WELL: Final = "well"  # the state in which an egress event ends
OVER: Final = " over"  # ends the occasion of an alert that outside use is over


def of_event(event: Mapping[str, str]) -> Alert | None:
    """The alert for an entry of the pool's event stream; None: an operator's own action, or no alert."""
    at, kind = float(event.get("at") or 0), event.get("kind") or "state"
    details = {n: event[n] for n in ("reason", "status", "request_id", "by") if event.get(n) not in {None, "", "0"}}
    if kind == "state":
        return _of_state(event, at, details)
    if kind == outside.KIND:
        return _of_outside_use(event, at, details)
    if kind not in _SINGLE:
        return None
    if kind == "egress" and event.get("to") == WELL:
        return Alert(AlertKind.EGRESS, "pool", "OpenAI answers our network again.", at, Severity.INFO, WELL, details)
    alert_kind, severity, template = _SINGLE[kind]
    subject = f"client {event.get('field', '')}" if alert_kind is AlertKind.POLICY else "pool"
    text = template.format(subject=subject, reason=event.get("reason") or "unknown")
    return Alert(alert_kind, subject, text, at, severity, "", details)


def _of_outside_use(event: Mapping[str, str], at: float, details: Mapping[str, str]) -> Alert:
    """Somebody uses an account, or does no longer. `reason` of the event is the model group."""
    subject, group = described(Subject(event.get("field", ""))), event.get("reason", "")
    known = ("key", "since", "requests_per_minute", "tokens_per_minute", "usd_per_hour")
    more = {"model": group, **details, **{name: event[name] for name in known if event.get(name)}}
    del more["reason"]
    if event.get("to") != outside.KIND:
        text = f"Nobody else uses {subject} for {group} any more, as far as can be seen."
        return Alert(AlertKind.OUTSIDE_USE, subject, text, at, Severity.INFO, f"{group}{OVER}", more)
    text = f"Somebody else uses {subject}: {event.get('message', '')}."
    return Alert(AlertKind.OUTSIDE_USE, subject, text, at, Severity.WARNING, group, more)


def _of_state(event: Mapping[str, str], at: float, details: Mapping[str, str]) -> Alert | None:
    if event.get("by") == OPERATOR:
        return None
    quote, subject, reason, to = _quote(event), described(Subject(event["field"])), event.get("reason", ""), event["to"]
    if to == State.REMOVED:
        text = f"{subject} was removed: {reason}.{quote}"
        return Alert(AlertKind.KEY_REMOVED, subject, text, at, Severity.CRITICAL, "", details)
    if to == State.QUARANTINED:
        text = f"{subject} is out of money ({reason}) and comes back by itself once there is some.{quote}"
        if event.get("by") == WALLET:
            text = f"{subject} was stopped at its limit ({reason}), before OpenAI refuses it."
        return Alert(AlertKind.KEY_QUARANTINED, subject, text, at, Severity.WARNING, "", details)
    if to == State.DRAINING and reason == outside.KIND:
        text = f"{subject} was taken out of service, since somebody else uses it: {event.get('message', '')}."
        return Alert(AlertKind.OUTSIDE_USE, subject, text, at, Severity.CRITICAL, f"drained {at:.0f}", details)
    if to == State.ACTIVE and event.get("from") in {State.REMOVED, State.QUARANTINED}:
        return Alert(AlertKind.KEY_BACK, subject, f"{subject} serves again.", at, Severity.INFO, "", details)
    return None


def described(subject: Subject) -> str:
    """`k/alpha` is `key alpha`; other texts are left as they are."""
    return f"{subject.kind} {subject.id}" if subject.kind is not None else subject.id


def _quote(event: Mapping[str, str]) -> str:
    status, message = event.get("status", "0"), event.get("message", "")
    if not message:
        return ""
    return f" OpenAI said: {message}" if status in {"", "0"} else f" OpenAI said ({status}): {message}"


def too_few_keys(usable: int, total: int, least: int, at: float) -> Alert | None:
    """Fewer usable keys than `least`."""
    if usable >= least:
        return None
    severity = Severity.WARNING if usable else Severity.CRITICAL
    text = f"{usable} of {total} keys are usable; at least {least} were wanted."
    return Alert(AlertKind.USABLE_KEYS, "pool", text, at, severity, details={"usable": usable, "keys": total})


def headroom_low(model: str, dimension: str, share: float, at: float) -> Alert:
    """Only `share` (0..1) of a budget of all usable accounts has been left for a while."""
    text = f"{max(0.0, share):.0%} of the pool's {dimension} budget for {model} is left."
    return Alert(
        AlertKind.HEADROOM, f"model {model}", text, at, occasion=dimension, details={"left": round(max(0.0, share), 4)}
    )


def of_wallets(
    wallets: Mapping[str, Wallet], *, below: int | None, within: timedelta, now: datetime
) -> Iterator[Alert]:
    """Accounts with less credit than `below` (picodollars), and credit that expires `within` that time."""
    at = now.timestamp()
    for account, wallet in wallets.items():
        subject = f"account {account}"
        if below is not None and wallet.remaining is not None and wallet.remaining < below:
            empty = f"; at this pace it is empty on {wallet.empty_at:%Y-%m-%d %H:%M} UTC" if wallet.empty_at else ""
            left = usd(wallet.remaining)
            text = f"{subject} has ${left:.2f} of credit left{empty}."
            yield Alert(AlertKind.CREDIT_LOW, subject, text, at, details={"remaining_usd": left})
        for expires_on in sorted({b.grant.expires_on for b in wallet.balances if b.grant.expires_on}):
            if datetime.combine(expires_on, time(), UTC) - now <= within:
                left = usd(sum(b.left for b in wallet.balances if b.grant.expires_on == expires_on))
                text = f"${left:.2f} of {subject}'s credit expire on {expires_on}."
                yield Alert(
                    AlertKind.EXPIRY, subject, text, at, occasion=str(expires_on), details={"expiring_usd": left}
                )


def of_expiring_keys(expiries: Mapping[str, float], *, within: timedelta, now: datetime) -> Iterator[Alert]:
    """Keys whose expiry (Unix seconds, by key id) comes `within` that time."""
    for key, expires_at in expiries.items():
        left = expires_at - now.timestamp()
        if 0 < left <= within.total_seconds():
            day = f"{datetime.fromtimestamp(expires_at, UTC):%Y-%m-%d %H:%M} UTC"
            text = f"key {key} expires on {day}: replace it before."
            yield Alert(AlertKind.EXPIRY, f"key {key}", text, now.timestamp(), occasion=day)


def of_client_budgets(subject: str, levels: Iterable[Level], at: float) -> Iterator[Alert]:
    """Budgets of which a share of their `warn_at` is used, or all: the highest is told, once in each period. `subject`:
    `client app` or `team search`."""
    for level in levels:
        rule = level.rule
        reached = [share for share in (*rule.warn_at, 1.0) if level.used >= share * rule.limit]
        if rule.kind is not Kind.BUDGET or not reached:
            continue
        share, is_hard = max(reached), rule.mode is Mode.HARD
        follows = ""
        if share >= 1:
            follows = ", and its requests are refused" if is_hard else ", and its requests are served all the same"
        until = ""
        if level.resets_at is not None:
            until = f" It resets at {datetime.fromtimestamp(level.resets_at, UTC):%Y-%m-%d %H:%M} UTC."
        used = amount(rule.measure, level.used)
        text = f"The {subject} may use {words(rule)}; {used} are used ({level.used / rule.limit:.0%}){follows}.{until}"
        severity = Severity.INFO if rule.mode is Mode.SHADOW else Severity.WARNING
        occasion = f"{rule.id} {share:.4g} {level.resets_at or 0:.0f}"
        yield Alert(AlertKind.CLIENT_BUDGET, subject, text, at, severity, occasion, {"rule": rule.id, "reached": share})


def of_expiring_clients(expiries: Mapping[str, float], *, within: timedelta, now: datetime) -> Iterator[Alert]:
    """Clients that are refused from a second (by id, Unix seconds) that comes `within` that time."""
    for client, expires_at in expiries.items():
        if 0 < expires_at - now.timestamp() <= within.total_seconds():
            day = f"{datetime.fromtimestamp(expires_at, UTC):%Y-%m-%d}"
            text = f"The access of client {client} ends on {day}: `quotapool clients set {client} --expires-on DATE`."
            yield Alert(AlertKind.EXPIRY, f"client {client}", text, now.timestamp(), occasion=day)


def usual_hour(hours: Mapping[datetime, int], hour: datetime) -> int | None:
    """What the hour that begins at `hour` (UTC) usually costs: the median of the same hour of the last seven days, else
    of all hours before it; None if there are too few. Hours before the first known one were before the pool existed."""
    first = min((h for h, spent in hours.items() if spent), default=None)
    if first is None:
        return None
    same = [hours.get(day, 0) for n in range(1, 8) if (day := hour - timedelta(n)) >= first]
    if len(same) >= _SAME_HOURS:
        return int(statistics.median(same))
    known = max(0, math.floor((hour - first) / _HOUR))
    before = [hours.get(hour - n * _HOUR, 0) for n in range(1, known + 1)]
    return int(statistics.median(before)) if len(before) >= _ANY_HOURS else None


def spends_fast(hours: Mapping[datetime, int], factor: float, now: datetime) -> Alert | None:
    """The current hour, or the one before, cost more than `factor` times its usual amount."""
    this = now.replace(minute=0, second=0, microsecond=0)
    for hour in (this, this - _HOUR):
        spent, usual = hours.get(hour, 0), usual_hour(hours, hour)
        if usual is not None and spent >= _LEAST_PER_HOUR and spent > factor * usual:
            text = f"The pool spent ${usd(spent):.2f} in the hour from {hour:%H:%M} UTC; usual are ${usd(usual):.2f}."
            details = {"spent_usd": usd(spent), "usual_usd": usd(usual)}
            return Alert(AlertKind.SPEND_RATE, "pool", text, now.timestamp(), details=details)
    return None


def day_is_spent(spent: int, closed_until: float, now: datetime) -> Alert | None:
    """The pool's daily limit is reached: requests are refused until `closed_until` (Unix seconds)."""
    if not closed_until:
        return None
    until = datetime.fromtimestamp(closed_until, UTC)
    text = f"The pool spent ${usd(spent):.2f} today, its daily limit: requests are refused until {until:%H:%M} UTC."
    details = {"spent_usd": usd(spent)}
    return Alert(AlertKind.DAILY_LIMIT, "pool", text, now.timestamp(), Severity.CRITICAL, f"{until:%Y-%m-%d}", details)


class Lasting:
    """Passes a condition on once it has held for `seconds`: a minute's budget is often empty for a moment."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[tuple[str, str], float] = {}

    def of(self, holding: Sequence[tuple[str, str]], at: float) -> list[tuple[str, str]]:
        """Which of those that hold at `at` have held long enough. To be called regularly, with all that hold."""
        self._since = {name: self._since.get(name, at) for name in holding}
        return [name for name, since in self._since.items() if at - since >= self._seconds]
