"""An account's credit in words, for `quotapool check`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def credit_lines(row: Mapping[str, Any]) -> list[str]:
    """One line for the credit of a key's account and one for its month, if they are known."""
    credit = row.get("credit") or {}
    lines = []
    if "remaining_usd" in credit:
        parts = [f"credit ${credit['remaining_usd']:,.2f}", f"${credit['per_day_usd']:,.2f} a day"]
        if "empty_at" in credit:
            parts.append(f"empty {credit['empty_at'][:10]}")
        if "next_expiry" in credit:
            parts.append(f"next expiry {credit['next_expiry']}")
        if credit["expiring_unused_usd"]:
            parts.append(f"${credit['expiring_unused_usd']:,.2f} will expire unused")
        lines.append(", ".join(parts))
    if "month_limit_usd" in credit:
        lines.append(f"month ${credit['month_spent_usd']:,.2f} of ${credit['month_limit_usd']:,.2f}")
    return lines
