"""The traces of one worker: begun, changed and ended with its configuration."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from quotapool import __version__
from quotapool.observe.reporter import Reporter
from quotapool.pool.configuration import Configuration
from quotapool.settings import Settings
from quotapool.web.handlers import ClientHandler

if TYPE_CHECKING:
    from quotapool.traces.tracing import Tracing

_log = structlog.get_logger()
_LAST_S: Final = 1.0  # for a collector that is slow, or away


class WorkerTraces:
    """Sets what `handler` and `reporter` call. `slot`: which worker it is; `clean` takes secrets out of a text, in any
    thread: `Redactor.word` keeps its results, so one of before a reload might be used after it."""

    def __init__(
        self,
        slot: str,
        handler: ClientHandler,
        reporter: Reporter,
        clean: Callable[[str], str],
        configuration: Configuration,
    ) -> None:
        self._slot = slot
        self._handler = handler
        self._reporter = reporter
        self._clean = clean
        self._configuration = configuration
        self._tracing: Tracing | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    async def prepare(self, settings: Settings) -> None:
        """Import what `configure` needs with these settings, without holding up the loop."""
        if settings.traces.endpoint is not None:
            await asyncio.to_thread(importlib.import_module, "quotapool.traces.tracing")

    def configure(self, settings: Settings) -> None:
        """From now on; what waits for another collector is still sent there. Of requests that are under way when traces
        are turned off, the spans are sent for as long as a stop would wait for them."""
        before, self._tracing = self._tracing, None
        if settings.traces.endpoint is not None:
            tracing = self._tracing = self._opened(settings)
            self._reporter.traced, self._reporter.response_traced = tracing.ended, tracing.response_ended
            if self._slot == "0":
                _log.info("traces are sent", to=settings.traces.url, ratio=settings.traces.ratio)
        self._handler.trace = None if self._tracing is None else self._tracing.begin
        if before is not None:
            ending = asyncio.get_running_loop().create_task(self._end(before, settings))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end(self, before: Tracing, settings: Settings) -> None:
        if settings.traces.endpoint is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.drain_timeout):
                    await self._closing.wait()
        await before.close(settings.traces.timeout)

    def _opened(self, settings: Settings) -> Tracing:
        from quotapool.traces.tracing import open_tracing  # some 15 MiB, which others do without

        attributes = {
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}/{self._slot}",
            "host.name": socket.gethostname(),
            "quotapool.pool": settings.pool,
        }
        return open_tracing(
            settings.traces,
            attributes,
            ca_file=str(settings.ca_file) if settings.ca_file else None,
            word=self._clean,
            upstream_of=self._upstream_of,
            counted=self._reporter.traces_counted,
        )

    def _upstream_of(self, key: str) -> str:
        """The base URL that this key's requests go to."""
        now = self._configuration.now
        route = now.credentials.route(key)
        return now.settings.upstream if route is None else route.base

    async def close(self) -> None:
        """Send what waits, also for a collector of before the last reload, within a second."""
        self._closing.set()
        async with asyncio.TaskGroup() as closing:
            if self._tracing is not None:
                closing.create_task(self._tracing.close(_LAST_S))
            if self._ending:
                closing.create_task(asyncio.wait(self._ending, timeout=_LAST_S))
