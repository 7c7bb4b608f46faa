"""The old billing pages, which OpenAI shows to a browser's login (`sess-…`) and to no API key: the credit that is left.

Shapes: those that gateways still emulate (credit_grants, subscription, usage); openai-openapi no longer has them, so
every field may be missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, TypeVar

import msgspec

from quotapool.openai_admin.json_reader import JsonReader, NoAnswer

T = TypeVar("T")
_HOW: Final = "log in at https://platform.openai.com and copy the login's sess-... token"


class _CreditGrants(msgspec.Struct):
    total_granted: float | None = None
    total_available: float | None = None


class _Subscription(msgspec.Struct):
    hard_limit_usd: float | None = None
    access_until: float | None = None


class _Usage(msgspec.Struct):
    total_usage: float | None = None  # cents


@dataclass(frozen=True, slots=True)
class Billing:
    """USD, and `access_until` in Unix seconds. None: not reported."""

    granted_usd: float | None = None
    available_usd: float | None = None
    hard_limit_usd: float | None = None
    access_until: float | None = None
    month_usd: float | None = None


async def billing(reader: JsonReader, today: date) -> Billing:
    """Credit, the subscription and this month's spend so far (UTC). Raises NoAnswer if the login is refused."""
    credit = await _page(reader, "credit_grants", _CreditGrants)
    subscription = await _page(reader, "subscription", _Subscription)
    month = (("start_date", f"{today.replace(day=1)}"), ("end_date", f"{today + timedelta(days=1)}"))
    usage = await _page(reader, "usage", _Usage, month)
    cents = usage.total_usage
    return Billing(
        credit.total_granted,
        credit.total_available,
        subscription.hard_limit_usd,
        subscription.access_until or None,
        None if cents is None else cents / 100,
    )


async def _page(reader: JsonReader, name: str, shape: type[T], query: tuple[tuple[str, str], ...] = ()) -> T:
    """The page, or an empty one if OpenAI has removed it."""
    try:
        return await reader.get(f"/dashboard/billing/{name}", shape, query)
    except NoAnswer as refused:
        if refused.found:
            raise
        return shape()


def is_api_key(secret: str) -> bool:
    """Whether this is an API key and no login, by its form alone."""
    return secret.lower().startswith("sk-")


def session_refused(status: int, message: str) -> str:
    """What a 401 or 403 of the billing pages means, for the operator who configured the login."""
    if "session key" in message:
        return API_KEY_GIVEN
    if status == 401:
        return f"the session key has expired; renew it: {_HOW}"
    return f"OpenAI refuses the session key: {message}"


API_KEY_GIVEN: Final = (
    "this is an API key, and OpenAI shows credit to no API key: session_key takes a browser's login; "
    f"{_HOW}, or remove session_key and write the credit down under grants:"
)
