"""The supervisor: owns the sockets, the embedded store, the workers and the operators' listener. Serves no client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
import uvloop
from aiohttp import web

from quotapool.app.alerting import Alerting
from quotapool.app.background import BackgroundTasks
from quotapool.app.credit_watch import CreditWatch
from quotapool.app.openai_sync import OpenAISync
from quotapool.app.pricing import Pricing
from quotapool.app.probing import Probing
from quotapool.app.startup import CannotStart, admin_token, bind, make_state_dir, stamps
from quotapool.app.worker_pipe import Configure
from quotapool.app.workers import Workers
from quotapool.domain.observer import Observer
from quotapool.keys.keyring import secrets_in
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import Vault
from quotapool.ledger.budgets import Ledger, StoreUnavailable
from quotapool.ledger.clients import ClientStore
from quotapool.observe import logs, shared_values
from quotapool.observe.metrics_dir import metrics_dir
from quotapool.observe.redaction import Redactor
from quotapool.operators.admin_api import AdminApi
from quotapool.operators.keys import KeyOperations
from quotapool.operators.listener import operators_app
from quotapool.operators.overview import Overview
from quotapool.settings import ConfigError, Settings, changed_sections, for_workers, to_wire, waiting_for_restart
from quotapool.store.embedded import EmbeddedValkey, StateDirBusy
from quotapool.store.runtime_dir import RuntimeDirUnsafe
from quotapool.store.store import Store, StoreError, StoreLost, connect, verify
from quotapool.store.valkey_process import EmbeddedFailed

_log = structlog.get_logger()
_LOOK_AT_FILES_S: Final = 1.0
_STORE_COMES_UP_S: Final = 15.0
_OPERATORS_STORE_S: Final = 5.0  # for whole vaults; no client waits for it


class Supervisor:
    """`load` reads the configuration again, for reloads."""

    def __init__(self, settings: Settings, load: Callable[[], Settings]) -> None:
        self.settings = settings
        self._load = load
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._keys_moved = asyncio.Event()
        self._limits_moved = asyncio.Event()
        self._says: OpenAISync | None = None
        self._taking = asyncio.Lock()  # one new configuration after the other
        self._sources: KeySources | None = None
        self._operators_store: Store | None = None
        self._phase = "starting"
        self._redactor = Redactor()
        self._stack = contextlib.AsyncExitStack()
        self._redis = ""
        self._crew: Workers | None = None
        self._overview: Overview | None = None
        self._pricing: Pricing | None = None
        self._herald: Alerting | None = None
        self._probing: Probing | None = None
        self._metrics_dir = Path()
        self._duties = BackgroundTasks()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises CannotStart."""
        settings = self.settings
        self._know_secrets(settings)
        log = logs.configure(settings.log.level, settings.log.format, self._redactor)
        async with self._stack:
            self._stack.callback(log.writer.flush)
            listener = bind("listen", settings.listen, self._stack)
            operators = bind("admin_listen", settings.admin_listen, self._stack)
            make_state_dir(settings.state_dir)
            token = admin_token(settings)
            self._redactor.add(token)
            store = await self._open_store()
            await self._open_vault()
            settings = self.settings  # with the vault's keys
            await self._check_clients(store)
            self._metrics_dir = self._stack.enter_context(metrics_dir())
            shared_values.prepare(self._metrics_dir)
            ledger = Ledger(store, settings.pool, patience_s=min(1.0, settings.store_patience), observer=Observer())
            overview = self._overview = Overview(settings, ledger, self._metrics_dir)
            await overview.begin()
            probing = self._probing = Probing(self._served(), ledger, self._redactor, overview.metrics)
            self._stack.push_async_callback(probing.aclose)
            crew = self._crew = Workers(
                settings.workers, listener, self._metrics_dir, self._message(), overview.metrics.worker_restarts.inc
            )
            await self._open_operators(operators, token)
            self._listen_to_signals()
            await self._begin_duties(overview, crew, probing, self._operators_store or store)
            await crew.start()
            self._phase = ""
            self._say_ready()
            await self._until_told_to_stop(overview, crew)
            await self._duties.end()
            if self._herald is not None:
                await self._herald.stop()
            self._phase = "draining"
            _log.info("draining", open_for_at_most_s=self.settings.drain_timeout)
            listener.close()
            await crew.drain(self.settings.drain_timeout)
            _log.info("stopped")

    async def _begin_duties(self, overview: Overview, crew: Workers, probing: Probing, store: Store) -> None:
        """All that is looked after beside the workers. Prices are compiled while these start."""
        pricing = self._pricing = Pricing(crew.tell)
        pricing.configure(self.settings.prices)
        told = self._says = OpenAISync(store, lambda: self.settings, self._limits_moved.set)
        treasury = CreditWatch(overview.treasurer, overview.metrics, crew.tell)
        herald = self._herald = Alerting(self.settings, overview, treasury, self._redactor.clean, lambda: told.key_ends)
        await herald.begin()
        duties = self._duties
        duties.begin("prices", pricing.run)
        duties.begin("credit", treasury.run)
        duties.begin("alerts", herald.run)
        duties.begin("what OpenAI says", told.run)
        duties.begin("probes", probing.prober.run)
        duties.begin("configuration files", self._watch_files)
        duties.begin("keys at run time", self._watch_vault)

    async def _until_told_to_stop(self, overview: Overview, crew: Workers) -> None:
        while not self._stop.is_set():
            await _first_of(self._stop, self._reload, self._keys_moved, self._limits_moved)
            if self._stop.is_set():
                return
            if self._reload.is_set():
                self._reload.clear()
                await self._take_new_configuration()
            if self._keys_moved.is_set():
                self._keys_moved.clear()
                await self._take_keys()
            if self._limits_moved.is_set():
                self._limits_moved.clear()
                overview.reload(self._served())
                await crew.reload(self._message())

    # ---- start

    def _know_secrets(self, settings: Settings) -> None:
        for secret in secrets_in(settings, settings.redis.get_secret_value() if settings.redis else ""):
            self._redactor.add(secret)

    def _served(self) -> Settings:
        """The settings with the limits that OpenAI told."""
        return self.settings if self._says is None else self._says.over(self.settings)

    def _message(self) -> Configure:
        return Configure(to_wire(for_workers(self._served())).decode(), self._redis, str(self._metrics_dir))

    async def _open_store(self) -> Store:
        settings = self.settings
        if settings.redis is not None:
            self._redis = settings.redis.get_secret_value()
        else:
            embedded = EmbeddedValkey(settings.state_dir, log=_log)
            try:
                self._redis = await embedded.start()
            except (StateDirBusy, EmbeddedFailed, RuntimeDirUnsafe, OSError) as error:
                raise CannotStart(str(error)) from error
            self._stack.push_async_callback(embedded.stop)
            watching = asyncio.create_task(embedded.watch())
            self._stack.callback(watching.cancel)
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                _log.warning(
                    "no redis: is set, so this pod keeps budgets of its own; N pods would spend N times the budget",
                    docs="docs/operations.md#the-store-is-not-shared",
                )
        store = connect(self._redis, ca_file=str(settings.ca_file) if settings.ca_file else None)
        self._stack.push_async_callback(store.close)
        deadline = time.monotonic() + _STORE_COMES_UP_S
        while True:
            try:
                facts = await verify(store)
            except StoreLost as lost:
                if time.monotonic() > deadline:
                    raise CannotStart(f"redis: {store.describe()} does not answer ({lost.reason})") from lost
                await asyncio.sleep(0.2)
                continue
            except StoreError as unfit:
                raise CannotStart(f"redis: {unfit}") from unfit
            _log.info("store", at=store.describe(), server=facts.name, version=facts.version)
            return store

    async def _open_vault(self) -> None:
        """From here on `settings` has the keys that were added at run time, too."""
        ca_file = str(self.settings.ca_file) if self.settings.ca_file else None
        store = self._operators_store = connect(self._redis, timeout_s=_OPERATORS_STORE_S, ca_file=ca_file)
        self._stack.push_async_callback(store.close)
        sources = self._sources = KeySources(Vault(store, self.settings.pool), self.settings, know=self._redactor.add)
        with contextlib.suppress(StoreError):  # the ledger says so, and the watch tries again
            await sources.read()
        self.settings = sources.merged()

    async def _check_clients(self, store: Store) -> None:
        problem = self.settings.bind_problem()
        if problem is not None and not await ClientStore(store, self.settings.pool).all():
            raise CannotStart(problem)

    async def _open_operators(self, listener: socket.socket, token: str) -> None:
        overview = self._overview
        if overview is None:
            return

        async def metrics() -> tuple[bytes, str]:
            overview.metrics.workers.set(self._crew.alive if self._crew else 0)
            overview.metrics.locked_keys.set(len(self._sources.missing) if self._sources else 0)
            return await overview.page()

        def ready() -> str:
            return self._phase or ("" if self._crew and self._crew.alive else "no worker is alive")

        if self._sources is None or self._operators_store is None:
            return
        desk = KeyOperations(
            overview, self._sources, self._redactor, self._probing.prober.probe_now if self._probing else None
        )
        answers = AdminApi(desk, self._operators_store, self._take_keys)
        app = operators_app(
            token=token, metrics=metrics, ready=ready, answerers=answers.by_name(), hosts=self._operators_hosts
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener).start()

    def _operators_hosts(self) -> set[str]:
        host = self.settings.admin_listen.host
        return {*self.settings.allowed_hosts, f"[{host}]" if ":" in host else host}

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)

    def _say_ready(self) -> None:
        s = self.settings
        for warning in s.warnings:
            _log.warning(warning)
        _log.info(
            "ready",
            base_url=f"{'http' if s.tls is None else 'https'}://{s.listen}/v1",
            metrics=f"http://{s.admin_listen}/metrics",
            keys=len(s.keys),
            accounts=len({key.account for key in s.keys}),
            workers=s.workers,
        )

    # ---- reload

    async def _watch_files(self) -> None:
        """Kubernetes swaps symlinks, editors replace files: what counts is what the path leads to now."""
        seen = stamps(self.settings.files)
        while True:
            await asyncio.sleep(_LOOK_AT_FILES_S)
            now = stamps(self.settings.files)
            if now != seen:
                seen = now
                self._reload.set()

    async def _watch_vault(self) -> None:
        if self._sources is not None:
            await self._sources.watch(self._keys_moved.set)

    async def _take_keys(self) -> None:
        """The vault has changed. What comes of it goes the way of a reload, so that no request is dropped."""
        if self._overview is None or self._crew is None or self._sources is None:
            return
        async with self._taking:
            new = self._sources.merged()
            if new == self.settings:
                return
            before, after = ({key.id for key in settings.keys} for settings in (self.settings, new))
            await self._take(new)
        _log.info("keys changed", added=len(after - before), gone=len(before - after), keys=len(after))

    async def _take_new_configuration(self) -> None:
        if self._overview is None or self._crew is None:
            return
        try:
            new = self._load()
        except ConfigError as error:
            self._overview.metrics.config_reloads["refused"].inc()
            _log.error("the new configuration is refused, the old one stays", problem=str(error))
            return
        self._know_secrets(new)
        if self._sources is not None:
            with contextlib.suppress(StoreError):
                await self._sources.take(new)
        async with self._taking:
            if self._sources is not None:
                new = self._sources.merged()
            changed = changed_sections(self.settings, new)
            waiting = sorted(waiting_for_restart(self.settings, new))
            await self._take(new)
        self._overview.metrics.config_reloads["ok"].inc()
        _log.info("configuration reloaded", changed=sorted(changed), after_restart=waiting)

    async def _take(self, new: Settings) -> None:
        if self._overview is None or self._crew is None:
            return
        self.settings = new
        self._know_secrets(new)
        self._overview.reload(self._served())
        if self._probing is not None:
            await self._probing.take(self._served())
        if self._says is not None:
            self._says.reload()
        if self._pricing is not None:
            self._pricing.configure(new.prices)
        if self._herald is not None:
            await self._herald.reload(new)
        try:
            await self._overview.start_changed_keys_anew()
        except StoreUnavailable:
            _log.warning("the store is away; keys whose secret changed start anew when it is back")
        await self._crew.reload(self._message())


async def _first_of(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def serve(settings: Settings, load: Callable[[], Settings]) -> int:
    """Run until told to stop; the process's exit code."""
    try:
        uvloop.run(Supervisor(settings, load).run())
    except CannotStart as error:
        sys.stderr.write(f"quotapool: {error}\n")
        return 2
    return 0
