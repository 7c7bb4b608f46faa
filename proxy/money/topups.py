"""Grants of credit recorded with `quotapool keys topup`: kept in the store, they count beside the configured ones.

Stored: `qp:{<pool>:spend}:grants`, hash: id -> JSON {account, pico, granted_on, expires_on, at, spent_before}. Money in
picodollars, `at` in Unix seconds. A used-up grant stays, since what was spent is subtracted from all of them.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from datetime import date
from typing import Final

import msgspec

from proxy.domain.states import OPERATOR, WALLET, State
from proxy.domain.wallet import PICO, Grant
from proxy.ledger.connection import Script, Store

_ROUSE: Final = Script("rouse")


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
    """The recorded grants of one pool. Every method raises StoreLost where the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._key = f"qp:{{{pool}:spend}}:grants"
        self._pool = f"qp:{{{pool}}}"

    async def add(
        self, account: str, usd: float, granted_on: date, expires_on: date | None, *, spent_before: int = 0
    ) -> Topup:
        """Record a grant of `usd` dollars. `spent_before`: picodollars that its first day had cost when it came."""
        topup = Topup(account, round(usd * PICO), granted_on, expires_on, time.time(), spent_before)
        body = msgspec.json.encode(topup).decode()
        await self._store.guard(self._store.client.hset(self._key, secrets.token_hex(8), body))
        return topup

    async def all(self) -> dict[str, list[Grant]]:
        """By account."""
        found: dict[str, list[Grant]] = defaultdict(list)
        for raw in (await self._store.guard(self._store.client.hgetall(self._key))).values():
            topup = msgspec.json.decode(raw, type=Topup)
            found[topup.account].append(topup.grant)
        return dict(found)

    async def rouse(self, fields: list[str]) -> int:
        """End the rest of money quarantines, so that each is tried with the next request or probe. How many there were.

        An operator's word and the wallet's own stop are left as they are: the one is the operator's to lift, the other
        the treasurer's, within seconds.
        """
        return int(await self._store.evalsha(_ROUSE, [self._pool], [State.QUARANTINED, OPERATOR, WALLET, *fields]))
