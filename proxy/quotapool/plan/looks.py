"""One process's looks at the replayed pool: which accounts it asks for a request, and what next.

As `pool/reserve.py` does it, with the real pick of `domain/pool.py`.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from quotapool.domain.access import Use
from quotapool.domain.pool import PAIR, Key, Pool
from quotapool.domain.queueing import PRECEDENCE_S, ROUNDS, TIGHT_S, UNKNOWN_WAIT_S
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.ledger.grants import Refused
from quotapool.plan.budgets import Budgets, Grant, Want
from quotapool.plan.rules import Held
from quotapool.plan.scenario import Scenario
from quotapool.pool.want import Never


class Looks:
    """Of one process."""

    def __init__(self, scenario: Scenario, budgets: Budgets, rng: random.Random) -> None:
        self._budgets = budgets
        self._rng = rng
        self._pool = Pool(
            Key(key, account.id, "") for account in scenario.accounts for key in account.keys or (account.id,)
        )
        for account in scenario.accounts:
            self._pool.weigh(account.id, account.weight)
        self._closed = {account.id: account.closed_to for account in scenario.accounts if account.closed_to}
        self._tight: dict[str, float] = {}  # model group -> until when one account is too few to ask

    def closed_to(self, model: str) -> set[str]:
        """Accounts that have no access to this model."""
        return {account for account, models in self._closed.items() if model in models}

    def out(self, accounts: Collection[str], now: float) -> None:
        """These accounts, and no others, are out."""
        record = Record(State.DISABLED, "outage", now, by=OPERATOR)
        self._pool.apply_states({Subject.of_account(account): record for account in accounts})

    def ask(self, want: Want, now: float, *, owner: str = "", arrived: float) -> Grant | Refused | Held | Never:
        """A grant, how long until there is room, or why there never will be."""
        hints: tuple[str, ...] = ()
        result: Refused | None = None
        for _ in range(ROUNDS):
            few = not want.exclude and self._tight.get(want.group, 0.0) < now
            accounts = self._pick(want, hints, now, few=few)
            if not accounts:
                if result is not None and result.dimension is not None and result.wait_s is None:
                    return Never("too_large")
                return Never(self._why_nobody(want))
            answer = self._budgets.reserve(
                want,
                accounts,
                now,
                owner=owner,
                arrived=arrived - want.priority * PRECEDENCE_S,
                forget=[name for name in hints if name not in accounts],
            )
            if isinstance(answer, Held):
                return answer
            if isinstance(answer, Grant):
                self.note_headroom(answer, answer.headroom, now)
                return answer
            result = answer
            self._tight[want.group] = now + TIGHT_S
            if answer.wait_s is None and answer.dimension is not None:
                if want.only is not None or self._pool.size <= len(accounts):
                    return Never("too_large")
                want.exclude.update(accounts)  # look for a larger account among the others
                hints = (self._budgets.largest(want.group),)
            elif answer.hints and answer.hints != hints:
                hints = answer.hints
            elif not few or want.only is not None or self._pool.size <= len(accounts):
                break
        if result is not None and result.wait_s is None and result.dimension is not None:
            return Never("too_large")
        if result is None or result.wait_s is None:
            return Refused(UNKNOWN_WAIT_S, None)
        return result

    def note_headroom(self, grant: Grant, headroom: float, now: float) -> None:
        account = self._pool.accounts[grant.account]
        self._pool.note_headroom(account.place, grant.want.group, headroom, now)

    @property
    def size(self) -> int:
        """Accounts that can serve."""
        return self._pool.size

    def _why_nobody(self, want: Want) -> str:
        if want.only is not None and not set(want.only) <= want.exclude:
            return "pinned"
        return "excluded" if self._pool.size else self._pool.why_empty()

    def _pick(self, want: Want, hints: Sequence[str], now: float, *, few: bool) -> list[str]:
        accounts = self._pick_of(want, hints, now, few=few)
        if not accounts and self._pool.size > PAIR and want.only is None:
            everyone = list(self._pool.accounts)
            self._rng.shuffle(everyone)
            accounts = self._pick_of(want, everyone, now, few=False)
        return accounts

    def _pick_of(self, want: Want, prefer: Sequence[str], now: float, *, few: bool) -> list[str]:
        seats = self._pool.pick(
            want.group,
            Use(want.one.model),
            now=now,
            rng=self._rng,
            exclude=want.exclude,
            prefer=prefer,
            few=few,
            only=want.only,
        )
        return [self._pool.key_at(seat).account for seat in seats]
