"""What is known about the pool, as rows and as metrics: key states, bucket levels, credit."""

from __future__ import annotations

import math
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from quotapool import __version__
from quotapool.domain.bucket import DIMENSIONS, Bucket
from quotapool.domain.observer import Observer
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject, SubjectKind
from quotapool.keys.keyring import keyring
from quotapool.ledger.budgets import Ledger
from quotapool.money.credit_control import CreditControl
from quotapool.money.credit_report import credit_row
from quotapool.money.spend_store import SpendStore
from quotapool.observe.metrics import PoolMetrics
from quotapool.observe.shared_values import SharedValues
from quotapool.pool.roster import Roster
from quotapool.pool.sync import RosterSync
from quotapool.settings import Settings
from quotapool.store.store import StoreError

_log = structlog.get_logger()
_MOST_BUCKETS = 5_000  # bucket series on one page


class Overview:
    """`metrics_dir`: where the workers keep their metrics; None in a command."""

    def __init__(self, settings: Settings, ledger: Ledger, metrics_dir: Path | None = None) -> None:
        self.settings = settings
        self.ledger = ledger
        keys, _ = keyring(settings)
        self.roster = Roster(settings, keys)
        self.sync = RosterSync(self.roster, ledger, Observer())
        spend = SpendStore(ledger.store, settings.pool)
        self.credit = CreditControl(settings, ledger, spend, self.roster.pool)
        self._logged: set[tuple[str, str, str]] = set()
        self._removals_stopped = 0
        self._registry = CollectorRegistry()
        self.metrics = PoolMetrics(self._registry)
        if metrics_dir is not None:
            self._registry.register(SharedValues(metrics_dir))
        self.metrics.build_info[__version__, platform.python_version()].set(1)
        self.metrics.store_shared.set(0 if settings.redis is None else 1)

    def reload(self, settings: Settings) -> None:
        self.settings = self.credit.settings = settings
        self.roster.reload(settings, keyring(settings)[0])

    async def start(self) -> None:
        """Mark the store as having its data, and reset keys whose secret changed. Raises StoreUnavailable."""
        await self.ledger.registry.begin_epoch(reseeded=False)
        await self.reset_changed_keys()
        await self.sync.refresh()

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

    async def metrics_page(self) -> tuple[bytes, str]:
        """The `/metrics` page: body and content type. Without the store, only the rows from it are missing."""
        try:
            await self.ledger.check()
            await self.sync.refresh()
            now, buckets = await self.ledger.buckets()
            stopped = await self.ledger.registry.removals_stopped()
        except StoreError:
            self.metrics.store_up.set(0)
        else:
            self.metrics.removals_stopped.inc(max(0, stopped - self._removals_stopped))
            self._removals_stopped = stopped
            self.metrics.store_up.set(1)
            self._show_buckets(now, buckets)
        self._show_keys()
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _show_keys(self) -> None:
        pool = self.roster.pool
        counts = dict.fromkeys(State, 0)
        rows: dict[tuple[str, str, str], float] = {}
        for key in pool.keys.values():
            state = pool.state_of(key)
            counts[state] += 1
            rows |= {(key.id, key.account, s.value): float(s is state) for s in State}
        self.metrics.key_state.show(rows)
        self.metrics.keys.show({state.value: float(n) for state, n in counts.items()})

    def _show_buckets(self, now: float, buckets: Mapping[tuple[str, str], Bucket]) -> None:
        levels: dict[tuple[str, str, str], float] = {}
        limits: dict[tuple[str, str, str], float] = {}
        allowed: dict[tuple[str, str, str], float] = {}
        cooling: dict[tuple[str, str], float] = {}
        for (account, group), bucket in list(buckets.items())[:_MOST_BUCKETS]:
            # Only groups with limits named by upstream: a caller can invent models, and must not create series.
            if account not in self.roster.pool.accounts or max(bucket.learned) < 0:
                continue
            configured = self.settings.limits_for(account, group)
            bucket.refill(now, configured)
            cooling[account, group] = max(0.0, bucket.cool_until - now)
            for i, dimension in enumerate(DIMENSIONS):
                level = bucket.level(i)
                if level is not None:
                    levels[account, group, dimension.value] = level
                    limits[account, group, dimension.value] = bucket.limit(i, configured)
                limit = configured.of(dimension)
                if limit is not None and limit < bucket.learned[i] < math.inf:
                    allowed[account, group, dimension.value] = bucket.learned[i]
        self._log_higher_limits(allowed)
        self.metrics.bucket_level.show(levels)
        self.metrics.bucket_limit.show(limits)
        self.metrics.bucket_upstream_limit.show(allowed)
        self.metrics.cooldown.show(cooling)

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

    async def rows(self) -> list[dict[str, Any]]:
        """Each key as a JSON-like row: state, reason, and what is left by model group. Raises StoreUnavailable."""
        await self.sync.refresh()
        now, buckets = await self.ledger.buckets()
        wallets = (await self.credit.assess(datetime.now(UTC))).wallets
        cooling = _cooling(now, buckets)
        pool = self.roster.pool
        of_account: dict[str, dict[str, Bucket]] = defaultdict(dict)
        for (account, group), bucket in buckets.items():
            of_account[account][group] = bucket
        return [
            {
                "id": key.id,
                "account": key.account,
                "organization": pool.accounts[key.account].organization or None,
                **_state_row(pool.record_of(key)),
                "cooling_s": cooling.get(key.account, 0.0),
                "credit": credit_row(wallets[key.account]) if key.account in wallets else {},
                "budgets": self._budget_rows(key.account, now, of_account.get(key.account, {})),
            }
            for key in pool.keys.values()
        ]

    def _budget_rows(self, account: str, now: float, buckets: Mapping[str, Bucket]) -> Sequence[dict[str, Any]]:
        rows = []
        for group, bucket in buckets.items():
            configured = self.settings.limits_for(account, group)
            bucket.refill(now, configured)
            rows.append(
                {
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
            )
        return rows


def _cooling(now: float, buckets: Mapping[tuple[str, str], Bucket]) -> dict[str, float]:
    """By account: seconds until the first of its model groups may be used again; 0 if one may be used now."""
    waits: dict[str, float] = {}
    for (account, _), bucket in buckets.items():
        wait = round(max(0.0, bucket.cool_until - now), 3)
        waits[account] = min(wait, waits.get(account, wait))
    return waits


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
