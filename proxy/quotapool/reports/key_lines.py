"""All keys in short, for a list of thousands; and who used one of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from quotapool.domain.bucket import DIMENSIONS, Bucket
from quotapool.domain.quantities import Limits
from quotapool.domain.states import State
from quotapool.domain.wallet import PICO, Wallet, usd
from quotapool.money.last_used import LastUsed
from quotapool.observe.kept_request import KeptRequest
from quotapool.observe.request_store import RequestStore
from quotapool.openai.advice import advice
from quotapool.operators.big_answers import in_turns, ordered
from quotapool.operators.keys import LOCKED, KeyOperations, natural_order, next_step
from quotapool.shapes.requests import iso
from quotapool.shapes.work import KeyLine, KeyUsers

_MOST_LOOKED_AT: Final = 50_000  # requests, for who used a key
_MOST_USERS: Final = 100


@dataclass(slots=True)
class Emptiest:
    """Of one account: the share that is left of its emptiest budget, which that is, and when it may be used again."""

    left: float | None = None
    name: str = ""
    cooling_s: float | None = None

    def add(self, group: str, bucket: Bucket, configured: Limits, now: float) -> None:
        """Take one of its buckets into account; `now`: the store's time."""
        bucket.refill(now, configured)
        cooling_s = round(max(0.0, bucket.cool_until - now), 3)
        self.cooling_s = cooling_s if self.cooling_s is None else min(self.cooling_s, cooling_s)
        for i, dimension in enumerate(DIMENSIONS):
            level = bucket.level(i)
            if level is None:
                continue
            limit = bucket.limit(i, configured)
            share = min(1.0, max(0.0, level / limit)) if limit > 0 else 0.0
            if self.left is None or share < self.left:
                self.left, self.name = share, f"{group} {dimension.value}"


async def key_lines(keys: KeyOperations, last_used: LastUsed) -> list[KeyLine]:
    """One for each key, in the order of `KeyOperations.rows`. Raises StoreUnavailable, StoreLost.

    Budgets are looked at one after the other: thousands are never held at once."""
    overview = keys.overview
    pool, ledger = overview.roster.pool, overview.ledger
    await overview.sync.refresh()
    now = await ledger.registry.time()
    emptiest: dict[str, Emptiest] = defaultdict(Emptiest)
    async for (account, group), bucket in ledger.stored.each():
        emptiest[account].add(group, bucket, overview.settings.limits_for(account, group), now)
    wallets = (await overview.credit.assess(datetime.now(UTC))).wallets
    used = await last_used.of(list(pool.keys), datetime.now(UTC))
    lines: list[KeyLine] = []
    async for key in in_turns(list(pool.keys.values())):
        if key.account not in pool.accounts:  # it has left meanwhile
            continue
        record, budget = pool.record_of(key), emptiest.get(key.account, _NOTHING)
        state = State.ACTIVE.value if record is None else record.state.value
        reason, until = ("", 0.0) if record is None else (record.reason, record.until)
        lines.append(
            KeyLine(
                id=key.id,
                account=key.account,
                state=state,
                source=keys.source_of(key.id),
                reason=reason,
                since=None if record is None else record.since,
                next_try=until or None,
                cooling_s=budget.cooling_s or 0.0,
                left=None if budget.left is None else round(budget.left, 4),
                emptiest=budget.name,
                credit_usd=_credit(wallets.get(key.account)),
                last_used=used.get(key.id),
                next=next_step({"state": state, "reason": reason, "next_try": until}),
            )
        )
    lines += [_locked(name, account) for name, account in keys.sources.missing.items()]
    stored = await ordered((line for line in lines if line.source == "store"), lambda line: natural_order(line.id))
    return [line for line in lines if line.source != "store"] + stored


_NOTHING: Final = Emptiest()


def _credit(wallet: Wallet | None) -> float | None:
    return None if wallet is None or wallet.remaining is None else usd(wallet.remaining)


def _locked(name: str, account: str) -> KeyLine:
    """A stored key that cannot be opened."""
    return KeyLine(
        id=name,
        account=account,
        state=LOCKED,
        source="store",
        reason="master_key",
        since=None,
        next_try=None,
        cooling_s=0.0,
        left=None,
        emptiest="",
        credit_usd=None,
        last_used=None,
        next=advice("master_key"),
    )


class _EnoughSeen(Exception):
    """As many requests as may be looked at."""


@dataclass(slots=True)
class _Use:
    requests: int = 0
    tokens: int = 0
    pico: int = 0


async def users_of(key: str, requests: RequestStore, most: int = _MOST_LOOKED_AT) -> KeyUsers:
    """Who used a key, of the last `most` requests that are kept. Raises StoreLost."""
    uses: dict[str, _Use] = defaultdict(_Use)
    seen, oldest = 0, None

    def count(request: KeptRequest) -> bool:
        nonlocal seen, oldest
        if seen >= most:
            raise _EnoughSeen
        seen += 1
        oldest = request.at if oldest is None else min(oldest, request.at)
        if any(attempt.key == key for attempt in request.attempts):
            use = uses[request.client or "anonymous"]
            use.requests += 1
            use.tokens += request.prompt + request.completion
            use.pico += request.pico or 0
        return False

    await _looked_through(requests, count)
    users = sorted(uses.items(), key=lambda one: (-one[1].requests, -one[1].tokens, one[0]))
    return KeyUsers(
        None if oldest is None else iso(oldest),
        [
            {"client": client, "requests": use.requests, "tokens": use.tokens, "usd": use.pico / PICO}
            for client, use in users[:_MOST_USERS]
        ],
    )


async def _looked_through(requests: RequestStore, look: Callable[[KeptRequest], bool]) -> None:
    try:
        await requests.latest(1, look)
    except _EnoughSeen:
        return
