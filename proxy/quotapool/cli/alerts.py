"""`quotapool alerts test`: one alert to each target, and what each said."""

from __future__ import annotations

import asyncio
import sys
import time

from quotapool.alerts.delivery import Target, targets_of
from quotapool.alerts.message import compose
from quotapool.alerts.webhook import NotDelivered
from quotapool.domain.alert import Alert, AlertKind, Severity
from quotapool.keys.keyring import secrets_in
from quotapool.observe.redaction import Redactor
from quotapool.settings import Settings


def run(settings: Settings) -> int:
    """Exit code 0 where every target took it, 1 where one did not, 2 where there is none."""
    if not settings.alerts.targets:
        sys.stderr.write("quotapool: no alerts.targets in the configuration; docs/alerts.md shows how\n")
        return 2
    clean = Redactor(secrets_in(settings, "")).clean
    targets, problems = targets_of(settings.alerts.targets, str(settings.ca_file) if settings.ca_file else None)
    for problem in problems:
        print(clean(problem))
    taken = asyncio.run(_try_all(settings.pool, targets))
    return 0 if taken and not problems else 1


async def _try_all(pool: str, targets: list[Target]) -> bool:
    words = "This is a test: alerts of this pool reach you."
    message = compose(pool, [Alert(AlertKind.TEST, "pool", words, time.time(), Severity.INFO)])
    taken = True
    for target in targets:
        try:
            await target.channel.deliver(message)
        except NotDelivered as problem:
            taken = False
            print(f"{target.name}: not delivered: {problem}")
        else:
            print(f"{target.name}: delivered")
    return taken
