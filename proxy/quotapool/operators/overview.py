"""What is known about the pool, as rows and as metrics: key states, bucket levels, credit."""

from __future__ import annotations

import asyncio
import platform
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from quotapool import __version__, build
from quotapool.cache.contents import CacheContents
from quotapool.domain.bucket import DIMENSIONS, Bucket
from quotapool.domain.observer import Observer
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject, SubjectKind
from quotapool.keys.keyring import keyring
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.clients import ClientDirectory, ClientStore
from quotapool.ledger.stored_rules import StoredRules
from quotapool.money.credit_control import CreditControl
from quotapool.money.credit_report import credit_row
from quotapool.money.spend_store import SpendStore
from quotapool.observe.metrics import PoolMetrics
from quotapool.observe.outside_store import OutsideStore
from quotapool.operators.big_answers import in_turns
from quotapool.operators.bucket_levels import BucketLevels
from quotapool.operators.client_rules import ClientRules, show
from quotapool.pool.roster import Roster
from quotapool.pool.sync import RosterSync
from quotapool.settings import Settings
from quotapool.shapes.general import OutsideUseRow
from quotapool.store.memory import memory
from quotapool.store.store import StoreError

_log = structlog.get_logger()
_MOST_BUCKETS = 5_000  # that a scrape shows one by one: the emptiest
_AT_ONCE = 1_000  # keys in one turn of the loop


class Overview:
    """What is known about the pool. It has a roster of its own, which `sync` keeps in step with the store."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.settings = settings
        self.ledger = ledger
        keys, _ = keyring(settings)
        self.roster = Roster(settings, keys)
        clients = ClientDirectory(ClientStore(ledger.store, settings.pool), lambda: None)
        self.sync = RosterSync(self.roster, ledger, Observer(), clients)
        self.client_rules = ClientRules(lambda: self.settings, clients, StoredRules(ledger.store, settings.pool))
        spend = SpendStore(ledger.store, settings.pool)
        self.credit = CreditControl(settings, ledger, spend, self.roster.pool)
        self._followed: tuple[int, str] | None = None  # version and epoch
        self._logged: set[tuple[str, str, str]] = set()
        self._removals_stopped = 0
        self.outside = OutsideStore(ledger.store, settings.pool)
        self._contents = CacheContents(ledger.store, settings.pool)
        self._had_cache = False
        self._left = 0, 0  # entries that were evicted, that expired, at the last scrape
        self.metrics = PoolMetrics(CollectorRegistry())
        self.metrics.build_info.show({(__version__, platform.python_version(), str(int(build.COMPILED))): 1})
        self.metrics.started.set(time.time())
        self.metrics.store_shared.set(0 if settings.redis is None else 1)

    async def reload(self, settings: Settings) -> None:
        """One at a time. A large pool is built in a thread."""
        new = await asyncio.to_thread(lambda: self.roster.prepare(settings, keyring(settings)[0]))
        self.settings = self.credit.settings = settings
        self.roster.reload(new)

    async def start(self) -> None:
        """Mark the store as having its data, and reset keys whose secret changed. Raises StoreUnavailable."""
        await self.ledger.registry.begin_epoch(reseeded=False)
        await self.reset_changed_keys()
        await self.sync.refresh()

    async def follow(self) -> float:
        """Read the states of keys again if they have changed; the store's time. Raises StoreUnavailable."""
        registry = self.ledger.registry
        now = await registry.poll()
        current = registry.version, registry.epoch
        if current != self._followed:
            await self.sync.refresh()
            self._followed = current
        return now

    async def reset_changed_keys(self) -> None:
        """Drop states that were observed with another secret than today's. Raises StoreUnavailable."""
        pool = self.roster.pool
        for subject, record in (await self.ledger.registry.records()).items():
            if subject.kind is SubjectKind.ORGANIZATION:
                await self._reset_organization(subject.id, record)
                continue
            of_account = subject.kind is SubjectKind.ACCOUNT
            holder = pool.accounts.get(subject.id) if of_account else pool.keys.get(subject.id)
            if holder is None or not record.fingerprint or record.fingerprint == holder.fingerprint:
                continue
            await self.ledger.registry.change_state(subject, None, by=OPERATOR, fingerprint=holder.fingerprint)
            _log.info("the secret changed, so the state is reset", subject=str(subject), was=record.state)

    async def _reset_organization(self, name: str, record: Record) -> None:
        """Its state is kept while any of its keys has the secret it was observed with."""
        prints = {key.fingerprint for account in self.roster.pool.organizations.get(name, ()) for key in account.keys}
        if prints and record.fingerprint and record.fingerprint not in prints:
            await self.ledger.registry.change_state(Subject.of_organization(name), None, by=OPERATOR, fingerprint="")
            _log.info("the secret changed, so the organisation's state is reset", organization=name, was=record.state)

    async def refresh_metrics(self) -> None:
        """Fill `metrics` from the store. Without the store, only what comes from it stays as it was.

        In a large pool this takes a while, in which the loop gets its turn every few milliseconds.
        """
        try:
            await self.ledger.check()
            await self.sync.refresh()
            await self._show_buckets()
            await self._show_outside_use()
            await self._show_cache()
            show(await self.client_rules.levels(), self.client_rules.expiries(), time.time(), self.metrics)
            stopped = await self.ledger.registry.removals_stopped()
            used, limit = await memory(self.ledger.store)
        except StoreError:
            self.metrics.store_up.set(0)
        else:
            self.metrics.removals_stopped.inc(max(0, stopped - self._removals_stopped))
            self._removals_stopped = stopped
            self.metrics.store_memory.set(used)
            self.metrics.store_memory_limit.set(limit)
            self.metrics.store_up.set(1)
        await self._show_keys()

    async def _show_outside_use(self) -> None:
        """Raises StoreLost."""
        named = await self.outside.named()
        self.metrics.outside_requests.show({one.name: one.requests_per_minute for one in named})
        self.metrics.outside_tokens.show({one.name: one.tokens_per_minute for one in named})

    async def _show_cache(self) -> None:
        """Raises StoreLost."""
        options = self.settings.cache
        self.metrics.cache_limit.set(options.max_size if options.models else 0)
        if not options.models and not self._had_cache:
            return
        self._had_cache = True  # entries are there for a while after it was switched off
        kept = await self._contents.stats()
        self.metrics.cache_entries.set(kept.entries)
        self.metrics.cache_bytes.set(kept.bytes)
        self.metrics.cache_evicted.inc(max(0, kept.evicted - self._left[0]))
        self.metrics.cache_expired.inc(max(0, kept.expired - self._left[1]))
        self._left = kept.evicted, kept.expired

    async def _show_keys(self) -> None:
        """With `detail: key` a row for each key and state, else only for the states of keys that cannot serve."""
        pool, every_key = self.roster.pool, self.settings.metrics.detail == "key"
        counts = dict.fromkeys(State, 0)
        rows: dict[tuple[str, str, str], float] = {}
        for number, key in enumerate(list(pool.keys.values())):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if key.account not in pool.accounts:  # it has left meanwhile
                continue
            state = pool.state_of(key)
            counts[state] += 1
            for one in State if every_key else (state,):
                if every_key or one is not State.ACTIVE:
                    rows[key.id, key.account, one.value] = float(one is state)
        self.metrics.key_state.show(rows)
        self.metrics.keys.show({state.value: float(n) for state, n in counts.items()})

    async def _show_buckets(self) -> None:
        """Raises StoreUnavailable."""
        now = await self.ledger.registry.time()
        most = 0 if self.settings.metrics.detail == "pool" else _MOST_BUCKETS
        found = BucketLevels(now, self.settings.limits_for, most)
        async for (account, group), bucket in self.ledger.stored.each():
            # Only groups with limits named by upstream: a caller can invent models, and must not create series.
            if account in self.roster.pool.accounts and max(bucket.learned) >= 0:
                found.add(account, group, bucket)
        self._log_higher_limits(await asyncio.to_thread(found.show, self.metrics))

    def _log_higher_limits(self, allowed: Mapping[tuple[str, str, str], float]) -> None:
        """Once for each limit that could be higher, as upstream allows more."""
        for (account, group, dimension), limit in allowed.items():
            if (account, group, dimension) not in self._logged:
                self._logged.add((account, group, dimension))
                _log.info(
                    "upstream allows more than the configured limit",
                    account=account,
                    model=group,
                    dimension=dimension,
                    upstream_limit=limit,
                )

    async def rows(self) -> AsyncIterator[dict[str, Any]]:
        """Each key as a JSON-like row: state, reason, and what is left by model group, which is JSON already: hundreds
        of thousands of small objects would keep the garbage collector busy. Raises StoreUnavailable.

        In a large pool this takes a while, in which the loop gets its turn every few milliseconds."""
        await self.sync.refresh()
        now = await self.ledger.registry.time()
        of_account: dict[str, bytes] = {}  # rows of JSON, with commas between them
        cooling: dict[str, float] = {}
        async for (account, group), bucket in self.ledger.stored.each():
            row = self._budget_row(account, group, bucket, now)
            cooling[account] = min(row["cooling_s"], cooling.get(account, row["cooling_s"]))
            before = of_account.get(account)
            of_account[account] = (before + b"," if before else b"") + msgspec.json.encode(row)
        wallets = (await self.credit.assess(datetime.now(UTC))).wallets
        outside: dict[str, list[OutsideUseRow]] = defaultdict(list)
        for one in await self.outside.named():
            outside[one.account].append(OutsideUseRow.of(one))
        pool = self.roster.pool
        async for key in in_turns(list(pool.keys.values())):
            if key.account not in pool.accounts:  # it has left meanwhile
                continue
            yield {
                "id": key.id,
                "account": key.account,
                "organization": pool.accounts[key.account].organization or None,
                **_state_row(pool.record_of(key)),
                "cooling_s": cooling.get(key.account, 0.0),
                "credit": credit_row(wallets[key.account]) if key.account in wallets else {},
                "outside_use": outside.get(key.account, []),
                "budgets": msgspec.Raw(b"[" + of_account.get(key.account, b"") + b"]"),
            }

    def _budget_row(self, account: str, group: str, bucket: Bucket, now: float) -> dict[str, Any]:
        configured = self.settings.limits_for(account, group)
        bucket.refill(now, configured)
        return {
            "model": group,
            "cooling_s": round(max(0.0, bucket.cool_until - now), 3),
            **{
                dimension.value: {
                    "limit": bucket.limit(i, configured),
                    "learned": bucket.learned[i] if 0 <= bucket.learned[i] < float("inf") else None,
                    "remaining": round(level, 3),
                }
                for i, dimension in enumerate(DIMENSIONS)
                if (level := bucket.level(i)) is not None
            },
        }


def _state_row(record: Record | None) -> dict[str, Any]:
    if record is None:
        return {"state": State.ACTIVE.value}
    return {
        "state": record.state.value,
        "reason": record.reason,
        "since": record.since,
        "next_try": record.until or None,
        "evidence": {
            "status": record.status,
            "message": record.message,
            "upstream_request_id": record.request_id,
            "by": record.by,
        },
    }
