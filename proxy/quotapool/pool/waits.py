"""What a request waited for, from admission's answers. Pure, and called only for those that waited or were refused."""

from __future__ import annotations

from quotapool.domain.waited_for import RuleAtLimit, WaitedFor
from quotapool.ledger.grants import Blocked, Refused
from quotapool.pool.want import Never, NoRoom, Want


def waited_for(want: Want, answer: NoRoom | Never | Blocked | None) -> WaitedFor | None:
    """`answer` None: it has a grant. None is returned if it did not have to wait for that."""
    short = want.waited_for
    if isinstance(answer, Never):
        return WaitedFor(want.group, reason=answer.reason, wait_s=None)
    if isinstance(answer, Blocked):
        return waited_for_rules(want.group, answer)
    reason = "" if answer is None else answer.reason
    if isinstance(short, Blocked):
        return _rules(want.group, short, reason)
    if short is None:
        return None if answer is None else WaitedFor(want.group, reason=reason, wait_s=answer.wait_s)
    wait_s = short.wait_s or 0.0 if answer is None else answer.wait_s
    return WaitedFor(want.group, short.dimension or "", _account(want, short), reason, wait_s)


def waited_for_rules(group: str, blocked: Blocked) -> WaitedFor:
    """Its client's own rules do not let it through."""
    return _rules(group, blocked, "rules")


def _account(want: Want, short: Refused) -> str:
    if want.only is not None and len(want.only) == 1:
        return next(iter(want.only))
    return short.hints[0] if short.hints else ""


def _rules(group: str, blocked: Blocked, reason: str) -> WaitedFor:
    rules = tuple(
        RuleAtLimit(
            one.standing.subject,
            one.standing.rule.id,
            one.standing.rule.limit,
            one.used,
            one.held,
            one.amount,
            one.wait_s,
        )
        for one in blocked.rules
    )
    wait_s = blocked.wait_s if blocked.again_s is None else blocked.again_s
    return WaitedFor(group, reason=reason, wait_s=wait_s, rules=rules)
