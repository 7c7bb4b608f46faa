"""A reservation that only one account can give: what has begun there cannot move to another one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from quotapool.domain.quantities import Cost
from quotapool.ledger.budgets import Blocked, Candidate, Charge, Granted, Ledger, Refused, StoreUnavailable
from quotapool.openai import replies
from quotapool.openai.refusal import Refusal
from quotapool.pool.admission import DRAINING
from quotapool.pool.want import Never, NoRoom
from quotapool.request.refusals import refusal_of

_LONGEST_NAP_S: Final = 1.0
_SETTLES_AGAIN_S: Final = 0.05  # while others hold what it needs


async def reserve_at(
    ledger: Ledger,
    group: str,
    cost: Cost,
    candidate: Callable[[], Candidate],
    *,
    request_id: str,
    patience_s: float,
    stops: Callable[[], bool] = lambda: False,
    elsewhere: Callable[[], Awaitable[bool]] | None = None,
    charge: Charge | None = None,
) -> Granted:
    """Wait for room there, at most `patience_s`, and not once it `stops`. `charge`: of its client's rules.

    If there is none at once, `elsewhere` may make another account the candidate's. Raises Refusal (429, 503), and what
    `candidate` raises.
    """
    came = time.monotonic()
    owner = f"{request_id}/{came}"
    granted: Granted | None = None
    try:
        while True:
            answer = await ledger.reserve(group, cost, [candidate()], owner=owner, arrived=came, charge=charge)
            if isinstance(answer, Granted):
                granted = answer
                return granted
            if elsewhere is not None and not isinstance(answer, Blocked):
                moved, elsewhere = await elsewhere(), None
                if moved:
                    ledger.release(group, owner)  # what was claimed on the account before
                    continue
            wait_s = _wait_of(answer)
            if stops():
                raise refusal_of(DRAINING)
            if time.monotonic() + wait_s > came + patience_s:
                raise refusal_of(
                    answer if isinstance(answer, Blocked) else NoRoom(wait_s, "rate_limit", answer.dimension)
                )
            await asyncio.sleep(min(wait_s, _LONGEST_NAP_S))
    except StoreUnavailable as gone:
        raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from gone
    finally:
        if granted is None:
            ledger.release(group, owner)


def _wait_of(answer: Refused | Blocked) -> float:
    """Seconds until there is room. Raises Refusal if waiting does not help."""
    if isinstance(answer, Blocked):
        if answer.wait_s is None:
            raise refusal_of(answer)
        return max(answer.wait_s, _SETTLES_AGAIN_S)
    if answer.dead:
        raise refusal_of(Never("dead"))
    if answer.wait_s is None:
        raise refusal_of(Never("too_large"))
    return answer.wait_s
