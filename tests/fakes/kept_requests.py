"""Requests as they are kept, made of a few words."""

from __future__ import annotations

from typing import Any

from quotapool.observe.kept_request import KeptAttempt, KeptRequest


def tried(key: str, outcome: str = "ok", reason: str = "") -> KeptAttempt:
    """An attempt that took 1 ms."""
    return KeptAttempt(key, key, outcome, reason, 200 if outcome == "ok" else 500, 0, 1_000, "")


def kept(**changed: Any) -> KeptRequest:
    """A request that `app` made for gpt-5 and that was answered in 2 ms."""
    fields: dict[str, Any] = {
        "id": "qp_1",
        "at": 1_800_000_000.0,
        "client": "app",
        "endpoint": "chat",
        "model": "gpt-5",
        "status": 200,
        "code": "",
        "rules": (),
        "streamed": False,
        "cut": False,
        "source": "upstream",
        "attempts": (tried("alpha"),),
        "waited_for": None,
        "queued_us": 0,
        "first_byte_us": 1_000,
        "total_us": 2_000,
        "overhead_us": 100,
        "prompt": 10,
        "cached": 0,
        "completion": 5,
        "certainty": "exact",
        "pico": 0,
    }
    return KeptRequest(**{**fields, **changed})
