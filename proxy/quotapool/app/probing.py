"""A prober with what it needs in a process: connections to upstream, metrics and log lines of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog

from quotapool.domain.observer import Observer
from quotapool.domain.states import State
from quotapool.domain.subject import Subject
from quotapool.keys.keyring import credentials_of
from quotapool.ledger.budgets import Ledger
from quotapool.money.spend_store import SpendStore
from quotapool.observe.metrics import PoolMetrics
from quotapool.observe.redaction import Redactor
from quotapool.observe.reporter import log_removals_stopped, log_state
from quotapool.pool.roster import Roster
from quotapool.pool.sync import RosterSync
from quotapool.probes.calls import Calls
from quotapool.probes.prober import Prober
from quotapool.settings import Settings
from quotapool.upstream.interface import Timeouts
from quotapool.upstream.origins import Origins

_log = structlog.get_logger()
_TIMEOUTS: Final = Timeouts(connect=5.0, first_byte=30.0, between_bytes=30.0)


class ProbeReporter(Observer):
    """What the prober finds, as metrics (if there are any) and log lines."""

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
    """To be closed. `ledger` and `roster` are the process's; `metrics`: None in a command."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        redactor: Redactor,
        roster: Roster,
        metrics: PoolMetrics | None = None,
    ) -> None:
        credentials = credentials_of(settings)
        self._origins = Origins(settings, credentials, _TIMEOUTS)
        reporter = ProbeReporter(metrics)
        sync = RosterSync(roster, ledger, reporter)
        calls = Calls(self._origins.main, credentials, redactor.clean_bytes)
        calls.other_upstreams = self._origins.others
        spend = SpendStore(ledger.store, settings.pool)
        self.prober = Prober(settings, sync, ledger, calls, reporter, spend=spend)

    async def reload(self, settings: Settings) -> None:
        credentials = await asyncio.to_thread(credentials_of, settings)
        old, self.prober.settings = self.prober.settings, settings
        calls = self.prober.calls
        moved = (old.upstream, old.upstream_proxy) != (
            settings.upstream,
            settings.upstream_proxy,
        ) or calls.credentials.bases != credentials.bases
        calls.credentials = credentials
        if moved:
            replaced, self._origins = self._origins, Origins(settings, credentials, _TIMEOUTS)
            calls.upstream, calls.other_upstreams = self._origins.main, self._origins.others
            await self.prober.wait_idle()
            await replaced.close()

    async def close(self) -> None:
        await self.prober.wait_idle()
        await self._origins.close()
