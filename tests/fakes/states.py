"""Every change of state there is, and whether it may take place: written out, not computed.

One table for `domain/states.py` and for `ledger/lua/state.lua`, so that both keep the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.domain.states import OBSERVED, OPERATOR, Record, State


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
    held = [None, *(record(s) for s in _AFTER if s), *(record(s, OPERATOR) for s in _OPERATORS)]
    for before in held:
        table += [Transition(before, record(after, OPERATOR), OPERATOR, allowed=True) for after in _OPERATORS]
        table.append(Transition(before, None, OPERATOR, allowed=before is not None))
    return table


TRANSITIONS = _all()
