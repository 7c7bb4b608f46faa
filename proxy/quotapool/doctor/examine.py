"""Runs every check side by side, each to its own end or to that of the time there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from quotapool.app.command_socket import Answer
from quotapool.doctor import alerts, configuration, login, machine, ports, store, upstream
from quotapool.doctor.finding import Check, Finding, Status, warning
from quotapool.keys.keyring import secrets_in
from quotapool.observe.redaction import Redactor
from quotapool.settings import Settings

SECONDS: Final = 10.0
_CLOSING_S: Final = 6.0  # an embedded store that was started for this is stopped

_Part = AsyncIterator[Finding]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined. `proxy`: the one that runs on its state_dir, None if none does or it cannot be asked; then
    `silence` is why."""

    settings: Settings
    proxy: Answer | None = None
    silence: str = ""


async def examine(subject: Subject, *, seconds: float = SECONDS) -> list[Finding]:
    """All findings, in an order that does not depend on which check was quicker. Takes `seconds` at most, and some more
    if an embedded store has to be stopped."""
    settings, proxy = subject.settings, subject.proxy
    parts: list[tuple[Check, _Part]] = [
        ("configuration", configuration.check(settings)),
        ("proxy", ports.check(settings, proxy, subject.silence)),
        ("state_dir", machine.check(settings, proxy)),
        ("store", store.check(settings, proxy)),
        ("upstream", upstream.check(settings)),
        ("login.oidc", login.check(settings)),
        ("alerts", alerts.check(settings)),
    ]
    deadline = asyncio.get_running_loop().time() + seconds
    found = await asyncio.gather(*(_in_time(name, part, deadline, seconds) for name, part in parts))
    redis = settings.redis.get_secret_value() if settings.redis else ""
    clean = Redactor(secrets_in(settings, redis)).clean
    return [
        Finding(finding.check, finding.status, clean(finding.text), clean(finding.remedy))
        for findings in found
        for finding in findings
    ]


async def _in_time(name: Check, part: _Part, deadline: float, seconds: float) -> list[Finding]:
    """What a part found by the deadline. One that fails or does not end says so, and hides nothing that was found."""
    found: list[Finding] = []

    async def gather() -> None:
        async with aclosing(part):  # type: ignore[type-var]  # all are async generators
            async for finding in part:
                found.append(finding)  # noqa: PERF401 - what came before the deadline is kept

    task = asyncio.create_task(gather())
    loop = asyncio.get_running_loop()
    done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - loop.time()))
    if not done:
        found.append(warning(name, f"not finished within {seconds:.0f} s", "Look at what was not found out above"))
        task.cancel()
        await asyncio.wait({task}, timeout=_CLOSING_S)
    elif (error := task.exception()) is not None:
        what = f"the check itself failed ({type(error).__name__})"
        found.append(warning(name, what, "Report it with the output of `quotapool --version`"))
    return found


__all__ = ["Finding", "Status", "Subject", "examine"]
