"""The prober's place in a process: its own roster, its way to upstream, its metrics and log lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import structlog

from quotapool.domain.observer import Observer
from quotapool.domain.states import State
from quotapool.domain.subject import Subject
from quotapool.keys.keyring import credentials_of, keyring
from quotapool.ledger.budgets import Ledger
from quotapool.money.spend_store import SpendStore
from quotapool.observe.metrics import PoolMetrics
from quotapool.observe.redaction import Redactor
from quotapool.observe.reporter import log_removals_stopped, log_state
from quotapool.pool.roster import Roster
from quotapool.probes.calls import Calls
from quotapool.probes.prober import Prober
from quotapool.settings import Settings
from quotapool.upstream.interface import Timeouts
from quotapool.upstream.origins import Origins
from quotapool.upstream.tls_sessions import client_context

_log = structlog.get_logger()
_PATIENCE: Final = Timeouts(connect=5.0, first_byte=30.0, between_bytes=30.0)


class ProbeReporter(Observer):
    """What the prober finds, as metrics (where there are any) and log lines."""

    def __init__(self, metrics: PoolMetrics | None) -> None:
        self._metrics = metrics

    def probed(self, key: str, purpose: str, result: str) -> None:
        if self._metrics is not None:
            self._metrics.probes[purpose, result].inc()
        log = _log.warning if result == "too_dear" else _log.debug
        log("a resting key was probed", key=key, purpose=purpose, result=result)

    def state_changed(self, subject: Subject, state: State, reason: str, details: Mapping[str, Any]) -> None:
        log_state(subject, state, reason, {"by": "probe", **details})

    def removals_stopped(self, subject: Subject, reason: str) -> None:
        log_removals_stopped(subject, reason)


class Probing:
    """A prober with all that it needs; to be closed. `ledger` is the process's; `metrics` None: a command's."""

    def __init__(
        self, settings: Settings, ledger: Ledger, redactor: Redactor, metrics: PoolMetrics | None = None
    ) -> None:
        credentials = credentials_of(settings)
        self._fleet = _fleet(settings, credentials.bases)
        self._reporter = ProbeReporter(metrics)
        self._roster = Roster(ledger, settings, keyring(settings)[0], self._reporter)
        calls = Calls(self._fleet.main, credentials, redactor.clean_bytes)
        calls.other_upstreams = self._fleet.others
        book = SpendStore(ledger.store, settings.pool)
        self.prober = Prober(settings, self._roster, ledger, calls, self._reporter, spend=book)

    async def take(self, settings: Settings) -> None:
        """From now on this configuration."""
        old, self.prober.settings = self.prober.settings, settings
        self._roster.reload(settings, keyring(settings)[0])
        calls, credentials = self.prober.calls, credentials_of(settings)
        moved = (old.upstream, old.upstream_proxy) != (
            settings.upstream,
            settings.upstream_proxy,
        ) or calls.credentials.bases != credentials.bases
        calls.credentials = credentials
        if moved:
            replaced, self._fleet = self._fleet, _fleet(settings, credentials.bases)
            calls.upstream, calls.other_upstreams = self._fleet.main, self._fleet.others
            await self.prober.wait_idle()
            await replaced.close()

    async def aclose(self) -> None:
        await self.prober.wait_idle()
        await self._fleet.close()


def _fleet(settings: Settings, bases: Iterable[str]) -> Origins:
    tls = client_context(settings.ca_file)
    return Origins(settings.upstream, bases, _PATIENCE, tls=tls, proxy_for=settings.proxy_for)
