"""The old billing pages, which OpenAI shows to a browser's login (`sess-…`) and to no API key: the credit that is left.

Shapes: those that gateways still emulate (credit_grants, subscription, usage); openai-openapi no longer has them, so
every field may be missing.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

import msgspec

from quotapool.openai_admin.json_reader import JsonReader, NoAnswer
from quotapool.openai_admin.records import AccountRecord

_HOW: Final = "log in at https://platform.openai.com and copy the login's sess-... token"


class _Page(msgspec.Struct):
    """What is read of any of the pages. Money in USD, `total_usage` in cents, `access_until` in Unix seconds."""

    total_granted: float | None = None
    total_available: float | None = None
    access_until: float | None = None
    total_usage: float | None = None


async def read_billing(reader: JsonReader, today: date, record: AccountRecord) -> None:
    """Put the credit, the subscription's end and this month's spend so far (UTC) into `record`. Raises NoAnswer if the
    login is refused."""
    credit = await _page(reader, "credit_grants")
    subscription = await _page(reader, "subscription")
    month = (("start_date", f"{today.replace(day=1)}"), ("end_date", f"{today + timedelta(days=1)}"))
    cents = (await _page(reader, "usage", month)).total_usage
    record.granted_usd, record.available_usd = credit.total_granted, credit.total_available
    record.access_until = subscription.access_until or None
    record.month_usd = None if cents is None else cents / 100


async def _page(reader: JsonReader, name: str, query: tuple[tuple[str, str], ...] = ()) -> _Page:
    """The page, or an empty one if OpenAI has removed it."""
    try:
        return await reader.get(f"/dashboard/billing/{name}", _Page, query)
    except NoAnswer as refused:
        if refused.found:
            raise
        return _Page()


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
