"""Work on many keys that goes on after its call was answered: the same change for thousands, and imports.

Jobs are in the memory of the supervisor that was asked: a few run at a time, the last ones are remembered for an hour.
What a job reports contains no secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import structlog

from quotapool.admin.http import Call, Handler
from quotapool.admin.routes import ApiError
from quotapool.domain.actor import Actor
from quotapool.keys.master_keys import NoMasterKey
from quotapool.keys.vault import VaultChanged, VaultLocked
from quotapool.operators.bulk import Progress, work_on_keys
from quotapool.operators.importer import Importer, Outcome, Report
from quotapool.operators.key_file import BadFile, Line, read
from quotapool.operators.keys import KeyOperations, ProbeNow
from quotapool.shapes.work import Job, Jobs, KeyImport, KeyWork, Unfinished
from quotapool.store.store import StoreError

_log = structlog.get_logger()
_MOST_RUNNING: Final = 4
_MOST_KEPT: Final = 20
_KEPT_S: Final = 3_600.0
_MOST_NOT_DONE: Final = 1_000
_CHECKS_AT_ONCE: Final = 64  # of an import, as `quotapool keys import` has them
_CHECKS_PER_SECOND: Final = 200.0
_LINES_AT_ONCE: Final = 100  # read in one turn of the loop
_STOPPED: Final = "stopped by an operator; what was done stays done"
_CLOSED: Final = "the proxy was stopped; what was done stays done"
_EXPECTED: Final = (StoreError, NoMasterKey, VaultLocked, VaultChanged, BadFile)


class Record(Protocol):
    """Writes down who changed what: `action` as in the API, `subject`: what it was done to."""

    async def __call__(self, actor: Actor, action: str, subject: str, changes: Mapping[str, Any]) -> None: ...


async def _not_recorded(actor: Actor, action: str, subject: str, changes: Mapping[str, Any]) -> None:
    """Where changes are not written down."""


@dataclass(slots=True)
class _Kept:
    job: Job
    actor: Actor
    progress: Progress
    task: asyncio.Task[None] | None = None
    ended: float | None = None  # Unix seconds

    def shown(self) -> Job:
        """As it stands."""
        job, progress = self.job, self.progress
        return msgspec.structs.replace(
            job,
            done=progress.done,
            counts=dict(sorted(progress.counts.items())),
            not_done=list(progress.not_done[:_MOST_NOT_DONE]),
        )


class JobRunner:
    """Those of one supervisor. `on_change` is called when the pool's keys have changed; `record` for each job
    when it begins, so that one that died with its supervisor is seen, and at its end."""

    def __init__(
        self,
        keys: KeyOperations,
        probe_now: ProbeNow,
        on_change: Callable[[], Awaitable[None]],
        record: Record = _not_recorded,
    ) -> None:
        self._keys = keys
        self._probe_now = probe_now
        self._on_change = on_change
        self._record = record
        self._jobs: dict[str, _Kept] = {}
        self._why_cut = _STOPPED

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {
            "list_jobs": self._list,
            "show_job": self._show,
            "stop_job": self._stop,
            "start_key_job": self._start_keys,
            "start_import": self._start_import,
        }

    async def close(self) -> None:
        """Stop all that run. What was done stays done."""
        self._why_cut = _CLOSED
        running = [kept.task for kept in self._jobs.values() if kept.task is not None and kept.ended is None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    # ---- calls

    async def _list(self, _: Call) -> Any:
        self._forget_old()
        return Jobs([kept.shown() for kept in reversed(self._jobs.values())])

    async def _show(self, call: Call) -> Any:
        return self._found(call.id).shown()

    async def _stop(self, call: Call) -> Any:
        kept = self._found(call.id)
        if kept.task is not None and kept.ended is None:
            kept.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(asyncio.wait({kept.task}))
        return kept.shown()

    async def _start_keys(self, call: Call) -> Any:
        body: KeyWork = call.body
        names = list(dict.fromkeys(body.ids))

        async def run(progress: Progress) -> None:
            await work_on_keys(self._keys, body.action, names, self._probe_now, progress, call.actor.name)
            if body.action == "forget":
                await self._on_change()

        return self._start("keys", body.action, len(names), call.actor, run).shown()

    async def _start_import(self, call: Call) -> Any:
        body: KeyImport = call.body

        async def run(progress: Progress) -> None:
            await self._import(body, progress, call.actor.name)

        return self._start("import", "dry run" if body.dry_run else "import", 0, call.actor, run).shown()

    def _found(self, name: str) -> _Kept:
        self._forget_old()
        kept = self._jobs.get(name)
        if kept is None:
            raise ApiError(
                "not_found", "no such job here: the last 20 are kept, for an hour, by the replica that ran them"
            )
        return kept

    # ---- running

    def _start(
        self, kind: Any, action: str, total: int, actor: Actor, run: Callable[[Progress], Awaitable[None]]
    ) -> _Kept:
        self._forget_old()
        if sum(kept.ended is None for kept in self._jobs.values()) >= _MOST_RUNNING:
            raise ApiError("too_many_jobs", f"{_MOST_RUNNING} jobs are running; wait for one, or stop one.")
        name = f"job-{secrets.token_hex(6)}"
        job = Job(name, kind, action, total, 0, False, {}, [], "", time.time(), actor.name)
        kept = self._jobs[name] = _Kept(job, actor, Progress(_setter(job)))
        kept.task = asyncio.create_task(self._run(kept, run), name=name)
        kept.task.add_done_callback(lambda _: self._ended_unbegun(kept))
        return kept

    async def _run(self, kept: _Kept, run: Callable[[Progress], Awaitable[None]]) -> None:
        job = kept.job
        its_id = {"job": [None, job.id]}
        try:
            begun = {**its_id, "action": [None, job.action], **({"keys": [None, job.total]} if job.total else {})}
            await self._record(kept.actor, "start_import" if job.kind == "import" else "start_key_job", "", begun)
            await run(kept.progress)
        except asyncio.CancelledError:
            job.problem = self._why_cut
        except _EXPECTED as error:
            job.problem = f"The store does not answer: {error}" if isinstance(error, StoreError) else str(error)
        except Exception:  # noqa: BLE001 - whatever it is, the job has to end
            _log.exception("a job failed", job=job.id, kind=job.kind, action=job.action)
            job.problem = "It failed by a fault in the proxy; its log has the details."
        finally:
            job.finished, kept.ended = True, time.time()
        done = kept.progress
        _log.info("a job ended", job=job.id, kind=job.kind, action=job.action, by=job.by, done=done.done, of=job.total)
        changes = {**its_id, **done.changes, **({"problem": [None, job.problem]} if job.problem else {})}
        await self._record(kept.actor, f"{job.action}_keys".replace(" ", "_"), "", changes)

    def _ended_unbegun(self, kept: _Kept) -> None:
        """A task that is cancelled before its first turn does nothing at all."""
        if kept.ended is None:
            kept.job.problem, kept.job.finished, kept.ended = self._why_cut, True, time.time()

    def _forget_old(self) -> None:
        now = time.time()
        ended = [name for name, kept in self._jobs.items() if kept.ended is not None]  # the oldest first
        for name in ended:
            if len(self._jobs) > _MOST_KEPT or now - (self._jobs[name].ended or now) > _KEPT_S:
                del self._jobs[name]

    async def _import(self, body: KeyImport, progress: Progress, actor: str) -> None:
        texts, body.text = body.text.splitlines(), "-"  # what it came in need not be held until the end
        lines: list[Line] = []
        for line in read(texts):
            lines.append(line)
            if len(lines) % _LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
        del texts
        progress.set_total(len(lines))
        if not lines:
            raise BadFile("there is no key in it")
        importer = Importer(
            self._keys,
            check=body.check,
            dry_run=body.dry_run,
            replace=body.replace,
            on_progress=progress.one_more,
            actor=actor,
        )
        progress.counts = importer.report.counts
        try:
            await importer.run(lines, at_once=_CHECKS_AT_ONCE, per_second=_CHECKS_PER_SECOND)
        finally:
            _show(importer.report, progress)
            lines.clear()
            if not body.dry_run and importer.report.changed:
                await self._keys.sources.read()
                await self._on_change()


def _setter(job: Job) -> Callable[[int], None]:
    """For a total that is known only later."""

    def set_total(total: int) -> None:
        job.total = total

    return set_total


def _show(report: Report, progress: Progress) -> None:
    progress.counts = Counter(report.counts)
    progress.not_done = [_unfinished(outcome) for outcome in report.bad[:_MOST_NOT_DONE]]


def _unfinished(outcome: Outcome) -> Unfinished:
    return Unfinished(outcome.line, outcome.id, outcome.result, outcome.why)
