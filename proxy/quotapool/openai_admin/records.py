"""What OpenAI last reported of our keys and accounts, kept in the store for `check` and the alerts.

Stored: `qp:{<pool>:spend}:said`, hash: key id -> msgpack map of `KeyRecord`; `a/<account>` -> of `AccountRecord`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from quotapool.store.store import Store, text_of

T = TypeVar("T")
_ACCOUNT: Final = "a/"


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key as the dashboard shows it; `key_id` is OpenAI's id of it. Times in Unix seconds, `at`: of the report."""

    key_id: str
    name: str = ""
    project: str = ""
    last_used_at: float | None = None
    expires_at: float | None = None
    at: float = 0.0


class AccountRecord(msgspec.Struct, kw_only=True):
    """An account's limits and credit in USD; `…_stopped`: the spend limit refuses requests now.

    `problem`: why OpenAI reported no more, as a text for operators.
    """

    project: str = ""
    project_limit_usd: float | None = None
    project_stopped: bool = False
    organization_limit_usd: float | None = None
    organization_stopped: bool = False
    granted_usd: float | None = None
    available_usd: float | None = None
    access_until: float | None = None
    month_usd: float | None = None
    problem: str = ""
    at: float = 0.0


class OpenAIRecords:
    """The hash of one pool. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._name = f"qp:{{{pool}:spend}}:said"

    async def write(self, keys: Mapping[str, KeyRecord], accounts: Mapping[str, AccountRecord]) -> None:
        """Replace the records of these keys and accounts, and of no others."""
        pieces: list[str | bytes] = []
        for key, of_key in keys.items():
            pieces += (key, msgspec.msgpack.encode(of_key))
        for account, of_account in accounts.items():
            pieces += (_ACCOUNT + account, msgspec.msgpack.encode(of_account))
        if pieces:
            await self._store.guard(self._store.client.execute_command("HSET", self._name, *pieces))

    async def read(self) -> tuple[dict[str, KeyRecord], dict[str, AccountRecord]]:
        """By key id and by account; records of another version that cannot be read are left out."""
        raw = await self._store.guard(self._store.client.hgetall(self._name))
        keys: dict[str, KeyRecord] = {}
        accounts: dict[str, AccountRecord] = {}
        for field, value in raw.items():
            name = text_of(field)
            if name.startswith(_ACCOUNT):
                _add(accounts, name.removeprefix(_ACCOUNT), value, AccountRecord)
            else:
                _add(keys, name, value, KeyRecord)
        return keys, accounts


def _add(into: dict[str, T], name: str, value: Any, shape: type[T]) -> None:
    with contextlib.suppress(msgspec.DecodeError):
        into[name] = msgspec.msgpack.decode(value, type=shape)
