"""`quotapool alerts test`: sends one alert to each target and shows which of them accepted it."""

from __future__ import annotations

import asyncio
import time

import typer

from quotapool.alerts.delivery import Target, targets_of
from quotapool.alerts.message import compose
from quotapool.alerts.webhook import NotDelivered
from quotapool.cli.errors import fail
from quotapool.cli.options import with_settings
from quotapool.domain.alert import Alert, AlertKind, Severity
from quotapool.keys.keyring import secrets_in
from quotapool.observe.redaction import Redactor
from quotapool.settings import Settings

app = typer.Typer()


@app.command("test")
@with_settings
def test(settings: Settings) -> int:
    """Send one alert to each target and show what happened. Exit code 1 if one did not accept it."""
    if not settings.alerts.targets:
        return fail("no alerts.targets in the configuration; docs/alerts.md shows how to add them")
    clean = Redactor(secrets_in(settings, "")).clean
    targets, problems = targets_of(settings.alerts.targets, settings.ca_file)
    for problem in problems:
        print(clean(problem))
    accepted = asyncio.run(_send_to_all(settings.pool, targets))
    return 0 if accepted and not problems else 1


async def _send_to_all(pool: str, targets: list[Target]) -> bool:
    text = "This is a test: alerts of this pool reach you."
    message = compose(pool, [Alert(AlertKind.TEST, "pool", text, time.time(), Severity.INFO)])
    accepted = True
    for target in targets:
        try:
            await target.channel.deliver(message)
        except NotDelivered as problem:
            accepted = False
            print(f"{target.name}: not delivered: {problem}")
        else:
            print(f"{target.name}: delivered")
    return accepted
