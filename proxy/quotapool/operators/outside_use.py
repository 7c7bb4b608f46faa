"""Outside use in operators' words: which key it may be, and what it may cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

from quotapool.domain.pool import Pool
from quotapool.domain.wallet import PICO
from quotapool.money.rollups import MINUTE
from quotapool.money.spend_store import SpendStore
from quotapool.outside.outside_store import Stored
from quotapool.outside.tallies import Name
from quotapool.shapes.general import OutsideUse

OVER: Final = "over"
REMEDY: Final = "find out who has the key; if nobody should, make a new key at OpenAI and revoke this one"


def subject_of(name: Name) -> str:
    """Of an event: one for each account."""
    return f"a/{name[0]}"


def only_key(pool: Pool, account: str) -> str:
    """The id of the account's key, if it has but one: then that one is used, or one that the pool does not know."""
    holder = pool.accounts.get(account)
    return holder.keys[0].id if holder is not None and len(holder.keys) == 1 else ""


def words(account: str, model: str, requests: float, tokens: float, usd: float | None) -> str:
    """One clause: about 12 requests and 34,000 tokens a minute of gpt-4o, perhaps $3.10 an hour."""
    parts = [f"{requests:,.0f} requests"] if requests >= 1 else []
    parts += [f"{tokens:,.0f} tokens"] if tokens >= 1 else []
    rate = f"about {' and '.join(parts)} a minute of {model}" if parts else f"{model}"
    cost = "" if usd is None else f", perhaps ${usd:,.2f} an hour"
    return f"account {account} is used by others too: {rate}{cost}"


def event_fields(pool: Pool, name: Name, found: Stored, *, is_over: bool = False) -> dict[str, str]:
    """Of the event that says so, or that it is over. Numbers are a minute, `usd_per_hour` is "" if not known."""
    account, model = name
    usd = found.usd_per_hour
    text = words(account, model, found.requests_per_minute, found.tokens_per_minute, usd)
    if is_over:
        text = f"account {account} is no longer used by others, as far as {model} shows"
    return {
        "phase": OVER if is_over else "begun",
        "reason": "outside_use",
        "message": text,
        "model": model,
        "key": only_key(pool, account),
        "since": f"{found.since:.0f}",
        "requests_per_minute": f"{found.requests_per_minute:.1f}",
        "tokens_per_minute": f"{found.tokens_per_minute:.0f}",
        "usd_per_hour": "" if usd is None else f"{usd:.2f}",
    }


def rows_of(pool: Pool, named: Mapping[Name, Stored]) -> dict[str, list[OutsideUse]]:
    """By account, in the order of model groups."""
    rows: dict[str, list[OutsideUse]] = {}
    for (account, model), found in sorted(named.items()):
        row = OutsideUse(
            model=model,
            key=only_key(pool, account),
            since=found.since,
            requests_per_minute=found.requests_per_minute,
            tokens_per_minute=found.tokens_per_minute,
            usd_per_hour=found.usd_per_hour,
        )
        rows.setdefault(account, []).append(row)
    return rows


async def costs_per_request(
    spend: SpendStore, now: datetime, minutes: int, accounts: Collection[str]
) -> dict[str, float]:
    """USD that a request of ours cost on each of these accounts, on average of the last minutes. Raises StoreError."""
    sums: dict[str, tuple[int, int]] = {}
    if not accounts:
        return {}
    this = MINUTE.start(now)
    slots = [(MINUTE, this - n * MINUTE.size) for n in range(minutes)]
    async for _, rows in spend.used("key", slots):
        for (account, *_), spent in rows.items():
            if account in accounts:
                requests, pico = sums.get(account, (0, 0))
                sums[account] = requests + spent.requests, pico + spent.total
    return {name: pico / requests / PICO for name, (requests, pico) in sums.items() if requests and pico}
