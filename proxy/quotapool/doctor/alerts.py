"""Where alerts go: whether each target is understood, and whether its host is known here. Nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from quotapool.alerts.delivery import targets_of
from quotapool.doctor.finding import Finding, ok, problem, skipped, warning
from quotapool.settings import Settings

_MOST: Final = 50


async def check(settings: Settings) -> AsyncIterator[Finding]:
    written = settings.alerts.targets
    if not written:
        return
    targets, problems = await asyncio.to_thread(targets_of, written, settings.ca_file)
    for text in problems:
        yield problem("alerts", text, "Correct it (docs/alerts.md), and try it: `quotapool alerts test`")
    found = await asyncio.gather(*(_reached(target.name, target.channel.host) for target in targets[:_MOST]))
    for finding in found:
        yield finding
    if len(targets) > _MOST:
        yield skipped("alerts", f"{len(targets) - _MOST} further targets are not checked")


async def _reached(name: str, host: str) -> Finding:
    """Its host's name is looked up: the rest of a target may be a secret, and is neither shown nor used."""
    if not host:
        return skipped("alerts", f"{name}: its service does not tell its host; `quotapool alerts test` tries it")
    try:
        await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError as error:
        why = error.strerror or type(error).__name__
        remedy = "Correct the target's URL, or this machine's name resolution (/etc/resolv.conf)"
        return warning("alerts", f"{name}: its host has no address here: {why}", remedy)
    return ok("alerts", f"{name}: its host has an address; `quotapool alerts test` sends a message")
