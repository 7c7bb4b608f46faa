"""What an error answer of OpenAI means, and what it concerns: the table decides, and nothing else.

Compare `_RULES` with the error tables of OpenAI's error-code guide: the first row that matches wins. Rows are ordered
by what they rely on: (status, code), then type, then message, then the status alone.

A caller can make upstream repeat the caller's own words (a model name, an unknown value). Therefore rows that could
take a key out of the pool match a message only at its start, which is always OpenAI's own.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from quotapool.domain.access import Access
from quotapool.domain.redact import mask
from quotapool.domain.verdict import OK, Kind, Scope, Verdict
from quotapool.openai.head import Head
from quotapool.openai.jsontext import BROKEN, object_in
from quotapool.openai.ratelimits import parse_duration

_LONGEST_MESSAGE: Final = 300
_LONGEST_READ: Final = 4_000  # characters of a message that are searched, since a hostile body may be huge


@dataclass(frozen=True, slots=True)
class _Rule:
    """One row. Empty cells match anything; `code` and `type` may contain `*`; `^` anchors a message at its start."""

    statuses: frozenset[int]
    code: str
    type: str
    message: str  # lower case
    kind: Kind
    scope: Scope = Scope.NONE
    reason: str = ""  # empty: upstream's code

    def matches(self, error: _Error) -> bool:
        return (
            (not self.statuses or error.status in self.statuses)
            and (not self.code or fnmatchcase(error.code, self.code))
            and (not self.type or fnmatchcase(error.type, self.type))
            and (
                error.lowered.startswith(self.message[1:])
                if self.message.startswith("^")
                else self.message in error.lowered
            )
        )


@dataclass(frozen=True, slots=True)
class _Error:
    """Upstream's error, read tolerantly. `lowered` is the message in lower case, for matching."""

    status: int
    code: str = ""
    type: str = ""
    message: str = ""
    lowered: str = ""
    is_json: bool = True


class _Response(msgspec.Struct, gc=False):
    """What `failure_in` reads: a response that is not streamed can report a failure with HTTP status 200."""

    object: str = ""
    status: str | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_response: Final = msgspec.json.Decoder(_Response)

NO_PROMPT: Final = "prompt_not_found"  # the reason if an account lacks a stored prompt, not a model

_STREAM: Final = 200  # an error inside an answer that began with 200
_ANY: Final = frozenset[int]()
_400: Final = frozenset({400, _STREAM})
_401: Final = frozenset({401, _STREAM})
_402: Final = frozenset({402})
_403: Final = frozenset({403, _STREAM})
_404: Final = frozenset({400, 404, _STREAM})  # "not found" is 400 for objects named in a body
_429: Final = frozenset({429, _STREAM})
_5XX: Final = frozenset({500, 502, 503, 504, _STREAM})
_AUTH: Final = frozenset({401, 403, _STREAM})
_MONEY: Final = frozenset({400, 402, 403, 429, _STREAM})  # images answer 400, everything else 429
_ENDED: Final = frozenset({400, 401, 403, 429, _STREAM})  # termination was seen with several
_VERIFY: Final = frozenset({400, 403, 404, _STREAM})
_BUSY: Final = _5XX | {429}

# The scope of money and death follows the guide: a project's limit does not affect its organisation's other projects.
# An ambiguous wording counts for the account only, since each other account will show the same with its next refusal.
_K, _A, _O, _N = Scope.KEY, Scope.ACCOUNT, Scope.ORGANIZATION, Scope.NONE

# fmt: off
_RULES: Final[tuple[_Rule, ...]] = tuple(_Rule(*row) for row in (
    # statuses, code, type, message -> kind, scope, reason ("": upstream's code)

    # By code, dead: somebody must act.
    (_AUTH, "invalid_api_key", "", "", Kind.DEAD, _K),
    (_ENDED, "account_deactivated", "", "", Kind.DEAD, _O),
    (_ENDED, "access_terminated", "", "", Kind.DEAD, _O),
    (_AUTH, "not_authorized_invalid_project", "", "", Kind.DEAD, _A),  # an archived project
    (_ENDED, "", "", "^organization has been restricted", Kind.DEAD, _O, "organization_restricted"),
    # Termination can come as a 429; this sentence is proof, whatever the code says.
    (_ENDED, "", "", "^your access was terminated", Kind.DEAD, _O, "access_terminated"),

    # By code, money: since mid-2026 the cause is in the code, the type is often still insufficient_quota.
    (_MONEY, "credit_balance_exhausted", "", "", Kind.MONEY, _O),
    (_MONEY, "organization_spend_limit_exceeded", "", "", Kind.MONEY, _O),
    (_MONEY, "project_spend_limit_exceeded", "", "", Kind.MONEY, _A),
    (_MONEY, "organization_usage_limit_exceeded", "", "", Kind.MONEY, _O),
    (_MONEY, "insufficient_quota", "", "", Kind.MONEY, _A),
    (_MONEY, "billing_not_active", "", "", Kind.MONEY, _O),
    (_MONEY, "billing_hard_limit_reached", "", "", Kind.MONEY, _A),

    # By code, our own configuration or network.
    (_ANY, "mismatched_organization", "", "", Kind.HEADER),
    (_ANY, "mismatched_project", "", "", Kind.HEADER),
    (_ANY, "ip_not_authorized", "", "", Kind.EGRESS),
    (_ANY, "unsupported_country_region_territory", "", "", Kind.EGRESS),

    # By code, permissions. Without model.request a key cannot infer at all; otherwise it lacks one endpoint.
    (_AUTH, "missing_scope", "", "model.request", Kind.SUSPECT, _N, "missing_scope_model_request"),
    (_AUTH, "missing_scope", "", "", Kind.MODEL),
    (_ANY, "inference_not_authorized_error", "", "", Kind.SUSPECT),
    (_VERIFY, "", "", "^your organization must be verified", Kind.MODEL, _N, "organization_not_verified"),
    (_VERIFY, "model_not_found", "", "", Kind.MODEL),
    (_404, "deploymentnotfound", "", "", Kind.MODEL, _N, "deployment_not_found"),  # Azure OpenAI
    (_ANY, "data_residency_mismatch", "", "", Kind.MODEL),

    # By code, wait.
    (_429, "rate_limit_exceeded", "", "^request too large", Kind.TOO_LARGE, _N, "request_too_large"),
    (_429, "rate_limit_exceeded", "", "^you exceeded your current quota", Kind.MONEY, _A, "insufficient_quota"),
    (_429, "rate_limit_exceeded", "", "", Kind.WAIT),
    (_429, "slow_down", "", "", Kind.SLOW_DOWN),

    # By code, OpenAI itself.
    (_ANY, "resource_unavailable", "", "", Kind.SERVICE),  # flex has no capacity; nothing is charged
    (_BUSY, "server_is_overloaded", "", "", Kind.SERVICE),
    (_BUSY, "server_error", "", "", Kind.SERVICE),
    (_BUSY, "vector_store_timeout", "", "", Kind.SERVICE),

    # By code, the object lives in another account.
    (_404, "previous_response_not_found", "", "", Kind.STATE),
    (_404, "invalid_encrypted_content", "", "", Kind.STATE),

    # By code, the caller's content. Never sent to another key: repeated refusals cost the organisation access.
    (_ANY, "invalid_prompt", "", "", Kind.REQUEST),
    (_ANY, "*policy*", "", "", Kind.REQUEST),  # bio_policy, cyber_policy, content_policy_violation, ...
    (_ANY, "*moderation*", "", "", Kind.REQUEST),
    (_ANY, "content_filter", "", "", Kind.REQUEST),

    # By type.
    (_ENDED, "", "access_terminated", "", Kind.DEAD, _O, "access_terminated"),
    (_MONEY, "", "insufficient_quota", "", Kind.MONEY, _A),
    (_MONEY, "", "billing_not_active", "", Kind.MONEY, _O),
    (_403, "", "request_forbidden", "", Kind.EGRESS),
    (_ANY, "", "ip_not_authorized", "", Kind.EGRESS),
    (_BUSY, "", "server_error", "", Kind.SERVICE),
    (_BUSY, "", "service_unavailable_error", "", Kind.SERVICE),

    # By message: answers of 2023 with null codes, and those whose code is not known for certain.
    (_AUTH, "", "", "^incorrect api key provided", Kind.DEAD, _K, "invalid_api_key"),
    (_AUTH, "", "", "^you must be a member of an organization to use the api", Kind.DEAD, _K, "not_a_member"),
    (_ENDED, "", "", "^the openai account associated with this api key has been deactivated",
     Kind.DEAD, _O, "account_deactivated"),
    (_ENDED, "", "", "^this key is associated with a deactivated account", Kind.DEAD, _O, "account_deactivated"),
    (_ENDED, "", "", "^your openai account has been deactivated", Kind.DEAD, _O, "account_deactivated"),
    (_MONEY, "", "", "^you exceeded your current quota", Kind.MONEY, _A, "insufficient_quota"),
    (_MONEY, "", "", "^you have no credits remaining", Kind.MONEY, _O, "credit_balance_exhausted"),
    (_MONEY, "", "", "^your account is not active, please check your billing", Kind.MONEY, _O, "billing_not_active"),
    (_MONEY, "", "", "^billing hard limit has been reached", Kind.MONEY, _A, "billing_hard_limit_reached"),
    (_AUTH, "", "", "^openai-organization header should match", Kind.HEADER, _N, "mismatched_organization"),
    (_AUTH, "", "", "^openai-project header should match", Kind.HEADER, _N, "mismatched_project"),
    (_ANY, "", "", "^no such organization", Kind.HEADER, _N, "no_such_organization"),
    (_AUTH, "", "", "^your ip is not authorized", Kind.EGRESS, _N, "ip_not_authorized"),
    (_403, "", "", "^country, region, or territory not supported", Kind.EGRESS, _N,
     "unsupported_country_region_territory"),
    (_AUTH, "", "", "missing scopes: model.request", Kind.SUSPECT, _N, "missing_scope_model_request"),
    (_AUTH, "", "", "missing scopes:", Kind.MODEL, _N, "missing_scope"),
    (_403, "", "", "does not have access to model", Kind.MODEL, _N, "model_not_found"),
    (_403, "", "", "^you are not allowed to", Kind.MODEL, _N, "model_not_allowed"),  # "... sample from this model"
    (_404, "", "", "^the model `", Kind.MODEL, _N, "model_not_found"),
    (_404, "", "", "^model '", Kind.MODEL, _N, "model_not_found"),  # servers that speak OpenAI's API
    (_404, "", "", '^model "', Kind.MODEL, _N, "model_not_found"),
    (_404, "", "", "^prompt with id", Kind.MODEL, _N, NO_PROMPT),  # belongs to one project, like a fine-tuned model
    (_400, "", "", "^invalid service_tier argument: the requested service tier is not allowed",
     Kind.MODEL, _N, "service_tier_not_allowed"),
    (_400, "", "", "^previous response cannot be used for this organization due to zero data retention",
     Kind.MODEL, _N, "zero_data_retention"),
    (_404, "", "", "^previous response with id", Kind.STATE, _N, "previous_response_not_found"),
    (_404, "", "", "^item with id", Kind.STATE, _N, "item_not_found"),
    (_404, "", "", "^cannot find file", Kind.STATE, _N, "file_not_found"),
    (_AUTH, "", "", "must be made with a session key", Kind.REQUEST, _N, "session_key_required"),
    (_429, "", "", "^request too large", Kind.TOO_LARGE, _N, "request_too_large"),
    (_429, "", "", "^rate limit reached", Kind.WAIT, _N, "rate_limit_exceeded"),
    (_429, "", "", "^rate limit exceeded", Kind.WAIT, _N, "rate_limit_exceeded"),
    (_429, "", "", "^you've exceeded the rate limit", Kind.WAIT, _N, "rate_limit_exceeded"),
    (_429, "", "", "resource unavailable", Kind.SERVICE, _N, "resource_unavailable"),
    (_BUSY, "", "", "currently overloaded", Kind.SERVICE, _N, "server_is_overloaded"),

    # By status alone, the only one that concerns an account.
    (_402, "", "", "", Kind.MONEY, _A, "payment_required"),
))
# fmt: on

# What a MODEL verdict is about, by its reason or by the sentence after the one that the row has. (reason, message ->
# access, feature); the first that fits. Facts: OpenAI's messages, see docs/keys.md.
_ACCESS: Final[tuple[tuple[str, str, Access, str], ...]] = (
    ("missing_scope", "", Access.ENDPOINT, ""),
    ("organization_not_verified", "to stream", Access.FEATURE, "stream"),
    ("organization_not_verified", "reasoning summar", Access.FEATURE, "reasoning_summary"),
    ("service_tier_not_allowed", "", Access.FEATURE, "service_tier"),
    ("zero_data_retention", "", Access.REQUEST, ""),
    ("data_residency_mismatch", "", Access.REQUEST, ""),
    ("", "", Access.MODEL, ""),
)

# By status alone, if no row matches. 407 comes from our own forward proxy, 451 is about our location; the SDKs retry
# 408 (upstream gave up waiting) and 409 (a conflict) themselves.
_BY_STATUS: Final[dict[int, Kind]] = {
    401: Kind.SUSPECT,
    403: Kind.SUSPECT,
    407: Kind.EGRESS,
    408: Kind.SERVICE,
    429: Kind.WAIT,
    451: Kind.EGRESS,
}

_WAITING: Final = frozenset({Kind.WAIT, Kind.SLOW_DOWN, Kind.SERVICE})
_WORD: Final = re.compile(r"[a-z0-9_]{1,64}")
_METRIC: Final = re.compile(r"\b(requests|tokens|images) per (min|day)|\((RPM|TPM|RPD|TPD|IPM)\)", re.IGNORECASE)
_LIMIT: Final = re.compile(r"\blimit:? (\d[\d,]{0,18})(?=\.?\s|/|\.?\Z)", re.IGNORECASE)
_REQUESTED: Final = re.compile(r"\brequested:? (\d[\d,]{0,18})", re.IGNORECASE)
_SHARED: Final = re.compile(r"\(for limit ([^()\s]{1,100})\)", re.IGNORECASE)
_AGAIN: Final = re.compile(
    r"\b(?:try again|retry) (?:in|after) "
    r"(?:(\d{1,9}(?:\.\d{1,9})?) ?(seconds?|minutes?|hours?|days?)\b|([\d.]+[a-zµ][\w.]*))",
    re.IGNORECASE,
)
_WORD_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def classify(status: int, headers: Head, body: bytes) -> Verdict:
    """The verdict on one answer of upstream. Never raises.

    `body` has no content encoding any more and is only read for
    errors, so b"" may be passed for a success. `retry_after_s` comes from `retry-after-ms`, `retry-after` (seconds; a
    date would need a clock), or the message.
    """
    if status < 400:
        return OK
    document = object_in(body)
    if document is None:
        error = _Error(status, message=_readable(body), is_json=False)
    else:
        error = _error(status, _first_object(document.get("error")) or document)
    verdict = _judge(error, _retry_after(headers))
    if status == 429 and not error.is_json and verdict.retry_after_s is None and not _names_limits(headers):
        # Not OpenAI's words: a page or nothing, as Cloudflare sends if our own address is the trouble (error 1015).
        return Verdict(Kind.EGRESS, "http_429", message=verdict.message)
    return verdict


def _names_limits(headers: Head) -> bool:
    return "x-ratelimit-limit-requests" in headers or "x-ratelimit-limit-tokens" in headers


def classify_stream_error(payload: bytes) -> Verdict:
    """The verdict on the JSON of one SSE `data:` line, or one WebSocket event; OK if it is not an error.

    Shapes: chat's `{"error": {…}}`; responses' `{"type": "error", "code", "message"}` and
    `{"type": "response.failed", "response": {"error": {"code", "message"}}}`; Realtime's `response.done` with
    `status_details.error`; the WebSocket's `{"type": "error", "status": 400, "error": {…}}`. Never raises.
    """
    document = object_in(payload)
    if document is None:
        return OK  # "[DONE]", or text of a dialect without JSON errors
    event = _text(document.get("type"))
    response = document.get("response")
    found = _first_object(document.get("error"))
    if found is None and isinstance(response, dict):
        details = response.get("status_details")
        found = _first_object(response.get("error"), details.get("error") if isinstance(details, dict) else None)
    if found is None and event in {"error", "response.failed"}:
        found = document if event == "error" else {}
    if found is None:
        return OK
    status = document.get("status")
    return _judge(_error(status if isinstance(status, int) and 400 <= status < 600 else _STREAM, found), None)


def failure_in(body: bytes) -> bytes | None:
    """The failure in a whole answer of the Responses API, as a stream would have reported it (`response.failed`), for
    `classify_stream_error`; None if the body is anything but a failed response with an error."""
    if body.find(b'"failed"') < 0:  # nearly always: nothing is decoded
        return None
    try:
        response = _response.decode(body)
    except BROKEN:
        return None
    if response.object != "response" or response.status != "failed" or bytes(response.error) == b"null":
        return None
    return b'{"type":"response.failed","response":{"status":"failed","error":' + bytes(response.error) + b"}}"


def _judge(error: _Error, retry_after_s: float | None) -> Verdict:
    rule = next((rule for rule in _RULES if rule.matches(error)), None) if error.is_json else None
    if rule is not None:
        kind, scope, reason = rule.kind, rule.scope, rule.reason or _word(error.code) or _word(error.type)
    else:
        kind, scope, reason = _by_status(error), Scope.NONE, _word(error.code) or _word(error.type)
    message = mask(error.message)[:_LONGEST_MESSAGE]
    reason = reason or ("stream_error" if error.status == _STREAM else f"http_{error.status}")
    wait_s = None
    if kind in _WAITING:
        wait_s = retry_after_s if retry_after_s is not None else _wait_in(error.message)
    if kind in {Kind.WAIT, Kind.TOO_LARGE}:
        return _rate_limit(Verdict(kind, reason, scope, message, wait_s), error)
    if kind is Kind.MODEL:
        access, feature = next(
            (access, feature)
            for known, words, access, feature in _ACCESS
            if known in {"", reason} and words in error.lowered
        )
        return Verdict(kind, reason, scope, message, access=access, feature=feature)
    return Verdict(kind, reason, scope, message, wait_s)


def _by_status(error: _Error) -> Kind:
    if error.status == _STREAM:
        # An unexplained error may be tried elsewhere; one with an unknown code is not repeated.
        return Kind.REQUEST if error.code or error.type == "invalid_request_error" else Kind.SERVICE
    if not error.is_json and (error.status == 403 or (error.status == 401 and error.message.startswith("<"))):
        return Kind.EGRESS  # a page of Cloudflare or of a proxy in between
    return _BY_STATUS.get(error.status, Kind.SERVICE if error.status >= 500 else Kind.REQUEST)


def _rate_limit(verdict: Verdict, error: _Error) -> Verdict:
    """`verdict` with the details that the message gives of the limit that was hit."""
    message = error.message
    metric = _METRIC.search(message)
    dimension, daily = "", False
    if metric is not None:
        short = (metric[3] or "").upper()
        dimension = (metric[1] or {"R": "requests", "T": "tokens", "I": "images"}[short[0]]).lower()
        daily = (metric[2] or "").lower() == "day" or short.endswith("PD")
    elif error.type in {"requests", "tokens", "images"}:
        dimension = error.type
    limit, requested = _number(_LIMIT, message), _number(_REQUESTED, message)
    shared = _SHARED.search(message)
    detailed = replace(verdict, dimension=dimension, daily=daily, limit=limit, shared_group=shared[1] if shared else "")
    if limit is not None and requested is not None and requested > limit:
        # "Rate limit reached", but no wait would ever be enough.
        return replace(detailed, kind=Kind.TOO_LARGE, reason="request_too_large", retry_after_s=None)
    return detailed


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return int(match[1].replace(",", "")) if match is not None else None


def _wait_in(message: str) -> float | None:
    """Seconds of "Please try again in 7m12s." or "try again after 51.84 seconds."; None if it has no such sentence."""
    match = _AGAIN.search(message)
    if match is None:
        return None
    if match[1]:
        return float(match[1]) * _WORD_S[match[2][0].lower()]
    return parse_duration(match[3].rstrip(".").lower())


def _retry_after(headers: Head) -> float | None:
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * unit_s
        except ValueError:
            seconds = _until(text, headers.get("date", "")) if name == "retry-after" else -1.0
        if 0 <= seconds < math.inf and (seconds or name == "retry-after"):  # zero milliseconds tell nothing
            return seconds
    return None


def _until(moment: str, date: str) -> float:
    """Seconds from the answer's own `Date` to an HTTP date (RFC 9110 §10.2.3); -1: one of them is no date."""
    try:
        return (parsedate_to_datetime(moment) - parsedate_to_datetime(date)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return -1.0


def _first_object(*candidates: object) -> dict[str, Any] | None:
    for candidate in candidates:
        if isinstance(candidate, dict) and candidate:
            return candidate
        if isinstance(candidate, str) and candidate:
            return {"message": candidate}
    return None


def _error(status: int, document: dict[str, Any]) -> _Error:
    message = document.get("message")
    text = message[:_LONGEST_READ] if isinstance(message, str) else ""
    return _Error(status, _text(document.get("code")), _text(document.get("type")), text, text.strip().lower())


def _text(value: object) -> str:
    return value.lower() if isinstance(value, str) else ""


def _word(text: str) -> str:
    """`text` if it can be a metric label and is specific; otherwise ""."""
    return text if text not in {"error", "invalid_request_error"} and _WORD.fullmatch(text) else ""


def _readable(body: bytes) -> str:
    return " ".join(body[:_LONGEST_READ].decode("utf-8", "replace").split())
