"""Alerts for operators: the kinds, and one alert as a value. None of its text may hold a secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class AlertKind(StrEnum):
    """Why an alert is sent. Targets are configured by these words."""

    KEY_REMOVED = "key_removed"  # dead: out until an operator or a changed secret brings it back
    KEY_QUARANTINED = "key_quarantined"  # out of money, or stopped by us before that
    KEY_BACK = "key_back"  # a removed, quarantined or suspect key serves again
    USABLE_KEYS = "usable_keys"  # fewer than min_usable_keys
    HEADROOM = "headroom"  # less than min_headroom is left of one of the whole pool's budgets
    CREDIT_LOW = "credit_low"  # an account below credit_below_usd
    EXPIRY = "expiry"  # credit or a key expires within expires_within
    BRAKE = "brake"  # so many removals at once that they look like one cause: stopped
    SPEND_RATE = "spend_rate"  # an hour's spend is a multiple of the usual one
    DAILY_LIMIT = "daily_limit"  # the pool has spent daily_limit_usd
    EGRESS = "egress"  # our network or region is refused, whichever key is used
    CLIENT_BUDGET = (
        "client_budget"  # a client or team has used a share of a budget that its warn_at names, or all of it
    )
    POLICY = "policy"  # a client's requests are refused for their content, which can cost an account its access
    OUTSIDE_USE = "outside_use"  # somebody uses an account without us; it ended; the account was drained for it
    TEST = "test"  # `quotapool alerts test`


class Severity(StrEnum):
    """How soon an operator should look."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `subject` names what it is about (`key alpha`, `account acme`, `pool`); `at` is Unix seconds.

    `occasion` distinguishes alerts of the same kind and subject: an event's id, a removal's reason. Alerts with equal
    kind, subject and `occasion` are one alert, whichever replica noticed first.
    """

    kind: AlertKind
    subject: str
    text: str
    at: float
    severity: Severity = Severity.WARNING
    occasion: str = ""
    details: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Equal for two alerts that are the same one."""
        return f"{self.kind}|{self.subject}|{self.occasion}"
