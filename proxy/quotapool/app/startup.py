"""What a start opens on this machine: sockets, the state directory, the admin token, the store and the vault's keys."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from quotapool.app.command_server import CommandServer
from quotapool.app.command_socket import NotAllowed, Silent, ask
from quotapool.domain.observer import Observer
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import Vault
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.clients import ClientStore
from quotapool.observe import shared_values
from quotapool.observe.metrics_dir import metrics_dir
from quotapool.observe.redaction import Redactor
from quotapool.settings import Address, Settings
from quotapool.store.embedded import EmbeddedValkey, StateDirBusy
from quotapool.store.runtime_dir import RuntimeDirUnsafe
from quotapool.store.store import Store, StoreError, StoreLost, StoreRefused, connect
from quotapool.store.valkey_process import EmbeddedFailed
from quotapool.store.verify import verify

_log = structlog.get_logger()
_BACKLOG: Final = 4096
_STORE_STARTS_S: Final = 15.0
_RIGHTS: Final = "What a user of the store must be allowed to do: docs/managed-redis.md#rights-in-the-store"
_ADMIN_STORE_S: Final = 5.0  # for whole vaults; no client waits for it


class CannotStart(Exception):
    """Why `quotapool serve` ends with exit code 2, in words for the person who started it."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a start has opened. `store` is for what must be quick, `admin_store` for operators and whole vaults."""

    listener: socket.socket
    admin_listener: socket.socket
    admin_token: str
    redactor: Redactor
    store_url: str
    store: Store
    admin_store: Store
    sources: KeySources
    metrics_dir: Path
    commands: CommandServer


async def open_resources(settings: Settings, redactor: Redactor, stack: contextlib.AsyncExitStack) -> Resources:
    """Open everything, to be closed with `stack`. Raises CannotStart."""
    try:
        listener = bind("listen", settings.listen, stack)
        admin_listener = bind("admin_listen", settings.admin_listen, stack)
    except CannotStart as error:
        raise CannotStart(f"{error}{await asyncio.to_thread(_who_may_listen, settings)}") from error
    make_state_dir(settings.state_dir)
    token = admin_token(settings)
    commands = CommandServer(settings.state_dir)
    stack.push_async_callback(commands.close)  # opened before the store, closed after it: commands wait meanwhile
    await commands.open()
    redactor.add(token)
    store_url = settings.redis.get_secret_value() if settings.redis else await _start_embedded_store(settings, stack)
    store = await _open_store(settings, store_url, stack)
    admin_store = connect(store_url, timeout_s=_ADMIN_STORE_S, ca_file=_ca_file(settings))
    stack.push_async_callback(admin_store.close)
    sources = KeySources(Vault(admin_store, settings.pool), settings, on_secret=redactor.add)
    with contextlib.suppress(StoreError):  # the ledger reports it, and the vault is watched from now on
        await sources.read()
    problem = sources.merged().bind_problem()
    if problem is not None and not await _has_clients(store, settings):
        raise CannotStart(problem)
    directory = stack.enter_context(metrics_dir())
    shared_values.prepare(directory)
    return Resources(
        listener, admin_listener, token, redactor, store_url, store, admin_store, sources, directory, commands
    )


def _who_may_listen(settings: Settings) -> str:
    """A sentence about the proxy that runs on this state_dir already, if it has one of these ports."""
    with contextlib.suppress(NotAllowed, Silent):
        answer = ask(settings.state_dir, with_settings=False, patience_s=1.0)
        ports = {str(settings.listen), str(settings.admin_listen)}
        if answer is not None and ports & {answer.head.listen, answer.head.admin_listen}:
            return f" Yes: the proxy that runs on {settings.state_dir}, process {answer.pid}"
    return ""


def bind(option: str, address: Address, stack: contextlib.AsyncExitStack) -> socket.socket:
    """A listening socket, closed with `stack`. Raises CannotStart."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    stack.callback(sock.close)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address.host, address.port))
        sock.listen(_BACKLOG)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise CannotStart(f"{option}: cannot listen on {address}: {why}. Is another process using it?") from error
    sock.setblocking(False)
    return sock


def make_state_dir(path: Path) -> None:
    """Raises CannotStart."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"state_dir: cannot create {path}: {error.strerror}") from error


def admin_token(settings: Settings) -> str:
    """The configured one, else the one created at the first start, readable by its owner only. Raises CannotStart."""
    if settings.admin_token is not None:
        return settings.admin_token.get_secret_value()
    path = settings.state_dir / "admin-token"
    try:
        with contextlib.suppress(FileNotFoundError):
            if token := path.read_text(encoding="ascii").strip():
                return token
        token = secrets.token_urlsafe(32)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token + "\n")
    except OSError as error:
        raise CannotStart(f"state_dir: cannot keep the admin token in {path}: {error.strerror}") from error
    return token


async def _start_embedded_store(settings: Settings, stack: contextlib.AsyncExitStack) -> str:
    """The URL of an embedded Valkey that lives as long as `stack`. Raises CannotStart."""
    embedded = EmbeddedValkey(settings.state_dir, log=_log)
    try:
        url = await embedded.start()
    except (StateDirBusy, EmbeddedFailed, RuntimeDirUnsafe, OSError) as error:
        raise CannotStart(str(error)) from error
    stack.push_async_callback(embedded.stop)
    watching = asyncio.create_task(embedded.watch())
    stack.callback(watching.cancel)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        _log.warning(
            "no redis: is set, so this pod keeps budgets of its own; N pods would spend N times the budget",
            docs="docs/operations.md#the-store-is-not-shared",
        )
    return url


async def _open_store(settings: Settings, url: str, stack: contextlib.AsyncExitStack) -> Store:
    """A store that answers and can do what is needed; a server that is still starting is waited for. Raises
    CannotStart."""
    store = connect(url, ca_file=_ca_file(settings))
    stack.push_async_callback(store.close)
    ledger = Ledger(store, settings.pool, patience_s=0.0, observer=Observer())
    deadline = time.monotonic() + _STORE_STARTS_S
    while True:
        try:
            facts = await verify(store)
            await ledger.check_rights()
        except StoreLost as lost:
            if lost.is_lasting or time.monotonic() > deadline:
                raise CannotStart(_why_lost(store, lost)) from lost
            await asyncio.sleep(0.2)
            continue
        except StoreRefused as refused:
            raise CannotStart(f"redis: {store.describe()} refuses our scripts: {refused}. {_RIGHTS}") from refused
        except StoreError as error:
            raise CannotStart(f"redis: {error}") from error
        _log.info("store", at=store.describe(), server=facts.name, version=facts.version)
        return store


async def _has_clients(store: Store, settings: Settings) -> bool:
    try:
        return bool(await ClientStore(store, settings.pool).all())
    except StoreError as error:
        raise CannotStart(f"redis: {error}") from error


def _why_lost(store: Store, lost: StoreLost) -> str:
    said = f" {_RIGHTS}" if lost.reason == "permission" else ""
    cannot = "cannot be used" if lost.is_lasting else "does not answer"
    return f"redis: {store.describe()} {cannot} ({lost.reason}): {lost.detail}.{said}".replace("..", ".")


def _ca_file(settings: Settings) -> str | None:
    return str(settings.ca_file) if settings.ca_file else None


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """What changes when a file does, or is replaced."""
    seen = []
    for file in files:
        with contextlib.suppress(OSError):
            found = file.stat()
            seen.append((str(file), found.st_ino, found.st_mtime_ns, found.st_size))
    return seen
