"""Which of the proxy's own errors a situation becomes: no room, no usable account, upstream out of reach."""

from __future__ import annotations

from typing import Final

from quotapool.domain.quantities import Dimension
from quotapool.ledger.grants import Blocked
from quotapool.openai import replies
from quotapool.openai.head import Head
from quotapool.openai.refusal import Refusal
from quotapool.openai.replies import ProxyError
from quotapool.pool.want import Never, NoRoom
from quotapool.request.rule_words import blocked_refusal
from quotapool.upstream.interface import UpstreamFailure

_NO_ROOM: Final = {
    "rate_limit": replies.RATE_LIMIT_EXCEEDED,
    "queue_full": replies.QUEUE_FULL,
    "queue_timeout": replies.QUEUE_TIMEOUT,
    "draining": replies.DRAINING,
}
_NEVER: Final = {
    "too_large": replies.REQUEST_TOO_LARGE_FOR_POOL,
    "money": replies.POOL_CREDIT_EXHAUSTED,
    "spend_limit": replies.POOL_SPEND_LIMIT_REACHED,
    "dead": replies.POOL_NO_USABLE_KEYS,
    "suspect": replies.POOL_NO_USABLE_KEYS,
    "excluded": replies.MODEL_NOT_AVAILABLE,
    "pinned": replies.OBJECT_ACCOUNT_UNAVAILABLE,
}
_RESTING: Final = (
    "No key of the pool is usable now: OpenAI, or something on the way to it, refused them without a known reason, so "
    "they rest and are tried again by themselves. The operator sees them with `quotapool check`."
)
_FAILED: Final = {
    "connect": replies.UPSTREAM_UNREACHABLE,
    "tls": replies.UPSTREAM_UNREACHABLE,
    "timeout": replies.UPSTREAM_TIMEOUT,
}


def refusal_of(answer: NoRoom | Never | Blocked) -> Refusal:
    """429 with the pool's true wait, or if money is missing, or by the client's own rules; 503: no key is usable, or we
    stop; 404: no account has the model."""
    if isinstance(answer, Blocked):
        return blocked_refusal(answer)
    if isinstance(answer, Never):
        return Refusal(_NEVER[answer.reason], _RESTING if answer.reason == "suspect" else "")
    error = _NO_ROOM[answer.reason]
    which = f" on {_DIMENSION_NAMES[answer.dimension]}" if answer.dimension else ""
    message = f"{error.cause.rstrip('.')}{which}. Please try again in {max(answer.wait_s, 0.001):.3f}s."
    return Refusal(error, message, retry_after_s=answer.wait_s)


def failed(failure: UpstreamFailure, *, final: bool) -> Refusal:
    """502 or 504; or what ended the client's own body, where that was ours: an id in a form that is not the client's.
    `final`: we have retried; a client's retries would multiply ours."""
    cause = failure.__cause__
    while cause is not None:
        if isinstance(cause, Refusal):
            return cause
        cause = cause.__cause__
    error = _FAILED.get(failure.reason, replies.UPSTREAM_PROTOCOL_ERROR)
    return Refusal(error, f"{error.cause} ({failure}.) {error.remedy}", final=final)


def not_served(error: ProxyError, headers: Head, *, tls: bool) -> Refusal:
    """403, 404, 405. A path that misses /v1 or has it twice gets the base_url by which this client reaches us.

    `tls`: our own listener has it.
    """
    host = headers.get("host", "")
    if error is not replies.PATH_NOT_FOUND or not host:
        return Refusal(error)
    scheme = "https" if tls or headers.get("x-forwarded-proto") == "https" else "http"
    return Refusal(error, f"{error.cause} Set base_url to {scheme}://{host}/v1.")


_DIMENSION_NAMES: Final = {
    Dimension.RPM: "requests per min (RPM)",
    Dimension.TPM: "tokens per min (TPM)",
    Dimension.RPD: "requests per day (RPD)",
    Dimension.TPD: "tokens per day (TPD)",
    Dimension.IPM: "images per min (IPM)",
    Dimension.PROJECT_TPM: "project tokens per min (TPM)",
}
