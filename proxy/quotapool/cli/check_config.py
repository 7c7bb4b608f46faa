"""`quotapool serve --check-config`: what `serve` would say of the configuration, without serving."""

from __future__ import annotations

import asyncio

import typer

from quotapool.cli.access import store_of
from quotapool.cli.errors import fail
from quotapool.ledger.clients import ClientStore
from quotapool.settings import Settings
from quotapool.store.embedded import StateDirBusy
from quotapool.store.runtime_dir import RuntimeDirUnsafe
from quotapool.store.store import StoreError
from quotapool.store.valkey_process import EmbeddedFailed


def run(settings: Settings) -> int:
    """Print it; the exit code is 2 if `serve` would refuse to start."""
    for warning in settings.warnings:
        _warn(warning)
    if (problem := settings.bind_problem()) is not None:
        try:
            if not asyncio.run(_has_clients(settings)):
                return fail(problem)
        except (StoreError, StateDirBusy, EmbeddedFailed, RuntimeDirUnsafe, OSError) as error:
            _warn(
                f"listen: {settings.listen} can be reached from other machines, and clients: is empty; `serve` starts "
                f"only if the store has a client's key, and the store cannot be asked now: {error}"
            )
    accounts = {key.account for key in settings.keys}
    found = [_counted(len(settings.keys), "key"), _counted(len(accounts), "account")]
    typer.echo(f"ok: {' in '.join(found)}, {_counted(len(settings.clients), 'client')}")
    return 0


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _warn(message: str) -> None:
    typer.echo(f"warning: {message}", err=True)


async def _has_clients(settings: Settings) -> bool:
    """Whether the store has the key of a client. An embedded store that was never used is not made for that."""
    if settings.redis is None and not (settings.state_dir / "valkey").exists():
        return False
    async with store_of(settings) as store:
        return bool(await ClientStore(store, settings.pool).all())
