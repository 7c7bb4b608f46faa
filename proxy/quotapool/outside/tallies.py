"""Tallies what each answer shows of outside use, in one process: sums in memory, sent to the store every ten seconds.

`saw` is called for each answer that names limits, so it only compares and adds. What waits is bounded, and what does
not reach the store is lost: evidence that is missing names nobody.
"""

from __future__ import annotations

from typing import Final

from quotapool.domain.bucket import BREATH_S, DIMENSIONS
from quotapool.domain.outside_tally import Tally
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.grants import Granted

_RPM, _TPM, _RPD = 1, 2, 3  # of evidence, as the ledger's script counts
_DAY_S: Final = 86_400.0
_MINUTE_S: Final = 60.0
_WAS_UNBOUNDED: Final = -1e17
MANY: Final = 64  # answers of one account and model group between two calls, of which each is compared
ONE_OF: Final = 4  # of further ones
_MOST: Final = 50_000  # (account, model group)s between two calls; 30 MB
# Until then a store that lost its data, or was away from somebody, has buckets that are fuller than upstream's.
UNSURE_S: Final = 120.0

Name = tuple[str, str]
"""Account, model group."""


class OutsideTallies:
    """One process's. `enabled` may be set at any time."""

    def __init__(self) -> None:
        self.enabled = True
        self._tallies: dict[Name, Tally] = {}
        self._sure_from = 0.0  # the store's second
        self._epoch = ""

    def saw(self, granted: Granted, evidence: list[tuple[float, ...]]) -> None:
        """What upstream named for a reservation: rows as `evidence_of` of the ledger makes them."""
        if granted.at < self._sure_from or not self.enabled:
            return
        account, group = granted.candidate.account, granted.group
        tally = self._tallies.get((account, group))
        if tally is None:
            tally = self._new(account, group)
            if tally is None:
                return
        tally.seen += 1
        if tally.seen > MANY and tally.seen % ONE_OF:
            return  # it is known well enough
        at, written, learned = granted.at, granted.candidate.written, granted.learned
        for row in evidence:
            index = int(row[0])
            limit, kept = row[1], row[3]
            # A limit that has just changed: our level is of the old one.
            if kept < _WAS_UNBOUNDED or index > _RPD or learned.get(DIMENSIONS[index - 1]) != limit:
                continue
            wrote = written[index - 1]
            ours = wrote if 0 <= wrote < limit else limit
            lacks = limit - row[2]
            if index == _RPD:
                full = ours * (_DAY_S - BREATH_S) / _DAY_S
                tally.day.note_requests(at, limit, _DAY_S, lacks, full - kept, row[7])
                continue
            span = min(granted.candidate.burst_s, _MINUTE_S)
            full = ours * max(span - BREATH_S, span * 0.5) / _MINUTE_S
            if index == _RPM:
                tally.requests.note_requests(at, limit, _MINUTE_S, lacks, full - kept, row[7])
            else:
                cost = float(granted.cost.tokens)
                tally.kept.note_tokens(at, limit, cost, lacks, full - kept, row[7])
                tally.corrected.note_tokens(at, limit, cost, lacks, full - row[4], row[8])

    def overran(self, granted: Granted) -> None:
        """An answer used far more tokens than were reserved for it."""
        tally = self._tallies.get((granted.candidate.account, granted.group))
        if tally is not None:
            tally.overruns += 1

    def _new(self, account: str, group: str) -> Tally | None:
        if len(self._tallies) >= _MOST:
            return None
        tally = self._tallies[account, group] = Tally()
        return tally

    def taken(self) -> dict[Name, Tally]:
        """What was tallied since the last call."""
        tallies, self._tallies = self._tallies, {}
        return tallies

    def drain(self, ledger: Ledger) -> dict[Name, Tally]:
        """What was tallied since the last call, if the store was there all the time and kept its data."""
        tallies = self.taken()
        if ledger.away:
            self._epoch, self._sure_from = "", ledger.now() + UNSURE_S
            return {}
        if ledger.registry.epoch != self._epoch:
            self._epoch = ledger.registry.epoch
            self._sure_from = max(self._sure_from, began_at(self._epoch) + UNSURE_S)
            return {}
        return tallies


def began_at(epoch: str) -> float:
    """The store's second at which it got its epoch, `f:<second>` or `r:<second>`; 0 if it has none."""
    return float(epoch[2:] or 0)
