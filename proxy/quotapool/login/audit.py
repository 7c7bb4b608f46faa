"""The record of what operators did: an event in the pool's stream, and a line of `state_dir/audit.log`.

The stream is the pool's and forgets after 10,000 events; the file is this machine's and only grows. What is recorded
has no secrets: callers pass changes without them (`operators/snapshots.py`), and every text goes through the redactor.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from quotapool.domain.actor import Actor
from quotapool.domain.changes import encoded
from quotapool.ledger.registry import MOST_EVENTS
from quotapool.observe.redaction import Redactor
from quotapool.store.owner import give_to_owner
from quotapool.store.store import Store, StoreError

KIND: Final = "operator"  # of these events
FILE: Final = "audit.log"
REFUSED_A_MINUTE: Final = 30
_LONGEST: Final = 256  # characters of a name

_log = structlog.get_logger()


class Audit:
    """That of one pool. No method raises: what was done is done."""

    def __init__(self, store: Store, pool: str, state_dir: Path, redactor: Redactor) -> None:
        self._store = store
        self._stream = f"qp:{{{pool}}}:events"
        self._file = state_dir / FILE
        self._redactor = redactor
        self._minute = 0
        self._refused = 0  # in this minute
        self._untold = 0  # refused tries without a record of their own

    async def record(self, actor: Actor, action: str, subject: str, changes: Mapping[str, Any]) -> None:
        """`action`: the name of its route; `subject`: `k/alpha`, `c/app`, `t/search`, `a/acme`, or "" for the whole
        pool; `changes`: option -> [old, new]."""
        await self._write(actor, action, subject, changes, "done")

    async def refused(self, actor: Actor, action: str, subject: str, code: str) -> None:
        """A try that was refused with this error code. Of many in a minute, most are only counted."""
        minute = int(time.time() // 60)
        if minute != self._minute:
            self._minute, self._refused = minute, 0
        if self._refused >= REFUSED_A_MINUTE:
            self._untold += 1
            return
        self._refused += 1
        untold, self._untold = self._untold, 0
        await self._write(actor, action, subject, {"untold": [None, untold]} if untold else {}, code)

    async def _write(self, actor: Actor, action: str, subject: str, changes: Mapping[str, Any], result: str) -> None:
        at = time.time()
        told = encoded(self._redactor.scrub(dict(changes)))
        fields = {
            "actor": self._short(actor.name),
            "role": actor.role,
            "by": actor.by,
            "address": actor.address[:64],
            "action": action[:64],
            "subject": self._short(subject),
            "result": result,
        }
        line = {"at": round(at, 3), **fields, "changes": msgspec.Raw(told.encode())}
        try:
            await asyncio.to_thread(append, self._file, msgspec.json.encode(line) + b"\n")
        except OSError as error:
            _log.error("audit.log cannot be written", file=str(self._file), problem=error.strerror or str(error))
        event: dict[Any, Any] = {"field": fields.pop("subject"), **dict.fromkeys(("from", "to"), "")}
        event |= {"reason": fields.pop("result"), "message": "", "request_id": "", "status": "0", **fields}
        event |= {"changes": told, "at": f"{at:.3f}", "kind": KIND}
        try:
            add = self._store.client.xadd(self._stream, event, maxlen=MOST_EVENTS, approximate=True)
            await self._store.guard(add)
        except StoreError as error:
            _log.error("an operator's change is in audit.log only, the store does not take it", problem=str(error))

    def _short(self, text: str) -> str:
        return self._redactor.clean("".join(filter(str.isprintable, text[:_LONGEST])))


def append(file: Path, line: bytes) -> None:
    """One write at the file's end, whoever else writes; only its owner may read it. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(file, flags, 0o600)
    try:
        give_to_owner(descriptor, file.parent)
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
