"""One look at the pool for one request: which accounts to ask, what the ledger answers, and what to ask next.

Usually one account is named, the fuller of two random ones. When that has no room, a handful is named, then those that
the store points to; a request that is too large for a handful is offered to the largest account known.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Final

from quotapool.domain.observer import Observer
from quotapool.domain.pool import PAIR
from quotapool.domain.quantities import Dimension
from quotapool.domain.queueing import PRECEDENCE_S, ROUNDS, TIGHT_S, UNKNOWN_WAIT_S
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.grants import Blocked, Granted, Refused
from quotapool.pool.sync import RosterSync
from quotapool.pool.want import Never, Want

_MOST_GROUPS: Final = 1_000  # model groups of which something is remembered


class Reserver:
    """Asks the ledger for one process's requests. Remembers which model groups are short, and who is largest."""

    def __init__(self, sync: RosterSync, ledger: Ledger, observer: Observer) -> None:
        self._sync = sync
        self._roster = sync.roster
        self._ledger = ledger
        self._observer = observer
        self._tight: dict[str, float] = {}  # model group -> until when one account is too few to ask
        self._largest: dict[str, tuple[float, str]] = {}  # model group -> the largest token limit seen, and whose
        self._rng = random.Random()

    async def ask(
        self, want: Want, *, owner: str = "", arrived: float | None = None
    ) -> Granted | Refused | Blocked | Never:
        """One look at the pool: a grant, how long until there is room, or why there never will be. Blocked: its
        client's own rules do not let it through.

        `owner`: who waits in a queue, and since when (`arrived`, monotonic seconds). Raises StoreUnavailable.
        """
        hints: tuple[str, ...] = ()
        result: Refused | None = None
        for _ in range(ROUNDS):
            few = not want.exclude and (not self._tight or self._tight.get(want.group, 0.0) < time.monotonic())
            seats = self._pick(want, hints, few=few)
            if not seats:
                if result is not None and result.dimension is not None and result.wait_s is None:
                    return Never("too_large")
                return Never(self._why_nobody(want))
            candidates = self._roster.candidates(want.group, seats)
            asked = {candidate.account for candidate in candidates} if hints else ()
            answer = await self._ledger.reserve(
                want.group,
                want.cost,
                candidates,
                may_try_resting=want.may_try_resting,
                forget=[name for name in hints if name not in asked] if hints else (),
                leave=want.leave,
                owner=owner,
                arrived=(time.monotonic() if arrived is None else arrived) - want.priority * PRECEDENCE_S,
                alone=want.only is not None,
                charge=want.charge,
            )
            if isinstance(answer, Blocked):
                self._observer.reserved("blocked")
                return answer
            if isinstance(answer, Granted):
                self._observer.reserved("granted_local" if answer.local else "granted")
                self._roster.pool.note_headroom(answer.candidate.place, want.group, answer.headroom, time.time())
                self._note_largest(answer)
                return answer
            result = answer
            self._note_tight(want.group)
            if answer.dead:
                await self._sync.refresh()
            elif answer.wait_s is None and answer.dimension is not None:
                if want.only is not None or self._roster.pool.size <= len(seats):
                    return Never("too_large")
                want.exclude.update(c.account for c in candidates)  # look for a larger account among the others
                hints = self._largest_of(want.group)
            elif answer.hints and answer.hints != hints:
                hints = answer.hints
            elif not few or want.only is not None or self._roster.pool.size <= len(seats):
                break
        self._observer.reserved("refused_local" if self._ledger.away else "refused")
        if result is not None and result.wait_s is None and result.dimension is not None:
            return Never("too_large")  # neither for a handful of accounts nor for the largest one known
        if result is None or result.wait_s is None:
            return Refused(UNKNOWN_WAIT_S, None)
        return result

    def _why_nobody(self, want: Want) -> str:
        if want.only is not None and not want.only <= want.exclude:
            return "pinned"
        return "excluded" if self._roster.pool.size else self._roster.pool.why_empty()

    def _note_largest(self, granted: Granted) -> None:
        written, learned = granted.candidate.written[1], granted.learned.get(Dimension.TPM, -1.0)
        limit = learned if written < 0 else written if learned < 0 else min(written, learned)
        known, account = self._largest.get(granted.group, (0.0, ""))
        if limit == known:
            return
        if limit > known or account == granted.candidate.account:
            if len(self._largest) > _MOST_GROUPS:
                self._largest.clear()
            self._largest[granted.group] = limit, granted.candidate.account

    def _largest_of(self, group: str) -> tuple[str, ...]:
        """The account with the largest token limit that was observed or written."""
        limit, account = max(self._largest.get(group, (0.0, "")), self._roster.largest_written(group))
        return (account,) if limit > 0 else ()

    def _note_tight(self, group: str) -> None:
        if len(self._tight) > _MOST_GROUPS:
            self._tight.clear()
        self._tight[group] = time.monotonic() + TIGHT_S

    def _pick(self, want: Want, hints: tuple[str, ...], *, few: bool) -> list[int]:
        pool = self._roster.pool
        seats = self._pick_of(want, hints, few=few)
        if not seats and pool.size > PAIR and want.only is None:
            # A random handful held no account that may serve this: before giving up, look at all of them.
            everyone = list(pool.accounts)
            self._rng.shuffle(everyone)
            seats = self._pick_of(want, everyone, few=False)
        if not seats and pool.missing.active and not want.tried_missing:
            # All that are left refused such requests lately. One of them is asked: it may have the model by now, and
            # if it has not, the client gets upstream's own answer.
            want.tried_missing = True
            seats = self._pick_of(want, list(pool.accounts) if pool.size > PAIR else (), few=False, avoid_missing=False)
        return seats

    def _pick_of(self, want: Want, prefer: Sequence[str], *, few: bool, avoid_missing: bool = True) -> list[int]:
        return self._roster.pool.pick(
            want.group,
            want.use,
            now=time.time(),
            rng=self._rng,
            exclude=want.exclude,
            may_try_resting=want.may_try_resting and not self._ledger.away,  # only the store can make it one trial
            prefer=prefer,
            sticky=want.sticky,
            few=few,
            only=want.only,
            avoid_missing=avoid_missing,
        )
