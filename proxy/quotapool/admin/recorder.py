"""The records of what operators do over HTTP: one place around all handlers, which looks at what a call is about
before and after it."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog

from quotapool.admin.http import Call, Handler
from quotapool.admin.routes import Route
from quotapool.login.audit import Audit
from quotapool.operators.snapshots import Snapshots, told
from quotapool.store.store import StoreError

_log = structlog.get_logger()


class Recorder:
    """An `Around` of the admin API."""

    def __init__(self, audit: Audit, snapshots: Snapshots) -> None:
        self._audit = audit
        self._snapshots = snapshots

    async def call(self, route: Route, call: Call, handler: Handler) -> Any:
        """The handler's result, recorded. What it raises has changed nothing, and is not."""
        subject = route.subject(call.id or _id_in(call.body))
        before = await self._options(subject)
        result = await handler(call)
        if not subject:  # an id that was chosen just now
            subject = route.subject(_id_in(result))
        changes = told(subject, before, await self._options(subject))
        await self._audit.record(call.actor, route.name, subject, {**changes, **call.changes})
        return result

    async def refused(self, route: Route, call: Call, code: str) -> None:
        await self._audit.refused(call.actor, route.name, route.subject(call.id), code)

    async def _options(self, subject: str) -> dict[str, Any]:
        try:
            return await self._snapshots.of(subject)
        except StoreError as error:
            _log.warning("the record of a change lacks what it changed", subject=subject, problem=str(error))
            return {}


def _id_in(document: Any) -> str:
    """The `id` of a body or a result, if it has one."""
    found = msgspec.to_builtins(document) if isinstance(document, msgspec.Struct) else document
    name = found.get("id") if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""
