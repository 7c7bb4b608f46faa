"""The supervisor: owns the sockets, the store, the workers and the admin listener; reloads them; serves no client."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec
import structlog
import uvloop
from aiohttp import web

from quotapool import __version__, build
from quotapool.admin.advice_handlers import AdviceHandlers
from quotapool.admin.api import AdminApi
from quotapool.admin.listener import admin_app
from quotapool.admin.metrics_page import MetricsPage
from quotapool.admin.now_handlers import NowHandlers
from quotapool.advice.digests import digest_key
from quotapool.app.alerting import Alerting
from quotapool.app.background import BackgroundTasks
from quotapool.app.caching import cache_root
from quotapool.app.collector import collect_rarely, keep_what_is_built, keeping_what_is_built
from quotapool.app.credit_watch import CreditWatch
from quotapool.app.file_limit import raise_file_limit
from quotapool.app.logins import build_logins
from quotapool.app.openai_sync import OpenAISync
from quotapool.app.outside_watching import OutsideWatching
from quotapool.app.pricing import Pricing
from quotapool.app.probing import Probing
from quotapool.app.process_usage import ProcessUsage
from quotapool.app.sampling import Sampling
from quotapool.app.service_manager import notify
from quotapool.app.startup import CannotStart, Resources, open_resources, stamps
from quotapool.app.worker_pipe import Configure
from quotapool.app.workers import Workers
from quotapool.dashboard.files import Files
from quotapool.dashboard.stream import Stream
from quotapool.domain.observer import Observer
from quotapool.keys.keyring import secrets_in
from quotapool.ledger.budgets import Ledger, StoreUnavailable
from quotapool.money.credit_control import CreditStatus
from quotapool.money.spend_store import SpendStore
from quotapool.observe import logs
from quotapool.observe.redaction import Redactor, to_be_listed
from quotapool.observe.samples import SampleStore
from quotapool.operators.keys import KeyOperations
from quotapool.operators.overview import Overview
from quotapool.reports.now import NowReader
from quotapool.settings import ConfigError, Settings, changed_sections, for_workers, to_wire, waiting_for_restart
from quotapool.store.store import StoreError

_log = structlog.get_logger()
_CHECK_FILES_S: Final = 1.0

_Work = Callable[[], Coroutine[Any, Any, None]]


class Supervisor:
    """All parts of the supervising process. `load` reads the configuration again, for reloads."""

    def __init__(self, resources: Resources, load: Callable[[], Settings]) -> None:
        settings = self.settings = resources.sources.merged()  # with the vault's keys
        self._resources = resources
        self._load = load
        self._phase = "starting"
        self._stopped = asyncio.Event()
        self._wanted: dict[_Work, None] = {}  # reloads that are due, each once
        self._woken = asyncio.Event()
        self._reconfiguring = asyncio.Lock()  # one new configuration after the other
        self._started_with = settings
        self._after_restart: list[str] = []  # options whose new value waits for a restart
        ledger = Ledger(
            resources.store, settings.pool, patience_s=min(1.0, settings.store_patience), observer=Observer()
        )
        self._openai = OpenAISync(resources.admin_store, lambda: self.settings, partial(self._want, self._apply_limits))
        self._overview = Overview(settings, ledger)
        metrics = self._overview.metrics
        self._usage = ProcessUsage(metrics)
        self._probing = Probing(settings, ledger, resources.redactor, self._overview.roster, metrics)
        self._workers = Workers(
            settings.workers,
            resources.listener,
            resources.metrics_dir,
            self._configuration(),
            lambda reason: metrics.worker_restarts[reason].inc(),
        )
        self._pricing = Pricing(settings.prices, self._workers.broadcast)
        self._credit = CreditWatch(self._overview.credit, metrics, self._workers.broadcast)
        self._alerting = Alerting(
            settings, self._overview, self._credit, resources.redactor.clean, lambda: self._openai.key_ends
        )
        samples = SampleStore(resources.store, settings.pool, secrets.token_hex(8))
        self._sampling = Sampling(self._overview, samples, lambda: self._workers.waiting)
        self._outside = OutsideWatching(self._overview)
        self._background = BackgroundTasks()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                await self._overview.start()
            except StoreError as error:
                raise CannotStart(f"redis: {error}") from error
            stack.push_async_callback(self._probing.close)
            await self._open_admin_listener(stack)
            resources = self._resources
            resources.commands.ready(lambda: resources.sources.configured, self._started_with, resources.store_url)
            stack.callback(resources.commands.stopping)
            self._handle_signals()
            await self._alerting.start()
            self._start_background_tasks()
            await self._unless_stopped(self._workers.start())
            if not self._stopped.is_set():
                self._phase = ""
                self._log_ready()
                notify("READY=1")
                keep_what_is_built()
                await self._reload_until_stopped()
            notify("STOPPING=1")
            await self._background.stop()
            await self._alerting.stop()
            await self._sampling.stop()
            await self._outside.stop()
            self._phase = "draining"
            _log.info("draining", open_for_at_most_s=self.settings.drain_timeout)
            self._resources.listener.close()
            await self._workers.drain(self.settings.drain_timeout)
            _log.info("stopped")

    # ---- start

    async def _open_admin_listener(self, stack: contextlib.AsyncExitStack) -> None:
        resources = self._resources
        keys = KeyOperations(self._overview, resources.sources, resources.redactor)
        apply = partial(self._kept, self._apply_changed_keys)
        samples = SampleStore(resources.admin_store, self.settings.pool)
        reader = NowReader(keys, samples, self._credit_status)
        spend = SpendStore(resources.admin_store, self.settings.pool)
        now = NowHandlers(reader, samples, spend, lambda: self._pricing.price_list)
        advice = AdviceHandlers(
            lambda: self.settings,
            resources.admin_store,
            self._overview.ledger.stored,
            lambda: self._pricing.price_list,
        )
        logins = build_logins(resources, keys)
        api = AdminApi(
            keys,
            resources.admin_store,
            self._probing.prober.probe_now,
            apply,
            now,
            advice,
            record=logins.audit.record,
            after_restart=lambda: self._after_restart,
        )
        stack.push_async_callback(api.close)
        stream = Stream(resources.admin_store, self.settings.pool, reader.read)
        app = admin_app(
            access=logins.access,
            metrics=MetricsPage(self._overview.metrics, self._refresh_metrics, resources.metrics_dir).body,
            why_not_ready=self._why_not_ready,
            why_unhealthy=self._why_unhealthy,
            handlers={**api.handlers(), **logins.handlers},
            around=logins.recorder,
            hosts=self._admin_hosts,
            pages=(logins.pages, Files().add_to, stream.add_to),
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(stream.close)
        await web.SockSite(runner, resources.admin_listener).start()

    async def _credit_status(self) -> CreditStatus:
        """The latest that was assessed. Raises StoreError."""
        standing = self._credit.standing
        return standing if standing is not None else await self._overview.credit.assess(datetime.now(UTC))

    async def _refresh_metrics(self) -> None:
        metrics = self._overview.metrics
        metrics.workers.set(self._workers.alive)
        metrics.workers_configured.set(self._workers.count)
        await asyncio.to_thread(self._usage.show, self._workers.pids)
        metrics.locked_keys.set(len(self._resources.sources.missing))
        await self._overview.refresh_metrics()

    def _why_not_ready(self) -> str:
        return self._phase or ("" if self._workers.alive else "no worker is alive")

    def _why_unhealthy(self) -> str:
        return "every worker hangs" if not self._phase and self._workers.all_hang else ""

    def _admin_hosts(self) -> set[str]:
        host = self.settings.admin_listen.host
        return {*self.settings.allowed_hosts, f"[{host}]" if ":" in host else host}

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._want, self._reload_configuration)

    def _start_background_tasks(self) -> None:
        """Before the workers: prices are compiled while these start."""
        background = self._background
        background.start("prices", self._pricing.run)
        background.start("credit", self._credit.run)
        background.start("alerts", self._alerting.run)
        background.start("samples", self._sampling.run)
        background.start("outside use", self._outside.run)
        background.start("OpenAI's own data", self._openai.run)
        background.start("probes", self._probing.prober.run)
        background.start("configuration files", self._watch_files)
        keys_changed = partial(self._want, self._apply_changed_keys)
        background.start("keys added at run time", partial(self._resources.sources.watch, keys_changed))

    def _log_ready(self) -> None:
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
            build=f"{__version__}, {build.describe()}",
        )

    # ---- what causes a reload

    async def _watch_files(self) -> None:
        """Kubernetes swaps symlinks, editors replace files: what counts is what the path leads to now."""
        seen = stamps(self.settings.files)
        while True:
            await asyncio.sleep(_CHECK_FILES_S)
            now = stamps(self.settings.files)
            if now != seen:
                seen = now
                self._want(self._reload_configuration)

    def _want(self, reload: _Work) -> None:
        self._wanted[reload] = None
        self._woken.set()

    def _stop(self) -> None:
        self._stopped.set()
        self._woken.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work`, until it is to be stopped."""
        task, stopped = asyncio.create_task(work), asyncio.create_task(self._stopped.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            task.result()
        task.cancel()

    async def _reload_until_stopped(self) -> None:
        while not self._stopped.is_set():
            await self._woken.wait()
            self._woken.clear()
            while self._wanted and not self._stopped.is_set():
                reload = next(iter(self._wanted))
                del self._wanted[reload]
                await self._unless_stopped(self._kept(reload))

    # ---- reload

    @staticmethod
    async def _kept(reload: _Work) -> None:
        with keeping_what_is_built():
            await reload()

    async def _reload_configuration(self) -> None:
        try:
            new = await asyncio.to_thread(self._load)
        except ConfigError as error:
            self._overview.metrics.config_reloads["refused"].inc()
            _log.error("the new configuration is refused, the old one stays", problem=str(error))
            return
        await self._redact_new_secrets(new)
        for warning in new.warnings:
            if warning not in self.settings.warnings:
                _log.warning(warning)
        with contextlib.suppress(StoreError):
            await self._resources.sources.reload(new)
        async with self._reconfiguring:
            new = self._resources.sources.merged()
            changed = await asyncio.to_thread(changed_sections, self.settings, new)
            waiting = sorted(await asyncio.to_thread(waiting_for_restart, self.settings, new))
            self._after_restart = sorted(await asyncio.to_thread(waiting_for_restart, self._started_with, new))
            await self._apply(new)
        self._overview.metrics.config_reloads["ok"].inc()
        _log.info("configuration reloaded", changed=sorted(changed), after_restart=waiting)

    async def _apply_changed_keys(self) -> None:
        """The vault has changed. That is handled like a reload, so that no request is dropped."""
        async with self._reconfiguring:
            new = self._resources.sources.merged()
            if not await asyncio.to_thread(changed_sections, self.settings, new):
                return
            before, after = ({key.id for key in settings.keys} for settings in (self.settings, new))
            await self._apply(new)
        _log.info("keys changed", added=len(after - before), gone=len(before - after), keys=len(after))

    async def _apply_limits(self) -> None:
        """The imported limits have changed."""
        async with self._reconfiguring:
            await self._overview.reload(self._with_imported_limits())
            await self._reload_workers()

    async def _apply(self, new: Settings) -> None:
        await self._redact_new_secrets(new)
        self.settings = new
        await self._overview.reload(self._with_imported_limits())
        await self._probing.reload(self._with_imported_limits())
        self._openai.reload()
        self._pricing.reload(new.prices)
        await self._alerting.reload(new)
        try:
            await self._overview.reset_changed_keys()
        except StoreUnavailable:
            _log.warning("the store is unavailable; keys whose secret changed are reset when it is back")
        await self._reload_workers()

    async def _reload_workers(self) -> None:
        await self._workers.reload(await asyncio.to_thread(self._configuration))

    async def _redact_new_secrets(self, new: Settings) -> None:
        for secret in await asyncio.to_thread(to_be_listed, _secrets_of(new), _secrets_of(self.settings)):
            self._resources.redactor.add(secret)

    def _with_imported_limits(self) -> Settings:
        return self._openai.with_imported_limits(self.settings)

    def _configuration(self) -> Configure:
        """The settings of the moment as a message for the workers."""
        settings, resources = to_wire(for_workers(self._with_imported_limits())), self._resources
        configured, hide = resources.sources.configured, resources.redactor.add
        return Configure(
            msgspec.Raw(settings),
            resources.store_url,
            str(resources.metrics_dir),
            cache_root(configured, hide),
            digest_key(configured, hide),
        )


def _secrets_of(settings: Settings) -> Iterator[str]:
    return secrets_in(settings, settings.redis.get_secret_value() if settings.redis else "")


async def _run(settings: Settings, load: Callable[[], Settings]) -> None:
    redactor = Redactor(_secrets_of(settings))
    log = logs.configure(settings.log.level, settings.log.format, redactor)
    # A stop ends a start at once, whatever that waits for; `Supervisor` handles signals itself later.
    if (starting := asyncio.current_task()) is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, starting.cancel)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(log.writer.flush)
        resources = await open_resources(settings, redactor, stack)
        await Supervisor(resources, load).run()


def serve(settings: Settings, load: Callable[[], Settings]) -> int:
    """Run until stopped by a signal; the process's exit code."""
    collect_rarely()
    raise_file_limit()
    try:
        uvloop.run(_run(settings, load))
    except CannotStart as error:
        sys.stderr.write(f"quotapool: {error}\n")
        return 2
    except asyncio.CancelledError:  # stopped before it was ready
        return 0
    return 0
