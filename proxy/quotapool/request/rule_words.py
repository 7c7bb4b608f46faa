"""Clients' rules in words: for refusals, and for what a client sees of itself."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Final

from quotapool.domain.periods import Per
from quotapool.domain.rule_words import amount, words
from quotapool.domain.rules import Kind, Measure
from quotapool.ledger.grants import Blocked, BlockedRule
from quotapool.ledger.rules import TEAM, Standing
from quotapool.openai import replies
from quotapool.openai.ratelimits import format_duration
from quotapool.openai.refusal import Refusal

_MOST_NAMED: Final = 4  # rules in one message


def subject_words(standing: Standing) -> str:
    kind = "team" if standing.subject.startswith(TEAM) else "client"
    return f"{kind} {standing.subject.partition('/')[2]}"


def blocked_refusal(blocked: Blocked) -> Refusal:
    """429: every rule that does not let it through, how much of it is used, and when it resets."""
    rules = sorted(blocked.rules, key=lambda rule: math.inf if rule.wait_s is None else rule.wait_s, reverse=True)
    decides = rules[0]
    error = {
        Kind.RATE: replies.CLIENT_RATE_LIMITED,
        Kind.SLOTS: replies.CLIENT_CONCURRENCY,
        Kind.BUDGET: replies.CLIENT_BUDGET_EXHAUSTED,
    }[decides.standing.rule.kind]
    told = "The " + "; the ".join(_told(rule, blocked.at) for rule in rules[:_MOST_NAMED])
    if len(rules) > _MOST_NAMED:
        told += f"; and {len(rules) - _MOST_NAMED} more"
    wait_s = _wait_s(blocked, decides)
    if blocked.guessed and decides.standing.rule.kind is Kind.BUDGET:
        told += ", as long as it names no maximum for its answer (max_completion_tokens, max_output_tokens)"
    ending = "" if not math.isfinite(wait_s) else f" Please try again in {format_duration(max(wait_s, 0.001))}."
    refusal = Refusal(error, f"{told}.{ending}", retry_after_s=wait_s)
    refusal.rules = tuple(rule.standing.rule.id for rule in blocked.rules)
    return refusal


def _wait_s(blocked: Blocked, decides: BlockedRule) -> float:
    """Until the same request can succeed; inf: never."""
    if decides.wait_s is None:
        return math.inf
    if blocked.again_s is not None:
        return max(blocked.again_s, 0.001 if decides.wait_s else 1.0)
    return max(1.0, decides.wait_s) if blocked.wait_s is not None else math.inf


def _told(rule: BlockedRule, now: float) -> str:
    standing = rule.standing
    ours, measure = standing.rule, standing.rule.measure
    used = _number(measure, rule.used) if ours.kind is not Kind.SLOTS else _number(measure, rule.held)
    held = (
        f" and {_number(measure, rule.held)} held by requests under way"
        if ours.kind is Kind.BUDGET and rule.held
        else ""
    )
    one_of_many = measure in {Measure.REQUESTS, Measure.CONCURRENT}
    asks = "" if one_of_many else f", this request needs up to {amount(measure, rule.amount)}"
    return f"{subject_words(standing)} may use {words(ours)}: {used} used{held}{asks}{_resets(standing, rule, now)}"


def _number(measure: Measure, value: float) -> str:
    return amount(measure, value).split(" ")[0]


def _resets(standing: Standing, rule: BlockedRule, now: float) -> str:
    if rule.wait_s is None and rule.amount > standing.rule.limit:
        return ", which is more than there ever is"
    if standing.rule.kind is not Kind.BUDGET or standing.rule.per is Per.TOTAL:
        return ""
    # The store's clock may differ from this machine's.
    end = datetime.fromtimestamp(time.time() + standing.ends[0] - now, UTC).astimezone(standing.zone)
    return f", and it resets at {end.isoformat(timespec='minutes')}"
