"""Outside use as events of the pool's stream: what is written when it begins and ends, and read again. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from quotapool.domain.outside import KIND, OutsideUse
from quotapool.domain.subject import Subject

NONE: Final = "none"
"""The state without outside use; the other one is `KIND`."""


def begin_of(one: OutsideUse) -> dict[str, str]:
    """The fields of the event that it is named; `reason` is the model group."""
    message = f"{one.words}, since {moment(one.since)}, which nobody asked this pool for"
    if one.key:
        message += f"; the account's only key is {one.key}"
    return {**_facts(one), "from": NONE, "to": KIND, "message": message}


def end_of(one: OutsideUse) -> dict[str, str]:
    """The same of the event that it is over."""
    message = f"no more of it is seen; it was {one.words}, since {moment(one.since)}"
    return {**_facts(one), "from": KIND, "to": NONE, "message": message}


def _facts(one: OutsideUse) -> dict[str, str]:
    facts = {
        "field": str(Subject.of_account(one.account)),
        "reason": one.group,
        "key": one.key,
        "since": f"{one.since:.0f}",
        "requests_per_minute": f"{one.requests_per_minute:.1f}",
        "tokens_per_minute": f"{one.tokens_per_minute:.0f}",
    }
    return facts if one.usd_per_hour is None else {**facts, "usd_per_hour": f"{one.usd_per_hour:.2f}"}


def is_end_of_outside_use(event: Mapping[str, str]) -> bool:
    return event.get("kind") == KIND and event.get("to") == NONE


def outside_use_of(event: Mapping[str, str]) -> OutsideUse:
    """What such an event is about. Numbers that cannot be read are 0, or infinite for `since`: never."""
    cost = event.get("usd_per_hour")
    return OutsideUse(
        Subject(event.get("field", "")).id,
        event.get("reason", ""),
        _number(event.get("since"), math.inf),
        _number(event.get("requests_per_minute")),
        _number(event.get("tokens_per_minute")),
        event.get("key", ""),
        None if cost is None else _number(cost),
    )


def moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _number(text: str | None, otherwise: float = 0.0) -> float:
    try:
        return float(text or "")
    except ValueError:
        return otherwise
