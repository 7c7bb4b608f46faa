"""Every change of state there is, and whether it may take place: written out, not computed.

One table for `domain/states.py` and for `ledger/lua/state.lua`, so that both keep the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from quotapool.domain.states import OBSERVED, OPERATOR, WALLET, Record, State


def record(state: State, by: str = OBSERVED, *, reason: str = "", fingerprint: str = "print") -> Record:
    """`reason`: one of its own for each state, unless given."""
    return Record(state, reason or f"because-{state}", 0.0, by=by, fingerprint=fingerprint)


@dataclass(frozen=True)
class Transition:
    before: Record | None  # None: active
    after: Record | None
    by: str
    allowed: bool

    def __str__(self) -> str:
        names = [f"{r.state}({r.by})" if r else "active" for r in (self.before, self.after)]
        return f"{names[0]}->{names[1]} by {self.by}: {'yes' if self.allowed else 'no'}"


# before \ after:   active  suspect  quarantined  removed      as seen by us
_OBSERVED = {
    None: ("no", "yes", "yes", "yes"),
    State.SUSPECT: ("yes", "yes", "yes", "yes"),
    State.QUARANTINED: ("yes", "no", "yes", "yes"),
    State.REMOVED: ("no", "no", "no", "yes"),
}
_AFTER = (None, State.SUSPECT, State.QUARANTINED, State.REMOVED)
_OPERATORS = (State.DRAINING, State.DISABLED, State.REMOVED)


def _all() -> list[Transition]:
    table = [
        Transition(before and record(before), after and record(after, reason="again"), OBSERVED, allowed == "yes")
        for before, row in _OBSERVED.items()
        for after, allowed in zip(_AFTER, row, strict=True)
    ]
    # What an operator set, no observation changes; what anybody set, an operator does.
    for set_by_operator in _OPERATORS:
        table += [
            Transition(record(set_by_operator, OPERATOR), after and record(after), OBSERVED, allowed=False)
            for after in _AFTER
        ]
    # The wallet's quarantine: over what is observed up to its own rank, not over what is worse; only the wallet or an
    # operator lifts it, and no observation that is not worse replaces it.
    quarantined = record(State.QUARANTINED, WALLET)
    for before, allowed in ((None, "yes"), (State.SUSPECT, "yes"), (State.QUARANTINED, "yes"), (State.REMOVED, "no")):
        table.append(Transition(before and record(before), quarantined, WALLET, allowed == "yes"))
        table.append(Transition(before and record(before), None, WALLET, allowed=False))
    for after, by, allowed in (
        (None, WALLET, "yes"),
        (None, OBSERVED, "no"),
        (None, OPERATOR, "yes"),
        (record(State.SUSPECT), OBSERVED, "no"),
        (record(State.QUARANTINED), OBSERVED, "no"),
        (record(State.REMOVED), OBSERVED, "yes"),
        (record(State.DISABLED, OPERATOR), OPERATOR, "yes"),
    ):
        table.append(Transition(quarantined, after, by, allowed == "yes"))
    for set_by_operator in _OPERATORS:
        table += [Transition(record(set_by_operator, OPERATOR), a, WALLET, allowed=False) for a in (None, quarantined)]
    held = [None, *(record(s) for s in _AFTER if s), *(record(s, OPERATOR) for s in _OPERATORS)]
    for before in held:
        table += [Transition(before, record(after, OPERATOR), OPERATOR, allowed=True) for after in _OPERATORS]
        table.append(Transition(before, None, OPERATOR, allowed=before is not None))
    return table


TRANSITIONS = _all()
