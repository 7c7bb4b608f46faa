"""What a request asks of the pool, and the answers that are no grant: refused until later, refused for good."""

from __future__ import annotations

import msgspec

from quotapool.domain.access import Use
from quotapool.domain.quantities import Cost, Dimension
from quotapool.ledger.grants import Blocked, Refused
from quotapool.ledger.rules import Charge


class Want(msgspec.Struct, eq=False):
    """What a request needs. `use`: what an account or a key may have no access to. `exclude`:
    accounts that already refused this very request.

    `max_wait_s`: how long it may wait in the queue, all attempts together.
    """

    group: str
    use: Use
    cost: Cost
    may_try_resting: bool
    max_wait_s: float
    exclude: set[str] = msgspec.field(default_factory=set)
    queued_s: float = 0.0  # seconds waited so far, all attempts together
    client: str = ""
    weight: float = 1.0
    priority: int = 0
    leave: float = 0.0  # share of each budget that must stay for others
    sticky: int | None = None  # requests with the same number like the same account
    tried_missing: bool = False  # an account was asked although it refused such requests lately
    only: frozenset[str] | None = None  # accounts that hold what the request names; None: any account will do
    charge: Charge | None = None  # what it takes from its client's rules; None: the client has none
    waited_for: Refused | Blocked | None = None  # the last reason why it had to wait; None: it had not

    @property
    def queue(self) -> str:
        """Which queue it waits in: requests for one certain account must not hold up those that any can serve."""
        return self.group if self.only is None else f"{self.group}\n{sorted(self.only)}"

    @property
    def client_queue(self) -> str:
        """Which queue it waits in while its client's own rules do not let it through."""
        return f"\n{self.client}"

    @property
    def share(self) -> float:
        """Its part of a budget, for fairness: a request and a thousand tokens weigh the same."""
        return self.cost.requests + self.cost.tokens / 1000


class Never(msgspec.Struct, frozen=True):
    """Refused, and waiting does not help. `reason`:

    too_large                          the request exceeds the whole budget of every account that could serve it
    money, spend_limit, dead, suspect  no account is usable, for this reason
    excluded                           every account has refused this very request
    pinned                             the one account that could serve it is out
    """

    reason: str


class NoRoom(msgspec.Struct, frozen=True):
    """Refused until later: budgets are used up, and there will be room in `wait_s`. `reason`: rate_limit, queue_full,
    queue_timeout, or draining."""

    wait_s: float
    reason: str
    dimension: Dimension | None
