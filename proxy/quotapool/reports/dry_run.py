"""What would happen to a request now: read, charged and placed by the code of the request path, and never sent.

Nothing is reserved, and nothing is written to the store. What only a worker knows is left out: who waits in its queue,
how long the answers of a client are as a rule, and which accounts refused a model lately.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple

import msgspec

from quotapool.domain.bucket import DIMENSIONS, NEVER, Bucket
from quotapool.domain.headroom import Headroom
from quotapool.domain.pool import Account
from quotapool.domain.quantities import Cost, Dimension
from quotapool.domain.rule_words import amount, words
from quotapool.domain.rules import Asked, Counters, Kind
from quotapool.domain.states import State
from quotapool.domain.wallet import PICO
from quotapool.keys.keyring import credentials_of
from quotapool.ledger.grants import Blocked, BlockedRule
from quotapool.ledger.rules import Charge
from quotapool.ledger.stored_rules import Level, StoredRules
from quotapool.money.price_list import PriceList
from quotapool.money.prices import compile_cards
from quotapool.openai import replies
from quotapool.openai.advice import advice
from quotapool.openai.endpoints import Endpoint, resolve
from quotapool.openai.reference_marks import involves_objects
from quotapool.openai.refusal import Refusal
from quotapool.openai.replies import ProxyError
from quotapool.operators.big_answers import in_turns, ordered
from quotapool.operators.overview import Overview
from quotapool.pool.configuration import Snapshot
from quotapool.pool.want import Never, NoRoom, Want
from quotapool.reports.cache_outlook import CacheOutlooks
from quotapool.reports.unsent import Nowhere, Unsent
from quotapool.request.charging import Charging
from quotapool.request.client_request import ClientRequest
from quotapool.request.daily_limit import DailyLimit
from quotapool.request.models import refuse_model
from quotapool.request.read import NO_MODEL, read_client_request, want_of
from quotapool.request.refusals import refusal_of
from quotapool.request.rule_words import subject_words
from quotapool.settings import Client, Settings
from quotapool.settings.money import ModelPrices
from quotapool.settings.rules import RuleOptions
from quotapool.shapes.work import CacheOutlook, Candidate, DryRun, DryRunAnswer
from quotapool.store.store import Store

_MOST_SHOWN: Final = 50  # candidates of each kind
_AT_ONCE: Final = 200  # accounts in one turn of the loop
_CLIENT_KEY: Final = "Its key is refused: "


class _Refused(Exception):
    """The request ends here; the text is the cause."""


@dataclass(slots=True)
class _Seen:
    """What is known of the request so far."""

    endpoint: str
    model: str = ""
    group: str = ""
    cost: Cost | None = None
    usd_at_most: float | None = None
    rules: list[str] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    out: list[Candidate] = field(default_factory=list)
    out_count: int = 0
    wait_s: float | None = None
    cache: CacheOutlook | None = None
    apart: str = ""  # what the verdict does not take into account

    def answer(self, verdict: Any, cause: str) -> DryRunAnswer:
        cost = self.cost
        reserve = {} if cost is None else {"requests": float(cost.requests), "tokens": float(cost.tokens)}
        if cost is not None and cost.images:
            reserve["images"] = float(cost.images)
        return DryRunAnswer(
            verdict=verdict,
            cause=f"{cause} {self.apart}".strip(),
            endpoint=self.endpoint,
            model=self.model,
            group=self.group,
            reserve=reserve,
            usd_at_most=self.usd_at_most,
            wait_s=self.wait_s,
            rules=self.rules,
            candidates=self.candidates[:_MOST_SHOWN],
            out=self.out[:_MOST_SHOWN],
            out_count=self.out_count,
            cache=self.cache,
        )


class _Ranked(NamedTuple):
    """An account that may serve it. `dimension`: what it waits for; `share`: that is left of its emptiest budget;
    `levels`: what is left, as `DIMENSIONS` are ordered."""

    account: str
    place: int
    wait_s: float
    dimension: Dimension | None
    share: float
    levels: tuple[float | None, ...]


class DryRuns:
    """Those of one pool. `overview` knows its keys, clients and limits."""

    def __init__(self, overview: Overview, store: Store) -> None:
        self._overview = overview
        self._stored_rules = StoredRules(store, overview.settings.pool)
        self._outlooks = CacheOutlooks(store, overview.settings.pool, overview.client_rules.directory.made_at)
        self._prices: tuple[date, dict[str, ModelPrices], PriceList] | None = None
        self._snapshot: Snapshot | None = None

    async def answer(self, asked: DryRun) -> DryRunAnswer:
        """Raises StoreUnavailable, StoreLost."""
        seen = _Seen(asked.endpoint)
        try:
            return await self._followed(asked, seen)
        except _Refused as refused:
            return seen.answer("refused", str(refused))
        except Refusal as refusal:
            return seen.answer("refused", str(refusal))

    async def _followed(self, asked: DryRun, seen: _Seen) -> DryRunAnswer:
        """In the steps of `request/path.py`. Raises _Refused, Refusal."""
        overview = self._overview
        await overview.sync.refresh()
        settings, roster = overview.settings, overview.roster
        client, teams = self._client(asked.client)
        down = Unsent(asked.endpoint, msgspec.json.encode(asked.body))
        endpoint = resolve(down.method, down.target)
        if isinstance(endpoint, ProxyError):
            raise _Refused(f"{endpoint.cause} {endpoint.remedy}".strip())
        seen.endpoint = endpoint.path or endpoint.name
        prices = await self._price_list(settings)
        charging = Charging(lambda: prices)
        charging.configure([] if client is None else [client], teams, settings.spend.time_zone)
        name = "" if client is None else client.id
        limited = client is not None and bool(client.models)
        whole = limited or charging.needs_models(name)
        request = await read_client_request(down, endpoint, settings, roster, every_model=limited, whole_forms=whole)
        seen.model, seen.group, seen.cost = request.model, request.group, request.cost
        most = charging.most(name, request)
        seen.usd_at_most = None if most is None else most / PICO
        refuse_model(client, request)
        charge = charging.charge(name, request)
        if self._names_objects(down, request, endpoint, is_keyed=client is not None):
            seen.apart = (
                "If it names stored objects, only the account that has them can serve it; that was not looked up."
            )
        now = await overview.ledger.registry.time()
        seen.cache = await self._outlooks.of(down, request, client, settings, now)
        if seen.cache.result == "hit":
            seen.cost, seen.usd_at_most, seen.wait_s = None, 0.0, 0.0
            if settings.cache.client_pays and charge is not None:
                seen.apart += " Whether its client's budgets have room for cache.client_pays was not looked up."
            return seen.answer("served_now", seen.cache.cause)
        await self._check_day(down)
        want = want_of(request, down.headers, name, client, await self._configuration(settings))
        blocked = await self._blocked(charge, client, seen)
        ready = await self._candidates(want, seen)
        if blocked is not None and (blocked.wait_s is None or blocked.wait_s > want.max_wait_s):
            raise refusal_of(blocked)
        return self._verdict(want, seen, ready, blocked)

    # ---- who asks

    def _client(self, name: str | None) -> tuple[Client | None, dict[str, RuleOptions]]:
        """The client, None for a request without its rules, and all teams. Raises _Refused."""
        settings, rules = self._overview.settings, self._overview.client_rules
        directory = rules.directory
        teams = {**directory.teams, **settings.teams}
        if name is None:
            return None, teams
        clients = rules.clients
        client = clients.get(name)
        if name in directory.suspended:
            raise _Refused(_CLIENT_KEY + replies.CLIENT_SUSPENDED.cause)
        if client is None and name in directory.unreadable:
            raise _Refused(f"{_CLIENT_KEY}what a newer version wrote about the client {name} is not understood here.")
        if client is None:
            raise _Refused(f"There is no client {name}, so its key is refused: {replies.INVALID_PROXY_KEY.cause}")
        if client.team is not None and client.team not in teams:
            raise _Refused(f"{_CLIENT_KEY}the client {name} is in the team {client.team}, which does not exist.")
        ends = client.expires_on
        if ends is not None and datetime(ends.year, ends.month, ends.day, tzinfo=UTC).timestamp() <= time.time():
            raise _Refused(f"{_CLIENT_KEY}{replies.CLIENT_EXPIRED.cause} ({ends.isoformat()}, UTC)")
        return client, teams

    # ---- what it costs

    async def _check_day(self, down: Unsent) -> None:
        """Raises Refusal (429): the pool's daily limit is spent."""
        if self._overview.settings.spend.daily_limit_usd is not None:
            limit = DailyLimit()
            limit.spent_until = (await self._overview.credit.assess(datetime.now(UTC), all_accounts=False)).closed_until
            limit.check(down.method, down.target)

    async def _price_list(self, settings: Settings) -> PriceList:
        today, written = datetime.now(UTC).date(), settings.prices
        if self._prices is None or self._prices[:2] != (today, written):
            cards = await asyncio.to_thread(compile_cards, today, written)
            self._prices = today, written, PriceList(cards)
        return self._prices[2]

    async def _configuration(self, settings: Settings) -> Snapshot:
        if self._snapshot is None or self._snapshot.settings is not settings:
            credentials = await asyncio.to_thread(credentials_of, settings)
            self._snapshot = Snapshot(settings, (), credentials, Nowhere(), {}, {})
        return self._snapshot

    def _names_objects(self, down: Unsent, request: ClientRequest, endpoint: Endpoint, *, is_keyed: bool) -> bool:
        text = None if request.body is None else request.text
        model, store = request.model, request.store
        name = endpoint.name
        return involves_objects(name, down.method, down.target, text, model=model, store=store, is_keyed=is_keyed)

    # ---- its client's rules

    async def _blocked(self, charge: Charge | None, client: Client | None, seen: _Seen) -> Blocked | None:
        """Which rules do not let it through, by the specification of the store's script; none: they all do."""
        if charge is None or client is None:
            return None
        standings = charge.standings
        reading = await self._stored_rules.read(charge.rules.subjects)
        now = reading.now
        counters: dict[str, Counters] = {}
        blocked: list[BlockedRule] = []
        for standing, needed in zip(standings, charge.amounts, strict=True):
            standing.turn(now)
            (level,) = reading.levels(standing.subject, [standing.rule], standing.zone)
            seen.rules.append(f"{subject_words(standing)}: {words(standing.rule)}; {_used(level)}")
            one = Asked(standing.rule, needed, standing.ends)
            counter = counters.setdefault(standing.subject, Counters())
            counter.begin(now, one, level.held if standing.rule.kind is Kind.SLOTS else level.used)
            if standing.rule.kind is Kind.BUDGET and level.held:
                counter.take(now, "others", [Asked(standing.rule, level.held, standing.ends)])
            found = counter.blocked(now, [one])
            blocked += (BlockedRule(standing, needed, one.used, one.held, one.wait_s) for one in found)
        return Blocked(tuple(blocked), now, charge.guessed) if blocked else None

    # ---- who could serve it

    async def _candidates(self, want: Want, seen: _Seen) -> list[_Ranked]:
        """The accounts that may have it, in the order in which they would be asked, as far as that is not random."""
        pool, now = self._overview.roster.pool, await self._overview.ledger.registry.time()
        accounts = list(pool.accounts.values())
        usable: list[Account] = []
        async for account in in_turns(accounts, _AT_ONCE):
            rests = want.may_try_resting and bool(account.resting) and account.resting[0][0] <= now
            if account.id in want.exclude:
                self._leave_out(seen, account, "its upstream does not have this model")
            elif account.usable or rests:
                usable.append(account)
            else:
                self._leave_out(seen, account, *self._why_out(account, now))
        levels = await self._looked_at(want, usable, now)
        headroom = Headroom()
        headroom.grow(1 + max((account.place for account in accounts), default=0))
        for one in levels:
            headroom.update(want.group, one.place, one.share, now)
        ranks = headroom.of(want.group)
        weights = {account.id: pool.weight_of(account.id) for account in usable if account.id in pool.accounts}

        def order(one: _Ranked) -> tuple[float, int, float, str]:
            return one.wait_s, *ranks.rank(one.place, weights[one.account], now), one.account

        levels = await ordered((one for one in levels if one.account in weights), order)
        seen.candidates += [
            _shown(one, pool.accounts.get(one.account)) for one in levels[:_MOST_SHOWN] if one.wait_s != NEVER
        ]
        never = [one for one in levels if one.wait_s == NEVER]
        seen.out_count += len(never)
        seen.out += [_shown(one, pool.accounts.get(one.account)) for one in never[:_MOST_SHOWN]]
        return levels

    async def _looked_at(self, want: Want, accounts: Sequence[Account], now: float) -> list[_Ranked]:
        roster, stored = self._overview.roster, self._overview.ledger.stored
        group = want.group
        ranked: dict[str, _Ranked] = {}
        by_name = {account.id: account for account in accounts}

        def look(account: Account, bucket: Bucket) -> None:
            written, burst_s = roster.limits_for(account.id, group), roster.settings.burst_for(account.id)
            bucket.refill(now, written, burst_s=burst_s)
            wait_s, dimension = bucket.wait(want.cost, written, burst_s, want.leave)
            levels = tuple(bucket.level(i) for i in range(len(DIMENSIONS)))
            shares = [
                level / depth if (depth := bucket.depth(i, written, burst_s)) > 0 else 0.0
                for i, level in enumerate(levels)
                if level is not None
            ]
            share = max(0.0, min(shares, default=1.0))
            ranked[account.id] = _Ranked(account.id, account.place, wait_s, dimension, share, levels)

        # One after the other: thousands of buckets are never held at once.
        async for name, bucket in stored.of(group, list(by_name) if group != NO_MODEL else []):
            look(by_name[name], bucket)
        async for account in in_turns(accounts, _AT_ONCE):
            if account.id not in ranked:
                look(account, Bucket(now))
        return list(ranked.values())

    def _why_out(self, account: Account, now: float) -> tuple[str, float | None]:
        """Of its keys' states, those that say most; and until when it rests, if it is tried then."""
        pool = self._overview.roster.pool
        records = [record for key in account.keys if (record := pool.record_of(key)) is not None]
        if not records:
            return "it has no key", None
        record = min(records, key=lambda one: one.firmness)  # the key that is nearest to coming back
        told = f"{record.state.value}: {record.reason}"
        todo = advice(record.reason, state=record.state.value)
        wait_s = record.until - now if record.until > now and record.state in _TRIED_AGAIN else None
        return f"{told}; {todo}" if todo else told, wait_s

    @staticmethod
    def _leave_out(seen: _Seen, account: Account, why: str, wait_s: float | None = None) -> None:
        seen.out_count += 1
        if len(seen.out) < _MOST_SHOWN:
            seen.out.append(Candidate(account.id, len(account.usable), {}, why, wait_s))

    # ---- what comes of it

    def _verdict(self, want: Want, seen: _Seen, ready: list[_Ranked], blocked: Blocked | None) -> DryRunAnswer:
        """Raises Refusal: it waits for too long, or for nothing."""
        if not ready:
            pool = self._overview.roster.pool
            raise refusal_of(Never("excluded" if pool.size else pool.why_empty()))
        first = ready[0]
        if first.wait_s == NEVER:
            raise refusal_of(Never("too_large"))
        rule_wait_s = 0.0 if blocked is None else blocked.wait_s or 0.0
        wait_s = max(first.wait_s, rule_wait_s)
        if wait_s == 0 and blocked is None:
            seen.wait_s = 0.0
            return seen.answer("served_now", f"Account {first.account} has room for it now.")
        seen.wait_s = round(wait_s, 3)
        queue = self._overview.settings.queue
        if wait_s > want.max_wait_s or queue.max_waiting == 0:
            reason = "rate_limit" if wait_s > want.max_wait_s else "queue_full"
            raise refusal_of(blocked) if blocked is not None else refusal_of(NoRoom(wait_s, reason, first.dimension))
        patience = f"it may wait for {want.max_wait_s:g} s"
        if rule_wait_s >= first.wait_s and blocked is not None:
            return seen.answer("waits", f"{refusal_of(blocked)} Here {patience}.")
        what = "its cool-down to end" if first.dimension is None else f"{_NAMES.get(first.dimension, 'room')}"
        return seen.answer(
            "waits",
            f"It waits {wait_s:.3f} s for {what}: account {first.account} is the first to have room; {patience}.",
        )


_TRIED_AGAIN: Final = frozenset({State.SUSPECT, State.QUARANTINED})
_NAMES: Final = {
    Dimension.RPM: "requests per minute (rpm)",
    Dimension.TPM: "tokens per minute (tpm)",
    Dimension.RPD: "requests per day (rpd)",
    Dimension.TPD: "tokens per day (tpd)",
    Dimension.IPM: "images per minute (ipm)",
}


def _shown(one: _Ranked, account: Account | None) -> Candidate:
    keys = 0 if account is None else len(account.usable)
    room = {
        dimension.value: round(level, 3)
        for dimension, level in zip(DIMENSIONS, one.levels, strict=True)
        if level is not None
    }
    if one.wait_s == 0:
        return Candidate(one.account, keys, room, "", 0.0)
    if math.isinf(one.wait_s):
        limit = _NAMES.get(one.dimension, "its budget") if one.dimension is not None else "its budget"
        return Candidate(one.account, keys, room, f"it is more than the whole limit of {limit}", None)
    what = "it cools down" if one.dimension is None else f"{_NAMES.get(one.dimension, 'its budget')} are short"
    return Candidate(one.account, keys, room, what, round(one.wait_s, 3))


def _used(level: Level) -> str:
    measure = level.rule.measure
    used = level.held if level.rule.kind is Kind.SLOTS else level.used
    held = f", {amount(measure, level.held)} held" if level.rule.kind is Kind.BUDGET and level.held else ""
    return f"{amount(measure, used)} used{held}"
