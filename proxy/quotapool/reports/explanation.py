"""Why a request was refused, failed, was slow or was served, in plain words, from what is kept of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from quotapool.domain.outside import OutsideUse
from quotapool.domain.quantities import Dimension
from quotapool.domain.rule_words import amount
from quotapool.domain.rules import Measure
from quotapool.domain.waited_for import RuleAtLimit, WaitedFor
from quotapool.observe.kept_request import KeptRequest
from quotapool.openai import replies
from quotapool.reports.cache_words import cache_words
from quotapool.reports.timeline import Step, longest, span, timeline
from quotapool.shapes.general import OutsideUseRow
from quotapool.shapes.requests import iso

_TOGETHER_S: Final = 60.0  # requests with the same cause that are no further apart are one trouble
_MOST_PATIENCE_S: Final = 60.0  # a longer queue is no remedy: clients give up
_MAJORITY: Final = 0.5
_NAMES: Final = {
    Dimension.RPM.value: "requests per minute",
    Dimension.TPM.value: "tokens per minute",
    Dimension.RPD.value: "requests per day",
    Dimension.TPD.value: "tokens per day",
    Dimension.IPM.value: "images per minute",
    Dimension.PROJECT_TPM.value: "tokens per minute of the project",
}
_DAILY: Final = frozenset({"rpd", "tpd"})
_REPLIES: Final = {reply.code: reply for reply in replies.ALL}
_QUEUE: Final = frozenset({"rate_limit_exceeded", "queue_full", "queue_timeout"})
_RULES: Final = frozenset({"client_rate_limited", "client_concurrency", "client_budget_exhausted"})
_CAUSES: Final = {  # of codes that have one cause each
    "pool_credit_exhausted": "no_credit",
    "pool_spend_limit_reached": "spend_limit",
    "pool_daily_limit_reached": "daily_limit",
    "pool_no_usable_keys": "no_usable_key",
    "upstream_key_refused": "no_usable_key",
    "object_account_unavailable": "account_out",
    "model_not_available": "no_access",
    "request_too_large_for_pool": "too_large",
    "store_unavailable": "store_away",
    "upstream_unreachable": "upstream_unreachable",
    "upstream_timeout": "upstream_timeout",
    "upstream_protocol_error": "upstream_broke_off",
    "egress_refused": "network_refused",
    "draining": "stopping",
    "proxy_overloaded": "overloaded",
    "internal_error": "proxy_fault",
    "prices_not_loaded": "starting",
    "not_cached": "not_cached",
}
_REMEDIES: Final = {  # an operator's; for other codes a client's, from the catalogue
    "pool_credit_exhausted": "Add credit to one account at OpenAI; `quotapool check` shows which.",
    "pool_spend_limit_reached": "Raise one account's spend limit at OpenAI; `quotapool check` shows which.",
    "pool_daily_limit_reached": "Raise spend.daily_limit_usd, or wait for the next day.",
    "pool_no_usable_keys": "Run `quotapool check`: it says for each key what is wrong and what to do.",
    "object_account_unavailable": "Run `quotapool check`: only the account that holds the object can serve this.",
    "model_not_available": "Add one account that has access to the model, if its name is right.",
    "request_too_large_for_pool": "Let the client ask for fewer tokens, or add one account with a higher limit.",
    "store_unavailable": "Look at the store: docs/operations.md#the-store-is-down.",
    "upstream_timeout": "Raise timeouts.first_byte, if such answers are known to take longer.",
    "proxy_overloaded": "Raise max_concurrent or add workers.",
    "internal_error": "Look for the request's id in the log, and report it.",
    "draining": "Nothing: the client's retry reaches another replica, or this one once it has started again.",
}


class User(msgspec.Struct, frozen=True):
    """What a client used in the minutes that are looked at. `model`: "" for all of them."""

    client: str
    model: str
    requests: int
    tokens: int


class Window(msgspec.Struct, frozen=True):
    """The minutes before and around a refusal, Unix seconds, and who used what in them, the largest first."""

    since: float
    until: float
    users: Sequence[User]


class Explanation(msgspec.Struct):
    """`cause`: one word for it. `since`: when the first of a row of requests with this cause ended; `until`: when there
    was to be room again; null: unknown, or never by itself. `most_used_by`: in the minute of its end and the one
    before, of what it was short of. `remedy`: the cheapest; "": none needed. `longest`: what took most of the time.
    `cache`: what the cache did for it, and why it did no more; "": there is none for such a request. `outside_use`: of
    accounts whose room it waited for or was refused by, and that somebody else used then. `trace_id`: of the
    trace that its spans are in; "": they are not kept."""

    id: str
    cause: str
    summary: str
    since: str | None
    until: str | None
    most_used_by: list[User]
    remedy: str
    timeline: list[Step]
    longest: str
    cache: str = ""
    outside_use: list[OutsideUseRow] = []
    trace_id: str = ""


def explain(
    request: KeptRequest,
    earlier: Sequence[KeptRequest] = (),
    window: Window | None = None,
    outside: Sequence[OutsideUse] = (),
) -> Explanation:
    """`earlier`: kept requests that ended before it, of which those that are `alike` count. `outside`: outside use at
    that time, of which that counts whose room it was short of."""
    cause, summary = _cause(request)
    others = _others(request, outside)
    if others:
        summary += f" Somebody else used account {others[0].account} then: {others[0].words}."
    short = _refused_by(request)
    is_refused = bool(request.code)
    users = list(window.users) if window is not None and short is not None else []
    until = iso(request.ended + short.wait_s) if short is not None and short.wait_s else None
    return Explanation(
        id=request.id,
        cause=cause,
        summary=summary,
        since=iso(_since(request, earlier)) if is_refused else None,
        until=until,
        most_used_by=users,
        remedy=_remedy(request, cause, users, others) if is_refused or request.status >= 400 or request.cut else "",
        timeline=timeline(request),
        longest=longest(request),
        cache=cache_words(request),
        outside_use=[OutsideUseRow.of(one) for one in others],
        trace_id=request.trace_id,
    )


def alike(request: KeptRequest, other: KeptRequest) -> bool:
    """Whether another request that was refused was refused for the same cause."""
    ours, theirs = _refused_by(request), _refused_by(other)
    if ours is None or theirs is None:
        is_same = request.code == other.code and (ours is None) is (theirs is None)
        return is_same and bool(other.code) and (other.code in _CAUSES or request.client == other.client)
    if ours.rules:
        names = {(rule.subject, rule.rule) for rule in ours.rules}
        return any((rule.subject, rule.rule) in names for rule in theirs.rules)
    if ours.wait_s is None:
        return theirs.wait_s is None and (ours.group, ours.reason) == (theirs.group, theirs.reason)
    return not theirs.rules and (ours.group, ours.dimension) == (theirs.group, theirs.dimension)


def waited_for_room(request: KeptRequest) -> bool:
    """Whether it waited for accounts to have room, or was refused for want of it."""
    waited = request.waited_for
    return waited is not None and not waited.rules and waited.wait_s is not None


def _others(request: KeptRequest, outside: Sequence[OutsideUse]) -> list[OutsideUse]:
    """Whoever else used that room: first of the account that was to have room first, then who used most."""
    waited = request.waited_for
    if waited is None or not waited_for_room(request):
        return []
    found = [one for one in outside if one.group == waited.group]
    return sorted(found, key=lambda one: (one.account != waited.account, -one.tokens_per_minute, one.account))


def is_short_of_room(request: KeptRequest) -> bool:
    """Whether it matters who used how much at that time."""
    return request.code in _QUEUE | _RULES and request.waited_for is not None


def _refused_by(request: KeptRequest) -> WaitedFor | None:
    """None: it may have waited for something, but was not refused by that."""
    waited = request.waited_for
    return waited if request.code and waited is not None and waited.reason else None


def _since(request: KeptRequest, earlier: Sequence[KeptRequest]) -> float:
    """When the trouble began: back over requests alike, as long as they come close together."""
    since = request.ended
    before = (other.ended for other in earlier if other.ended <= request.ended and alike(request, other))
    for ended in sorted(before, reverse=True):
        if since - ended > _TOGETHER_S:
            break
        since = ended
    return since


def _cause(request: KeptRequest) -> tuple[str, str]:
    """One word, and a sentence."""
    code, waited = request.code, request.waited_for
    answered = f"Answered with {request.status}"
    if not code:
        return _without_code(request)
    refused = f"Refused with {request.status} {code}"
    if code in _RULES and waited is not None and waited.rules:
        return "client_rule", f"{refused}: {'; '.join(_rule(rule) for rule in waited.rules)}."
    if code in _QUEUE and waited is not None:
        room = _room(waited)
        if code == "queue_full":
            return "queue_full", f"{refused}: the queue was full, and those in it waited for {room}."
        if code == "queue_timeout":
            queued = span(request.queued_us)
            return "queue_timeout", f"{refused}: it waited {queued}, as long as it may, for {room}."
        return "account_limit", f"{refused}: no account had enough left of {room}."
    if code in _CAUSES and code in _REPLIES:
        group = f" (model group {waited.group})" if waited is not None else ""
        return _CAUSES[code], f"{answered} {code}{group}: {_REPLIES[code].cause}"
    known = _REPLIES.get(code)
    return "client_mistake" if request.status < 500 else "proxy_fault", (
        f"{refused}: {known.cause if known is not None else 'a newer version of the proxy knows why.'}"
    )


def _without_code(request: KeptRequest) -> tuple[str, str]:
    last = request.attempts[-1] if request.attempts else None
    if request.cut and (request.status == 499 or (last is not None and last.outcome == "cancelled")):
        when = "before the answer began" if request.first_byte_us is None else "while it was answered"
        return "client_left", f"The client closed the connection {when}, after {span(request.total_us)}."
    if request.cut:
        return "upstream_broke_off", f"Upstream broke off after the answer had begun, at {span(request.total_us)}."
    if request.status >= 400 and last is not None:
        why = f"{last.outcome} {last.reason}".strip()
        tried = f", after {len(request.attempts)} attempts" if len(request.attempts) > 1 else ""
        return "upstream_error", f"Answered with {request.status} by upstream itself{tried}: {why}."
    if request.source == "cache" and request.status >= 400:
        return "upstream_error", f"Answered with {request.status} by upstream itself, to an identical request."
    if request.source == "cache":
        if request.cache == "coalesced":
            return "served_coalesced", f"Served with {request.status} by the call of an identical request."
        return "served_from_cache", f"Served with {request.status} from the cache."
    after = []
    if request.queued_us and request.waited_for is not None:
        after.append(f"{span(request.queued_us)} in the queue for {request.waited_for.words}")
    elif request.queued_us:
        after.append(f"{span(request.queued_us)} in the queue")
    if len(request.attempts) > 1:
        after.append(f"{len(request.attempts)} attempts")
    cause = "served_after_wait" if request.queued_us else "served_after_retries" if after else "served"
    return cause, f"Served with {request.status}{' after ' if after else ''}{' and '.join(after)}."


def _room(waited: WaitedFor) -> str:
    name = f"{_NAMES[waited.dimension]} ({waited.dimension})" if waited.dimension in _NAMES else "its budget"
    first = f"; account {waited.account} was to have room first" if waited.account else ""
    return f"{name} for {waited.group}{first}"


def _measure(rule: str) -> Measure:
    head = rule.partition("/")[0]
    if head in {"tpm", "tpd", "tokens"}:
        return Measure.TOKENS
    return Measure.USD if head == "usd" else Measure.CONCURRENT if head == "concurrent" else Measure.REQUESTS


def _who(rule: RuleAtLimit) -> str:
    kind, _, name = rule.subject.partition("/")
    return f"{'team' if kind == 't' else 'client'} {name}"


def _rule(rule: RuleAtLimit) -> str:
    measure = _measure(rule.rule)
    used = amount(measure, rule.held if measure is Measure.CONCURRENT else rule.used).partition(" ")[0]
    held = f" and {amount(measure, rule.held)} held by requests under way"
    more = held if measure is not Measure.CONCURRENT and rule.held else ""
    return f"{_who(rule)} had used {used} of {amount(measure, rule.limit)} ({rule.rule}){more}"


def _remedy(request: KeptRequest, cause: str, users: Sequence[User], others: Sequence[OutsideUse]) -> str:
    waited = request.waited_for
    if cause == "client_rule" and waited is not None:
        rule = max(waited.rules, key=lambda one: math.inf if one.wait_s is None else one.wait_s)
        group = "teams" if rule.subject.startswith("t/") else "clients"
        option = "--budget" if "/" in rule.rule else f"--{rule.rule}"
        name = rule.subject.partition("/")[2]
        return f"If it may use more: `quotapool {group} set {name} {option} ...`; else nothing."
    if cause in {"account_limit", "queue_full", "queue_timeout"} and waited is not None:
        if others:
            return f"Find out who else uses account {others[0].account}: docs/outside-use.md says how."
        return _more_room(request, waited, users)
    if cause == "client_left":
        return "Raise the client's own timeout, if it left for that."
    if cause == "upstream_error":
        return "See what upstream's reason means in docs/keys.md; the client got upstream's own words."
    if request.code in _REMEDIES:
        return _REMEDIES[request.code]
    known = _REPLIES.get(request.code)
    return known.remedy if known is not None else "The client may retry, if doing the work twice is harmless."


def _more_room(request: KeptRequest, waited: WaitedFor, users: Sequence[User]) -> str:
    wait_s = waited.wait_s or 0.0
    tokens = sum(user.tokens for user in users)
    greedy = users[0] if users and tokens and users[0].tokens / tokens > _MAJORITY else None
    if request.code == "queue_full":
        return "Raise queue.max_waiting, if clients may wait longer."
    needed_s = math.ceil(request.queued_us / 1e6 + wait_s)
    if waited.dimension not in _DAILY and 0 < needed_s <= _MOST_PATIENCE_S:
        return f"Let requests wait longer: with queue.max_wait at {needed_s}s or more it could have been served."
    if greedy is not None and greedy.client != request.client:
        option = "tpd" if waited.dimension in _DAILY else "tpm"
        return f"Give client {greedy.client} a limit: `quotapool clients set {greedy.client} --{option} ...`."
    return f"Add one account, or ask OpenAI for more {_NAMES.get(waited.dimension, 'room')} for {waited.group}."
