"""How a command reaches the store and the pool's keys.

The store: the configured one, the running proxy's embedded one, or one of its own, which is said. Keys: the configured
ones and the vault's. What a command changes is recorded here, with the name of whoever runs it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial, wraps
from typing import Any, Final

import structlog

from quotapool.app.command_socket import Answer, NotAllowed, Silent
from quotapool.cli.errors import fail, warn
from quotapool.cli.options import with_settings
from quotapool.cli.running import NoSettings, at_once, is_same_pool, look, not_allowed, refuse_root
from quotapool.domain.actor import Actor
from quotapool.domain.observer import Observer
from quotapool.keys.keyring import secrets_in
from quotapool.keys.master_keys import NoMasterKey
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import Vault, VaultChanged, VaultLocked
from quotapool.ledger.budgets import Ledger, StoreUnavailable
from quotapool.ledger.replicas import count_alive
from quotapool.login.audit import Audit
from quotapool.observe.redaction import Redactor
from quotapool.operators.keys import InvalidKey, KeyConflict, KeyOperations, KeyRejected, UnknownKey
from quotapool.operators.overview import Overview
from quotapool.operators.snapshots import Snapshots, told
from quotapool.settings import Settings
from quotapool.store.embedded import StateDirBusy, attach_url, serving_process, temporary
from quotapool.store.runtime_dir import RuntimeDirUnsafe
from quotapool.store.store import Store, StoreError, connect
from quotapool.store.valkey_process import EmbeddedFailed

_KEPT: Final = "is here for when one is started with the same configuration"


@asynccontextmanager
async def store_of(settings: Settings) -> AsyncIterator[Store]:
    """The pool's store, for the duration of one command, of which only errors are logged."""
    ca_file = str(settings.ca_file) if settings.ca_file else None
    async with AsyncExitStack() as stack:
        stack.callback(structlog.configure, **structlog.get_config())  # whoever calls a command keeps its own log
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        answer = _proxy_of(settings)
        url = settings.redis.get_secret_value() if settings.redis else _running_store(settings, answer)
        if url is None:
            url = await stack.enter_async_context(temporary(settings.state_dir, log=structlog.get_logger()))
        store = connect(url, timeout_s=2.0, ca_file=ca_file)
        stack.push_async_callback(store.close)
        if settings.redis and not (answer and is_same_pool(answer.head, settings)):
            await _say_if_nobody_serves(settings, store)
        yield store


def _proxy_of(settings: Settings) -> Answer | None:
    """The proxy on this state_dir, if it can be asked. Raises NoSettings."""
    if settings.redis:
        return at_once(settings.state_dir)
    try:
        return look(settings.state_dir)
    except NotAllowed as error:
        raise NoSettings(not_allowed(settings.state_dir)) from error
    except Silent:
        return None  # its store may be reached all the same


def _running_store(settings: Settings, answer: Answer | None) -> str | None:
    """The URL of the embedded store that runs; None: a command has to start it. Says so if no proxy has it."""
    if answer is not None and answer.head.embedded_url:
        return answer.embedded_url
    url = attach_url(settings.state_dir)  # also one that outlived its proxy, and waits for the next
    if url is None or serving_process(settings.state_dir) is None:
        refuse_root(settings.state_dir)
        warn(f"no proxy runs on {settings.state_dir}. What its store has of the pool {settings.pool} {_KEPT}")
    return url


async def _say_if_nobody_serves(settings: Settings, store: Store) -> None:
    """A shared store answers whether or not a proxy uses it."""
    with suppress(StoreError):  # the command itself reports it
        if not await count_alive(store, settings.pool):
            warn(f"no proxy serves the pool {settings.pool} at {store.describe()}. What that store has of it {_KEPT}")


def run_with_store(settings: Settings, command: Callable[[Store], Awaitable[int]]) -> int:
    """Run `command`; its exit code, or 2 with the reason if the store cannot be reached."""

    async def main() -> int:
        async with store_of(settings) as store:
            return await command(store)

    try:
        return asyncio.run(main())
    except StateDirBusy as error:
        return fail(
            f"{settings.state_dir} is in use{f' by process {error.pid}' if error.pid else ''}; try again in a moment"
        )
    except (NoSettings, StoreError, StoreUnavailable, EmbeddedFailed, RuntimeDirUnsafe) as error:
        return fail(str(error))
    except BrokenPipeError:  # of whoever reads our output
        raise
    except OSError as error:
        return fail(f"{settings.state_dir}: {error.strerror or error}")


def with_store(run: Callable[..., Awaitable[int]]) -> Callable[..., None]:
    """A command of `run`, whose arguments are the configuration, the store and its options."""

    @with_settings
    @wraps(run)
    def command(settings: Settings, **options: object) -> int:
        return run_with_store(settings, partial(run, settings, **options))

    return command


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


# ---- records of what commands change


def command_actor() -> Actor:
    """Who runs this command: the user that the kernel names, not one that the environment does, and the machine."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"uid-{os.getuid()}"
    return Actor(f"{user}@{socket.gethostname()}"[:128], "operator", "command")


def audit_of(settings: Settings, store: Store) -> Audit:
    """Where commands record what they change."""
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Audit(store, settings.pool, settings.state_dir, Redactor(secrets_in(settings, "")))


async def record(
    settings: Settings, store: Store, action: str, subject: str, changes: Mapping[str, Any] | None = None
) -> None:
    """Record what this command did. `action` is the name of the admin API's route that does the same."""
    await audit_of(settings, store).record(command_actor(), action, subject, changes or {})


async def recorded(
    settings: Settings,
    store: Store,
    action: str,
    subject: str,
    run: Callable[[], Awaitable[int]],
    *,
    keys: KeyOperations | None = None,
) -> int:
    """The exit code of `run`, which does something to `subject`; recorded if it did, with what is different now."""
    snapshots = Snapshots(lambda: settings, store, keys)
    before = await snapshots.of(subject)
    code = await run()
    changes = told(subject, before, await snapshots.of(subject))
    if code == 0 or changes:
        await record(settings, store, action, subject, changes)
    return code
