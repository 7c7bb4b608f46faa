"""What operators are told: kinds of alerts, and one alert as a value. No text of it may hold a secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class AlertKind(StrEnum):
    """Why somebody is told. Targets choose by these words."""

    KEY_REMOVED = "key_removed"  # dead: out until an operator or a changed secret brings it back
    KEY_QUARANTINED = "key_quarantined"  # out of money, or stopped by us before it was
    KEY_BACK = "key_back"  # a removed, quarantined or suspect one serves again
    USABLE_KEYS = "usable_keys"  # fewer than min_usable_keys
    HEADROOM = "headroom"  # less than min_headroom of a budget of the whole pool
    CREDIT_LOW = "credit_low"  # an account below credit_below_usd
    EXPIRY = "expiry"  # credit or a key expires within expires_within
    BRAKE = "brake"  # so many removals at once that they look like one cause: stopped
    SPEND_RATE = "spend_rate"  # an hour's spend is a multiple of its usual
    DAILY_LIMIT = "daily_limit"  # the pool has spent daily_limit_usd
    EGRESS = "egress"  # our network or region is refused, whichever key is used
    POLICY = "policy"  # a client's requests are refused for what they ask, which costs an account its access
    TEST = "test"  # `quotapool alerts test`


class Severity(StrEnum):
    """How soon somebody should look."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing to tell. `subject` names whom it is about (`key alpha`, `account acme`, `pool`); `at` is Unix seconds.

    `again` tells two occasions of the same kind and subject apart: an event's id, a removal's reason. Alerts that agree
    in kind, subject and `again` are one alert, whichever replica noticed.
    """

    kind: AlertKind
    subject: str
    text: str
    at: float
    severity: Severity = Severity.WARNING
    again: str = ""
    details: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """What makes it this alert and no other."""
        return f"{self.kind}|{self.subject}|{self.again}"
