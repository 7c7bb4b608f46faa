"""How a command reaches the pool's keys: attached to the store, with the configured keys and those of the vault."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps

from quotapool.cli.errors import fail, warn
from quotapool.cli.options import with_settings
from quotapool.cli.store_access import run_with_store
from quotapool.domain.observer import Observer
from quotapool.keys.keyring import secrets_in
from quotapool.keys.master_keys import NoMasterKey
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import Vault, VaultChanged, VaultLocked
from quotapool.ledger.budgets import Ledger
from quotapool.observe.redaction import Redactor
from quotapool.operators.keys import InvalidKey, KeyConflict, KeyOperations, KeyRejected, UnknownKey
from quotapool.operators.overview import Overview
from quotapool.settings import Settings
from quotapool.store.store import Store


class _TerminalLog:
    """For KeySources: its log messages as lines on standard error."""

    @staticmethod
    def warning(event: str) -> None:
        warn(event)

    error = warning


async def _open_keys(settings: Settings, store: Store) -> KeyOperations:
    """Raises StoreLost."""
    redactor = Redactor(secrets_in(settings, ""))
    sources = KeySources(Vault(store, settings.pool), settings, on_secret=redactor.add, log=_TerminalLog())
    await sources.read()
    ledger = Ledger(store, settings.pool, patience_s=3.0, observer=Observer())
    return KeyOperations(Overview(sources.merged(), ledger), sources, redactor)


def run_with_keys(settings: Settings, command: Callable[[KeyOperations], Awaitable[int]]) -> int:
    """Run `command`; its exit code, or 2 with the reason if it cannot be done."""

    async def with_store(store: Store) -> int:
        try:
            return await command(await _open_keys(settings, store))
        except UnknownKey as error:
            return fail(f"no key {str(error)!r} in the pool; `quotapool keys list` shows them")
        except KeyRejected as error:
            return fail(f"{error}. The key was not added; --no-check adds it anyway")
        except (InvalidKey, KeyConflict, NoMasterKey, VaultLocked, VaultChanged) as error:
            return fail(str(error))

    return run_with_store(settings, with_store)


def with_keys(run: Callable[..., Awaitable[int]]) -> Callable[..., None]:
    """A command of `run`, whose arguments are the pool's keys and its options."""

    @with_settings
    @wraps(run)
    def command(settings: Settings, **options: object) -> int:
        return run_with_keys(settings, partial(run, **options))

    return command
