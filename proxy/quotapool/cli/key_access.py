"""A command at the operators' desk: attached to the store, with the configured keys and the vault's."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

from quotapool.cli.store_access import run_with_store
from quotapool.domain.observer import Observer
from quotapool.keys.keyring import secrets_in
from quotapool.keys.master_keys import NoMasterKey
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import Vault, VaultChanged, VaultLocked
from quotapool.ledger.budgets import Ledger
from quotapool.observe.redaction import Redactor
from quotapool.operators.keys import Clash, KeyOperations, Rejected, Unfit, Unknown
from quotapool.operators.overview import Overview
from quotapool.settings import Settings
from quotapool.store.store import Store


class _People:
    """Warnings for whoever sits before the terminal; standard output is for answers."""

    @staticmethod
    def warning(event: str) -> None:
        sys.stderr.write(f"quotapool: {event}\n")

    error = warning


async def open_desk(settings: Settings, store: Store) -> KeyOperations:
    """Raises StoreLost."""
    redactor = Redactor(secrets_in(settings, ""))
    sources = KeySources(Vault(store, settings.pool), settings, know=redactor.add, log=_People())
    await sources.read()
    ledger = Ledger(store, settings.pool, patience_s=3.0, observer=Observer())
    return KeyOperations(Overview(sources.merged(), ledger), sources, redactor)


def run_at_desk(settings: Settings, command: Callable[[KeyOperations], Awaitable[int]]) -> int:
    """Run `command`; its exit code, or 2 with a message for what cannot be done."""

    async def with_store(store: Store) -> int:
        try:
            return await command(await open_desk(settings, store))
        except Unknown as error:
            return fail(f"no key {str(error)!r} in the pool; `quotapool keys list` shows them")
        except Rejected as error:
            return fail(f"{error}. The key was not added; --no-check adds it all the same")
        except (Unfit, Clash, NoMasterKey, VaultLocked, VaultChanged) as error:
            return fail(str(error))

    return run_with_store(settings, with_store)


def fail(message: str) -> int:
    """Exit code 2, with a message."""
    sys.stderr.write(f"quotapool: {message}\n")
    return 2
