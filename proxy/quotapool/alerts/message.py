"""Composes one message from alerts: each in full, or a digest if many came at once."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from quotapool.domain.alert import Alert, Severity

_IN_FULL: Final = 3  # a message of more alerts is a digest
_SHOWN: Final = 10  # alerts in the text of a digest
_MOST_IN_JSON: Final = 100  # alerts in the JSON of a digest
_LONGEST: Final = 1_800  # characters: Discord takes 2,000, WeCom 2,048 bytes
_ORDER: Final = [Severity.CRITICAL, Severity.WARNING, Severity.INFO]


@dataclass(frozen=True, slots=True)
class Message:
    """What is delivered to a target. `id` is the same for every attempt, so that a receiver can detect a repetition."""

    id: str
    pool: str
    title: str
    text: str
    severity: Severity
    alerts: tuple[Alert, ...]
    total: int

    def json(self) -> bytes:
        """The generic webhook's body (docs/alerts.md)."""
        return msgspec.json.encode(
            {
                "id": self.id,
                "pool": self.pool,
                "title": self.title,
                "text": self.text,
                "severity": self.severity,
                "total": self.total,
                "alerts": [_row(alert) for alert in self.alerts],
            }
        )


def compose(pool: str, alerts: Sequence[Alert]) -> Message:
    """One message of `alerts`, which came within seconds of each other (at least one), the most severe first."""
    ordered = sorted(alerts, key=lambda alert: _ORDER.index(alert.severity))
    worst = ordered[0].severity
    if len(ordered) == 1:
        title = f"{ordered[0].kind.replace('_', ' ')}: {ordered[0].subject}"
    else:
        counted = Counter(alert.kind.replace("_", " ") for alert in ordered)
        title = f"{len(ordered)} alerts: " + ", ".join(f"{n} {kind}" for kind, n in counted.most_common())
    shown = ordered if len(ordered) <= _IN_FULL else ordered[:_SHOWN]
    lines = [alert.text for alert in shown]
    if len(ordered) > len(shown):
        lines.append(f"… and {len(ordered) - len(shown)} more: quotapool check")
    text = "\n".join(lines)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    most = tuple(ordered[:_MOST_IN_JSON])
    return Message(secrets.token_hex(8), pool, f"[quotapool {pool}] {title}", text, worst, most, len(ordered))


def _row(alert: Alert) -> dict[str, Any]:
    return {
        "kind": alert.kind,
        "subject": alert.subject,
        "severity": alert.severity,
        "text": alert.text,
        "at": datetime.fromtimestamp(alert.at, UTC),
        "details": dict(alert.details),
    }
