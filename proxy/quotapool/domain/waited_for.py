"""What a request waited for in the queue, or was refused by: an account's budget, its client's rules, or no usable key.

Shapes that are kept with a request for operators; nothing here decides anything.
"""

from __future__ import annotations

import msgspec


class RuleAtLimit(msgspec.Struct, frozen=True, array_like=True):
    """A rule of a client (`c/<id>`) or team (`t/<id>`) that did not let a request through. Amounts are the rule's own
    units, picodollars for money. `wait_s`: 0: as soon as other requests have settled; None: never."""

    subject: str
    rule: str
    limit: float
    used: float
    held: float
    needed: float
    wait_s: float | None


class WaitedFor(msgspec.Struct, frozen=True, array_like=True):
    """`group`: the model group. `dimension`: such as `tpm`; "": unknown. `account`: the one that would have room first;
    "": unknown. `reason`: why it was refused, as in `pool/want.py`; "": it was served after it had waited.

    `wait_s`: how long until there is room, when that was asked for last; None: never. `rules`: those of its client that
    held it up, and then there was nothing wrong with the accounts.
    """

    group: str
    dimension: str = ""
    account: str = ""
    reason: str = ""
    wait_s: float | None = 0.0
    rules: tuple[RuleAtLimit, ...] = ()

    @property
    def words(self) -> str:
        """For a log line: `tpm of gpt-4o, account acme`, `rules rpm, usd/day`, `a key for gpt-4o: money`."""
        if self.rules:
            return f"rules {', '.join(rule.rule for rule in self.rules)}"
        if self.wait_s is None:
            return f"a key for {self.group}: {self.reason}"
        what = f"{self.dimension or 'room'} of {self.group}"
        return f"{what}, account {self.account}" if self.account else what
