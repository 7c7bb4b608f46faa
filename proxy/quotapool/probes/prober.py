"""The prober: tries resting keys that no request tries by a call of our own, so that they come back by themselves.

A probe is a trial like any other (`ledger.reserve` with `may_try_resting`), so of all replicas one makes it, less and
less often, and none if a request was faster. Its result is handled like any other answer, by `Roster`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Final, Literal

import structlog

from quotapool.domain.observer import Observer
from quotapool.domain.pool import Key
from quotapool.domain.quantities import Certainty, Cost, Usage
from quotapool.domain.states import OBSERVED, OPERATOR, State
from quotapool.domain.subject import Subject
from quotapool.domain.verdict import OK, Kind, Scope, Verdict
from quotapool.domain.wallet import PICO
from quotapool.ledger.budgets import Granted, Ledger
from quotapool.money.spend_store import PROBES, Entry, SpendStore
from quotapool.pool.key_health import KeyHealth
from quotapool.pool.sync import RosterSync
from quotapool.probes.calls import EMBEDDING, EMBEDDING_PICO, Calls, ProbeAnswer, chat_model, most_pico
from quotapool.settings import Settings
from quotapool.store.store import StoreError

_log = structlog.get_logger()
_EVERY_S: Final = 1.0
_GRACE_S: Final = 3.0  # for which a request may try the key first
_AT_ONCE: Final = 8
_TOO_DEAR_S: Final = 600.0  # until an account is probed again after the day's money was used up
_NO_MODEL: Final = "-"
_DAY_KEPT_S: Final = 2 * 86_400

Purpose = Literal["validity", "credit"]
Result = Literal["well", "resting", "removed", "unclear", "too_dear"]

# Suspicions that a list of models cannot clear: the key may read, but not infer.
_INFERENCE: Final = frozenset({"missing_scope_model_request", "inference_not_authorized_error"})
# Verdicts that a key gets only if upstream accepted it.
_RECOGNISED: Final = frozenset({Kind.OK, Kind.MODEL, Kind.WAIT, Kind.SLOW_DOWN, Kind.TOO_LARGE})
_NOT_THIS_CALL: Final = frozenset({Kind.MODEL, Kind.REQUEST, Kind.STATE})  # another endpoint or model may do


class NotProbed(Exception):
    """Why a key is not probed, as a text for the operator."""


class Prober:
    """Probes one pool's keys. With `spend`, the cost of probes is part of the accounts' spend."""

    def __init__(
        self,
        settings: Settings,
        sync: RosterSync,
        ledger: Ledger,
        calls: Calls,
        observer: Observer,
        *,
        spend: SpendStore | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self.calls = calls
        self.roster = sync.roster
        self._sync = sync
        self._health = KeyHealth(sync)
        self._ledger = ledger
        self._observer = observer
        self._spend = spend
        self._rng = rng or random.Random()
        self._records_of = (-1, "")  # version and epoch of the records we have
        self._busy: dict[str, asyncio.Task[None]] = {}  # account -> its probe
        self._not_before: dict[str, float] = {}  # account -> monotonic time
        self._chat_models: dict[str, str] = {}  # account without embeddings -> the chat model that answered

    async def run(self) -> None:
        """Probe what is due each second, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.probe_due()
            except StoreError:
                continue
            except Exception:  # noqa: BLE001 - otherwise keys would silently stop coming back
                _log.exception("keys cannot be probed")

    async def probe_due(self) -> None:
        """Start the probes that are due. Raises StoreUnavailable."""
        now = await self._ledger.registry.poll()
        current = self._ledger.registry.version, self._ledger.registry.epoch
        if self._records_of != current:
            await self._sync.refresh()
            self._records_of = current
        for key in self.roster.pool.due(now - _GRACE_S, self._rng):
            if len(self._busy) >= _AT_ONCE:
                return
            known = key.id in self.calls.credentials and self.calls.credentials.route(key.id) is None
            if not known or key.account in self._busy or self._not_before.get(key.account, 0.0) > time.monotonic():
                continue
            self._start(key.account, self._try(key))

    def _start(self, account: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._busy[account] = task
        task.add_done_callback(lambda _: self._busy.pop(account, None))

    async def wait_idle(self) -> None:
        """Wait until the probes under way have ended."""
        if self._busy:
            await asyncio.wait(self._busy.values())

    # ---- one probe

    async def _try(self, key: Key) -> None:
        try:
            await self._trial(key)
        except StoreError:
            return
        except Exception:  # noqa: BLE001 - see `run`
            _log.exception("a probe failed", key=key.id)

    async def _trial(self, key: Key) -> None:
        record = self.roster.pool.record_of(key)
        if record is None:
            return
        of_money = record.state is State.QUARANTINED or record.reason in _INFERENCE
        purpose: Purpose = "credit" if of_money else "validity"
        if of_money and not await self._set_aside(EMBEDDING_PICO):
            self._not_before[key.account] = time.monotonic() + _TOO_DEAR_S
            self._observer.probed(key.id, purpose, "too_dear")
            return
        group, cost = (self.roster.group_of(EMBEDDING), Cost(1, 1)) if of_money else (_NO_MODEL, Cost(1))
        candidate = self.roster.candidate(key, group)
        granted = await self._ledger.reserve(group, cost, [candidate], may_try_resting=True)
        if not isinstance(granted, Granted) or not granted.is_trial:  # a request was faster, or there is no budget
            if isinstance(granted, Granted):
                self._ledger.give_back(granted)
            if of_money:
                await self._return_money(EMBEDDING_PICO)
            return
        found, verdict = ProbeAnswer(), Verdict(Kind.SERVICE)
        try:
            found = await (self._credit(key) if of_money else self.calls.models(key.id))
            verdict = _verdict_of(found, purpose)
        finally:
            self._ledger.settle(granted, back=Cost(0, 1) if verdict.kind is not Kind.OK else Cost(0))
        task = self._health.report(verdict, granted, status=found.status, request_id=found.request_id)
        if task is not None:
            await task
        self._observer.probed(key.id, purpose, _result(verdict))

    async def _credit(self, key: Key) -> ProbeAnswer:
        """An embedding, whose price was set aside; else a chat, if the day has money left for it."""
        model = self._chat_models.get(key.account, "")
        if not model:
            found = await self.calls.embed(key.id)
            await self._charge(key, EMBEDDING, EMBEDDING_PICO, found)
            if found.verdict.kind not in _NOT_THIS_CALL:
                return found
            listed = await self.calls.models(key.id)
            model = chat_model(listed, await self._served())
            if not model:
                return found
        else:
            await self._return_money(EMBEDDING_PICO)
        most = most_pico(model)
        if not await self._set_aside(most):
            return ProbeAnswer(Verdict(Kind.SERVICE, "too_dear"))
        found = await self.calls.chat(key.id, model)
        await self._charge(key, model, most, found)
        if found.verdict.kind in _NOT_THIS_CALL:
            self._chat_models.pop(key.account, None)
        else:
            self._chat_models[key.account] = model
        return found

    async def _served(self) -> list[str]:
        """Model groups for which upstream has named limits: the pool has used them."""
        _, buckets = await self._ledger.stored.all()
        return sorted({group for (_, group), bucket in buckets.items() if max(bucket.learned) >= 0})

    # ---- money

    @property
    def _money_key(self) -> str:
        return f"{self._ledger.prefix}:probes:{datetime.now(UTC):%Y-%m-%d}"

    async def _set_aside(self, pico: int) -> bool:
        """Set money aside for a probe, if the day has it left, all replicas together. Raises StoreError."""
        store, key = self._ledger.store, self._money_key
        spent = int(await store.guard(store.client.incrby(key, pico)))
        await store.guard(store.client.expire(key, _DAY_KEPT_S))
        if spent <= self.settings.probe_budget_usd * PICO:
            return True
        await store.guard(store.client.decrby(key, pico))
        return False

    async def _return_money(self, pico: int) -> None:
        """What was set aside and not spent. Raises StoreError."""
        store = self._ledger.store
        await store.guard(store.client.decrby(self._money_key, pico))

    async def _charge(self, key: Key, model: str, set_aside: int, found: ProbeAnswer) -> None:
        """A refusal costs nothing; any other answer, or none, may have cost what was set aside."""
        if found.status >= 400:
            await self._return_money(set_aside)
            return
        if self._spend is None:
            return
        usage = _usage_in(found.document)
        entry = Entry(
            key.account, key.id, model, PROBES, "probe", set_aside, prompt=usage.prompt, completion=usage.completion
        )
        await self._spend.add([entry])

    # ---- for operators

    async def probe_now(self, key_id: str, *, refresh: bool = True, actor: str = "") -> Verdict:
        """Try this key with upstream at once, whatever its state, and act on the answer: success ends what was observed
        of the key, its account and organisation, as `actor` says (an operator's name). Unless `refresh`, the caller
        reads the states, before the first and after the last of many keys. Raises NotProbed, StoreError."""
        if refresh:
            await self._sync.refresh()
        pool = self.roster.pool
        key = pool.keys.get(key_id)
        if key is None:
            raise NotProbed(f"there is no key {key_id}")
        record = pool.record_of(key)
        if record is not None and record.by == OPERATOR and record.state is State.REMOVED:
            raise NotProbed(f"an operator removed {key_id}; `quotapool keys enable {key_id}` takes that back first")
        found, purpose = await self.calls.models(key_id), "validity"
        verdict = _verdict_of(found, "validity")
        routed = self.calls.credentials.route(key_id) is not None
        if verdict.kind is Kind.OK and not routed and await self._set_aside(EMBEDDING_PICO):
            found, purpose = await self._credit(key), "credit"
            verdict = _verdict_of(found, "credit")
        if verdict.kind is Kind.OK:
            await self._lift(key, actor, of_money=purpose == "credit")
            if refresh:
                await self._sync.refresh()
        else:
            candidate = self.roster.candidate(key, _NO_MODEL)
            await self._health.found(
                verdict, candidate, status=found.status, request_id=found.request_id, refresh=refresh
            )
        return verdict

    async def _lift(self, key: Key, actor: str, *, of_money: bool) -> None:
        account = self.roster.pool.accounts[key.account]
        lifted: list[tuple[Subject, None, str]] = []
        for subject, fingerprint in (
            (Subject.of_key(key.id), key.fingerprint),
            (Subject.of_account(account.id), account.fingerprint),
            (Subject.of_organization(account.organization), ""),
        ):
            record = self.roster.pool.records.get(subject)
            if record is None or record.by != OBSERVED or (record.state is State.QUARANTINED and not of_money):
                continue
            lifted.append((subject, None, fingerprint))
        await self._ledger.registry.set_states(lifted, actor)


def _verdict_of(found: ProbeAnswer, purpose: Purpose) -> Verdict:
    """The verdict on the key by an answer to a probe."""
    verdict = found.verdict
    if purpose == "credit":
        return verdict
    if verdict.kind in _RECOGNISED:
        return OK
    if verdict.kind is Kind.SUSPECT and found.status == 401 and found.in_json:
        # The second 401, to a call that any valid key may make: that confirms it.
        return Verdict(Kind.DEAD, verdict.reason, Scope.KEY, verdict.message)
    return verdict


def _result(verdict: Verdict) -> Result:
    if verdict.kind is Kind.OK:
        return "well"
    if verdict.kind is Kind.DEAD:
        return "removed"
    return "resting" if verdict.kind in {Kind.MONEY, Kind.SUSPECT} else "unclear"


def _usage_in(document: Any) -> Usage:
    usage = document.get("usage") if isinstance(document, dict) else None
    if not isinstance(usage, dict):
        return Usage(Certainty.AT_LEAST)
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Usage(
        Certainty.EXACT, prompt if isinstance(prompt, int) else 0, completion if isinstance(completion, int) else 0
    )
