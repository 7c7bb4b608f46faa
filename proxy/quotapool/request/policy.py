"""Policy refusals by client: counted, announced once a minute, and, by option, ended by the client's suspension.

Stored: `qp:{pool}:policy:<client>`, sorted set: a refusal's serial number -> its second, the last hour's.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from typing import Any, Final

from quotapool.domain.observer import Observer
from quotapool.ledger.budgets import Ledger, StoreUnavailable
from quotapool.ledger.clients import ClientStore
from quotapool.openai.head import Head
from quotapool.openai.safety import HEADER, fill_identifier, identifier_of
from quotapool.pool.configuration import Configuration
from quotapool.store.store import StoreError

_WITHIN_S: Final = 3600
_ANNOUNCED_EVERY_S: Final = 60
_MOST_KEPT: Final = 10_000  # refusals of one client
KIND: Final = "policy"


class PolicyWatch:
    """One process's side of it; the counts are the pool's."""

    def __init__(self, configuration: Configuration, ledger: Ledger, clients: ClientStore, observer: Observer) -> None:
        self._configuration = configuration
        self._ledger = ledger
        self._clients = clients
        self._observer = observer
        self._tasks: set[asyncio.Task[None]] = set()

    def identified(self, body: bytes, client: str, headers: Head) -> bytes:
        """A chat's or response's body that names its user: the client, where it does not name one itself."""
        if not client or HEADER in headers:
            return body
        return fill_identifier(body, identifier_of(client))

    def refused(self, client: str, reason: str) -> None:
        """Upstream refused what this client ("": anonymous) wrote."""
        self._observer.policy_refused(client, reason)
        self._start(self._remember(client, reason))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _remember(self, client: str, reason: str) -> None:
        name = client or "anonymous"
        try:
            facts = {"reason": reason, "message": "upstream refused this client's content for policy"}
            await self._ledger.registry.announce(KIND, name, facts, every_s=_ANNOUNCED_EVERY_S)
            limit = self._configuration.now.settings.safety.suspend_after
            if not limit or not client:  # who is anonymous may be anybody
                return
            refusals = await self._count(client)
            if refusals >= limit and await self._clients.suspend(client, reason):
                self._observer.client_suspended(client, refusals)
        except (StoreUnavailable, StoreError):
            return  # the metric has it

    async def _count(self, client: str) -> int:
        """Refusals of this client within an hour, this one included. Raises StoreError."""
        store, key, now = self._ledger.store, f"{self._ledger.prefix}:policy:{client}", time.time()
        pipe = store.client.pipeline(transaction=False)
        pipe.zadd(key, {secrets.token_hex(8): now})
        pipe.zremrangebyscore(key, 0, now - _WITHIN_S)
        pipe.zremrangebyrank(key, 0, -_MOST_KEPT - 1)
        pipe.zcard(key)
        pipe.expire(key, _WITHIN_S)
        answers = await store.guard(pipe.execute())
        return int(answers[3])

    async def wait_idle(self) -> None:
        """Until all refusals so far are recorded."""
        if self._tasks:
            await asyncio.wait(self._tasks)
