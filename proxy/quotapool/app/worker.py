"""One worker process: accepts clients on the inherited socket, serves them, and obeys the supervisor's pipe.

Started by `worker_process.py` with SLOT CONTROL_FD LISTEN_FD; everything else comes over the pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from quotapool.advice.note_store import NoteStore
from quotapool.advice.notes import Notes
from quotapool.app.build import build_request_path
from quotapool.app.caching import Caching
from quotapool.app.collector import collect_rarely, keep_what_is_built, keeping_what_is_built
from quotapool.app.lag import LagWatch
from quotapool.app.tracing import WorkerTraces
from quotapool.app.worker_pipe import (
    HEARTBEAT_S,
    Alive,
    Channel,
    Configure,
    Drain,
    InQueues,
    RateCards,
    Ready,
    SpendControl,
)
from quotapool.domain.request_record import ANONYMOUS
from quotapool.domain.waiting import Waiting
from quotapool.keys.keyring import credentials_of, keyring, secrets_in
from quotapool.ledger.budgets import Ledger
from quotapool.money.spend_counter import SpendCounter
from quotapool.money.spend_store import SpendStore
from quotapool.observe import logs, shared_values
from quotapool.observe.labels import Labels
from quotapool.observe.metrics import Metrics
from quotapool.observe.redaction import Redactor, to_be_listed
from quotapool.observe.reporter import Reporter
from quotapool.observe.request_ring import RequestRing
from quotapool.observe.request_store import RequestStore
from quotapool.openai import endpoints
from quotapool.outside.sender import OutsideSender
from quotapool.outside.shared_tallies import SharedTallies
from quotapool.pool.configuration import Snapshot
from quotapool.pool.roster import Prepared
from quotapool.settings import Settings, from_wire
from quotapool.store.store import Store, connect
from quotapool.upstream.credentials import Credentials
from quotapool.upstream.interface import Timeouts
from quotapool.upstream.origins import Origins
from quotapool.web.aliases import Aliases
from quotapool.web.cors import Cors
from quotapool.web.handlers import ClientHandler
from quotapool.web.server import Server, keep_alive

_log = structlog.get_logger()
_LOOK_S: Final = 0.5  # an idle worker looks at the pool's version this often
_IDLE_GRACE_S: Final = 1.0  # while draining, idle connections may bring one more request for this long
_NEXT_S: Final = 0.25  # and so may one whose answer had begun, without a word of closing, before the drain
_REPORT_S: Final = 2.0  # what waits in the queues is reported this often
_LONGEST: Final = 128  # characters of a name that clients chose
_LAST_WORDS_S: Final = 1.0  # for clients of sessions to answer that they close


class Worker:
    """All parts of one worker, built from one configuration."""

    def __init__(self, slot: str, first: Configure) -> None:
        self.settings = from_wire(bytes(first.settings))
        self.redactor = Redactor(secrets_in(self.settings, first.redis))
        shared_values.install(Path(first.metrics_dir), slot)
        log = self.settings.log
        self.logs = logs.configure(log.level, log.format, self.redactor, context={"worker": slot})
        self.metrics = Metrics(CollectorRegistry())
        self.labels = Labels(endpoints=(*endpoints.NAMES, endpoints.OTHER))
        self.reporter = Reporter(self.metrics, self.labels, self.logs.requests)
        self._store_url = first.redis
        self.store = self._connect()
        self.ledger = Ledger(
            self.store,
            self.settings.pool,
            patience_s=self.settings.store_patience,
            observer=self.reporter,
            on_version=lambda: self.paths.sync.version_moved(),  # noqa: PLW0108 - it is built below
            on_headroom=lambda candidate, group, share: self.paths.roster.pool.note_headroom(
                candidate.place, group, share, time.time()
            ),
            serve_alone=self.settings.on_redis_loss == "serve",
        )
        self.spend = SpendCounter(SpendStore(self.store, self.settings.pool), self.reporter)
        self.reporter.spend, self.reporter.refused = self.spend.count, self.spend.refused
        self.reporter.rescued, self.reporter.cached = self.spend.rescued, self.spend.cached
        self.ring = RequestRing(
            RequestStore(self.store, self.settings.pool),
            self.settings.requests_kept,
            word=self.redactor.word,
            dropped=self.reporter.requests_dropped,
        )
        self.reporter.keep = self.ring.keep
        self.notes = Notes(
            NoteStore(self.store, self.settings.pool),
            self.settings,
            first.advice_key,
            team_of=lambda client: self.paths.team_of(client),  # noqa: PLW0108 - they are built below
        )
        self.outside = OutsideSender(
            self.ledger, SharedTallies(self.store, self.settings.pool), enabled=self.settings.outside_use.enabled
        )
        self.origins = _origins(self.settings, credentials_of(self.settings))
        self.paths = build_request_path(
            _snapshot(self.settings, self.origins),
            self.ledger,
            self.reporter,
            self.redactor.clean_bytes,
            on_clients=self._label,
            prices=lambda: self.spend.prices,
            note=self.notes.note,
        )
        self.caching = Caching(self.settings.pool, self._connect, self.reporter)
        self._configure_cache(first.cache_root)
        self.handler = ClientHandler(self.paths.requests, self.reporter, self.paths.sessions)
        self.tls = self.settings.tls.context() if self.settings.tls is not None else None
        self._configure_listener()
        self.traces = WorkerTraces(slot, self.handler, self.reporter, self.redactor.clean, self.paths.configuration)
        self.traces.configure(self.settings)
        self._label()

    def _connect(self) -> Store:
        ca_file = self.settings.ca_file
        return connect(self._store_url, ca_file=str(ca_file) if ca_file else None)

    def _configure_cache(self, root: bytes) -> None:
        self.paths.reuse.store = self.caching.configure(root, self.settings.cache.max_size)

    def _configure_listener(self) -> None:
        self.handler.max_concurrent = self.settings.max_concurrent
        self.handler.cors = Cors(self.settings.allowed_origins)
        self.handler.aliases = Aliases(self.settings.path_aliases) if self.settings.path_aliases else None

    def _label(self) -> None:
        """Which models and clients have names of their own in metrics."""
        settings = self.settings
        groups = [name for group, members in settings.groups.items() for name in (group, *members)]
        models = (*settings.metrics.models, *settings.limits.models, *groups)
        clients = self.paths.client_ids().values()
        self.labels.configure(models=models, clients=clients, detail=settings.metrics.detail)

    async def start(self) -> None:
        """Know the pool before the first client is let in. Raises StoreUnavailable."""
        await self.paths.sync.refresh()
        await self.ledger.heartbeat()  # be one of the replicas, and know how many they are, should the store go now

    async def reload(self, message: Configure) -> None:
        """Take over a new configuration; requests under way end with the old one. What is long in a large pool is done
        in a thread, while clients are served."""
        snapshot, roster, secrets = await asyncio.to_thread(self._prepare, bytes(message.settings))
        for secret in secrets:
            self.redactor.add(secret)
        settings = snapshot.settings
        old, self.settings = self.settings, settings
        self.ring.most = settings.requests_kept
        self.notes.configure(settings, message.advice_key)
        self.outside.enable(settings.outside_use.enabled)
        self._reload_certificate(settings)
        if _way_out(old) != _way_out(settings) or snapshot.credentials.bases != set(self.origins.others):
            replaced, self.origins = self.origins, _origins(settings, snapshot.credentials)
            snapshot = replace(snapshot, upstream=self.origins.main, others=self.origins.others)
            asyncio.get_running_loop().call_later(settings.timeouts.first_byte, lambda: _close_later(replaced))
        self.paths.take(snapshot, roster)
        self._configure_cache(message.cache_root)
        self._configure_listener()
        if old.traces != settings.traces:
            await self.traces.prepare(settings)
            self.traces.configure(settings)
        self._label()
        await self.paths.sync.refresh()

    def _prepare(self, wire: bytes) -> tuple[Snapshot, Prepared, list[str]]:
        """The third: secrets that the redactor has to know. Changes nothing, so a thread can do it."""
        snapshot = _snapshot(from_wire(wire), self.origins)
        roster = self.paths.roster.prepare(snapshot.settings, snapshot.keys)
        return snapshot, roster, to_be_listed(secrets_in(snapshot.settings, ""), secrets_in(self.settings, ""))

    def _reload_certificate(self, settings: Settings) -> None:
        """The context stays, so that the listener does: its next handshakes use the files as they are now."""
        if self.tls is None or settings.tls is None:
            return
        try:
            settings.tls.load_into(self.tls)
        except OSError as error:
            _log.error("the new certificate is refused, the old one stays", problem=str(error))

    def take_spend_control(self, control: SpendControl) -> None:
        """Ask first the accounts whose credit would expire unused; refuse what costs money beyond the daily limit."""
        self.paths.roster.hurry(control.urgency)
        self.paths.daily_limit.spent_until = control.closed_until

    def waiting(self) -> list[Waiting]:
        """Who waits in its queues, and for what. Models are names that clients chose."""
        rows = self.paths.admission.waiting()
        for row in rows:
            row.model = self.redactor.word(row.model)[:_LONGEST]
            row.client = "anonymous" if row.client == ANONYMOUS else row.client
        return rows

    async def look(self) -> None:
        """While idle no batch brings the version, so look for it."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.ledger.heartbeat()

    async def close(self) -> None:
        await self.paths.reading_on.close()
        await self.traces.close()
        await self.caching.close()
        await self.ledger.flush()
        await self.paths.owners.close()
        await self.spend.close()
        await self.ring.close()
        await self.notes.close()
        await self.origins.close()
        await self.store.close()
        self.logs.writer.flush()


def _origins(settings: Settings, credentials: Credentials) -> Origins:
    t = settings.timeouts
    timeouts = Timeouts(t.connect, t.first_byte, t.between_bytes)
    return Origins(settings, credentials, timeouts, most=settings.upstream_connections)


def _snapshot(settings: Settings, origins: Origins) -> Snapshot:
    return Snapshot(
        settings,
        tuple(keyring(settings)[0]),
        credentials_of(settings),
        origins.main,
        origins.others,
        {client.id: client for client in settings.clients},
    )


def _way_out(settings: Settings) -> tuple[object, ...]:
    """What makes new connections when it changes."""
    return settings.upstream, settings.timeouts, settings.upstream_proxy, settings.upstream_connections


_closing: set[asyncio.Task[None]] = set()


def _close_later(origins: Origins) -> None:
    task = asyncio.get_running_loop().create_task(origins.close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _serve(slot: str, control: socket.socket, listener: socket.socket) -> None:
    channel = await Channel.over(control)
    beating = asyncio.create_task(_beat(channel))
    first = await channel.receive()
    if not isinstance(first, Configure):
        return
    worker = Worker(slot, first)
    await worker.start()
    server = Server(worker.handler.serve)
    server.client_s = worker.settings.timeouts.client
    keep_alive(listener)
    loop = asyncio.get_running_loop()
    accepting = await loop.create_server(server, sock=listener, backlog=4096, ssl=worker.tls)  # type: ignore[arg-type]  # loops ask a protocol for no base
    keep_what_is_built()
    looking = asyncio.create_task(worker.look())
    lagging = asyncio.create_task(LagWatch(worker.metrics.event_loop_lag.set).run())
    booking = asyncio.create_task(worker.spend.run())
    keeping = asyncio.create_task(worker.ring.run())
    noting = asyncio.create_task(worker.notes.run())
    tallying = asyncio.create_task(worker.outside.run())
    reporting = asyncio.create_task(_report(channel, worker))
    await channel.send(Ready())
    patience = worker.settings.drain_timeout
    while True:
        message = await channel.receive()
        if isinstance(message, Configure):
            with keeping_what_is_built():
                await worker.reload(message)
            server.client_s = worker.settings.timeouts.client
            with contextlib.suppress(ConnectionError):
                await channel.send(Ready())
            continue
        if isinstance(message, SpendControl):
            worker.take_spend_control(message)
            continue
        if isinstance(message, RateCards):
            worker.spend.take_cards(message.cards)
            continue
        if isinstance(message, Drain):
            patience = message.seconds
        break
    looking.cancel()
    await _drain(worker, accepting, server, patience)
    await worker.paths.sessions.close(_LAST_WORDS_S)
    lagging.cancel()
    await server.close()  # `_drain` has waited; what is left is cut
    booking.cancel()
    keeping.cancel()
    noting.cancel()
    tallying.cancel()
    await worker.close()
    beating.cancel()
    reporting.cancel()


async def _report(channel: Channel, worker: Worker) -> None:
    """Let the supervisor know what waits in the queues."""
    told = False
    with contextlib.suppress(ConnectionError):
        while True:
            await asyncio.sleep(_REPORT_S)
            rows = worker.waiting()
            if rows or told:
                await channel.send(InQueues(rows))
            told = bool(rows)


async def _beat(channel: Channel) -> None:
    """Let the supervisor know that the event loop runs; as soon as that is gone, the pipe tells."""
    with contextlib.suppress(ConnectionError):
        while True:
            await channel.send(Alive())
            await asyncio.sleep(HEARTBEAT_S)


async def _drain(worker: Worker, accepting: asyncio.Server, server: Server, patience_s: float) -> None:
    """Stop accepting; let connections that are open bring and finish what they have."""
    deadline = time.monotonic() + patience_s
    grace = time.monotonic() + min(_IDLE_GRACE_S, patience_s / 2)
    worker.handler.drain()
    worker.paths.admission.drain()
    accepting.close()
    while time.monotonic() < deadline:
        silent_from = max(grace, worker.handler.ended_at + _NEXT_S)
        if not worker.handler.open and (time.monotonic() > silent_from or not server.connections):
            break
        await asyncio.sleep(0.02)
    if cut := worker.handler.open - worker.paths.sessions.open:
        _log.warning("requests cut at the end of drain_timeout", open=cut)


def main(arguments: list[str]) -> None:
    """`SLOT CONTROL_FD LISTEN_FD`."""
    slot, control_fd, listen_fd = arguments[0], int(arguments[1]), int(arguments[2])
    # The supervisor decides when to stop: a Ctrl-C in the terminal reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    control, listener = socket.socket(fileno=control_fd), socket.socket(fileno=listen_fd)
    control.setblocking(False)
    listener.setblocking(False)
    collect_rarely()
    uvloop.run(_serve(slot, control, listener))
