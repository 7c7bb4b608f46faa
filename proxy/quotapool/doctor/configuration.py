"""The configuration: what it contains, and what was remarked when it was read."""

from __future__ import annotations

from collections.abc import AsyncIterator

from quotapool.doctor.finding import Finding, ok, warning
from quotapool.settings import Settings


async def check(settings: Settings) -> AsyncIterator[Finding]:
    """That it loads is known: these are its settings."""
    accounts = {key.account for key in settings.keys}
    counted = (_counted(len(settings.keys), "key"), _counted(len(accounts), "account"))
    clients = _counted(len(settings.clients), "client")
    yield ok("configuration", f"loads: {' in '.join(counted)} and {clients} in it; the pool is {settings.pool}")
    for remark in settings.warnings:
        yield warning(
            "configuration.remark", remark, "See docs/configuration.md; `quotapool config` shows every option"
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
