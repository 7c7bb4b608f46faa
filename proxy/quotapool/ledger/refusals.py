"""Requests that were refused by their client's own rules, for the client to see.

Stored: `qp:{pool}:refusals:<client>`, stream of {code, rules (JSON), message, count}; about the last 20, for 30 days. A
worker writes at most one entry a second and client: the latest refusal, with how many there were since the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from quotapool.store.store import Store, StoreError, text_of

MOST_SHOWN: Final = 20
_APART_S: Final = 1.0
_KEPT_S: Final = 30 * 86_400


class RefusedRequests(msgspec.Struct, frozen=True):
    """`count` requests that were refused until `time` (Unix seconds, the store's clock): code and message of the last
    one, and the ids of the rules that refused it."""

    time: float
    code: str
    rules: list[str]
    message: str
    count: int


class _Noted(msgspec.Struct):
    code: str
    rules: Sequence[str]
    message: str
    count: int


class RefusalNotes:
    """One process's side of it."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._prefix = f"qp:{{{pool}}}:refusals:"
        self._noted: dict[str, _Noted] = {}  # not written yet, by client
        self._writing: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<RefusalNotes of {len(self._writing)} clients>"

    def note(self, client: str, code: str, rules: Sequence[str], message: str) -> None:
        """A request was refused. Returns at once; what cannot be written is forgotten."""
        noted = self._noted.get(client)
        self._noted[client] = _Noted(code, rules, message, 1 if noted is None else noted.count + 1)
        if client not in self._writing:
            self._writing[client] = asyncio.get_running_loop().create_task(self._write(client))

    async def _write(self, client: str) -> None:
        """As long as there is something new of this client, once a second."""
        key = self._prefix + client
        try:
            while (noted := self._noted.pop(client, None)) is not None:
                rules = msgspec.json.encode(list(noted.rules))
                fields: dict[Any, Any] = {
                    "code": noted.code,
                    "rules": rules,
                    "message": noted.message.encode("utf-8", "replace"),
                    "count": noted.count,
                }
                await self._store.guard(self._store.client.xadd(key, fields, maxlen=MOST_SHOWN, approximate=True))
                await self._store.guard(self._store.client.expire(key, _KEPT_S))
                await asyncio.sleep(_APART_S)
        except StoreError:
            self._noted.pop(client, None)
        finally:
            del self._writing[client]

    async def latest(self, client: str) -> list[RefusedRequests]:
        """The newest first. Raises StoreLost."""
        raw = await self._store.guard(self._store.client.xrevrange(self._prefix + client, count=MOST_SHOWN))
        found = []
        for name, fields in raw or ():
            data = {text_of(key): text_of(value) for key, value in (fields or {}).items()}
            milliseconds = text_of(name or b"0-0").partition("-")[0]
            rules = msgspec.json.decode(data["rules"], type=list[str])
            found.append(
                RefusedRequests(int(milliseconds) / 1000, data["code"], rules, data["message"], int(data["count"]))
            )
        return found
