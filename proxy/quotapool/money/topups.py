"""Grants of credit recorded with `quotapool keys topup`: kept in the store, they add to the configured ones.

Stored: `qp:{<pool>:spend}:grants`, hash: id -> JSON {account, pico, granted_on, expires_on, at, spent_before}. Money in
picodollars, `at` in Unix seconds. A used-up grant stays, since what was spent is subtracted from all of them.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from datetime import date

import msgspec

from quotapool.domain.wallet import PICO, Grant
from quotapool.store.store import Store


class Topup(msgspec.Struct, frozen=True):
    """One recorded grant. The days are as `domain/wallet.py` reads them."""

    account: str
    pico: int
    granted_on: date | None
    expires_on: date | None
    at: float
    spent_before: int = 0  # picodollars, on its first day

    @property
    def grant(self) -> Grant:
        return Grant(self.pico, self.granted_on, self.expires_on, self.spent_before)


class Topups:
    """The recorded grants of one pool. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._key = f"qp:{{{pool}:spend}}:grants"

    async def add(
        self, account: str, usd: float, granted_on: date, expires_on: date | None, *, spent_before: int = 0
    ) -> None:
        """Record a grant of `usd` dollars. `spent_before`: picodollars that its first day had cost before it."""
        topup = Topup(account, round(usd * PICO), granted_on, expires_on, time.time(), spent_before)
        body = msgspec.json.encode(topup).decode()
        await self._store.guard(self._store.client.hset(self._key, secrets.token_hex(8), body))

    async def all(self) -> dict[str, list[Grant]]:
        """By account."""
        found: dict[str, list[Grant]] = defaultdict(list)
        for raw in (await self._store.guard(self._store.client.hgetall(self._key))).values():
            topup = msgspec.json.decode(raw, type=Topup)
            found[topup.account].append(topup.grant)
        return dict(found)
