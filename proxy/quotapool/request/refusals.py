"""Which of the proxy's own errors a situation becomes: no room, nobody left, upstream out of reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from quotapool.domain.quantities import Dimension
from quotapool.domain.request_record import RequestRecord
from quotapool.ledger.budgets import Granted, StoreUnavailable
from quotapool.openai import replies
from quotapool.openai.refusal import Refusal
from quotapool.openai.replies import ProxyError
from quotapool.pool.admission import Admission, NobodyLeft, NoRoom, TooLarge, Want
from quotapool.upstream.interface import UpstreamFailure

_NO_ROOM: Final = {
    "rate_limit": replies.RATE_LIMIT_EXCEEDED,
    "queue_full": replies.QUEUE_FULL,
    "queue_timeout": replies.QUEUE_TIMEOUT,
}
_NOBODY: Final = {
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


async def admitted(admission: Admission, want: Want, trip: RequestRecord, *, nobody_is_fine: bool) -> Granted | None:
    """A reservation; None, where `nobody_is_fine`: every account has refused this very request, so its last answer
    stands. Raises Refusal (404, 429, 503)."""
    try:
        return await admission.admit(want)
    except NoRoom as full:
        raise no_room(full) from full
    except TooLarge as large:
        raise Refusal(replies.REQUEST_TOO_LARGE_FOR_POOL) from large
    except NobodyLeft as nobody:
        if nobody_is_fine and nobody.reason == "excluded":
            return None
        raise nobody_left(nobody) from nobody
    except StoreUnavailable as gone:
        raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from gone
    finally:
        trip.queued_s = want.stood_s


def no_room(full: NoRoom) -> Refusal:
    """429 with the pool's true wait."""
    error = _NO_ROOM[full.reason]
    which = f" on {_DIMENSION_NAMES[full.dimension]}" if full.dimension else ""
    message = f"{error.cause.rstrip('.')}{which}. Please try again in {max(full.wait_s, 0.001):.3f}s."
    return Refusal(error, message, retry_after_s=full.wait_s)


def nobody_left(nobody: NobodyLeft) -> Refusal:
    """429 where money is missing, 503 where no key is usable, 404 where no account has the model."""
    return Refusal(_NOBODY[nobody.reason], _RESTING if nobody.reason == "suspect" else "")


def refuse_beyond_the_day(method: str, target: str, left_s: float) -> None:
    """429 for what may cost money while the pool's day is spent, for `left_s` more seconds. What only looks, deletes or
    cancels goes on."""
    if left_s > 0 and method == "POST" and not target.partition("?")[0].rstrip("/").endswith("/cancel"):
        raise Refusal(replies.POOL_DAILY_LIMIT_REACHED, retry_after_s=left_s)


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


def not_served(error: ProxyError, headers: Mapping[str, str], *, tls: bool) -> Refusal:
    """403, 404, 405. A path that misses /v1 or has it twice is told the base_url by which this client reaches us.

    `tls`: our own listener has it.
    """
    host = headers.get("Host", "")
    if error is not replies.PATH_NOT_FOUND or not host:
        return Refusal(error)
    scheme = "https" if tls or headers.get("X-Forwarded-Proto") == "https" else "http"
    return Refusal(error, f"{error.cause} Set base_url to {scheme}://{host}/v1.")


_DIMENSION_NAMES: Final = {
    Dimension.RPM: "requests per min (RPM)",
    Dimension.TPM: "tokens per min (TPM)",
    Dimension.RPD: "requests per day (RPD)",
    Dimension.TPD: "tokens per day (TPD)",
    Dimension.IPM: "images per min (IPM)",
    Dimension.PROJECT_TPM: "project tokens per min (TPM)",
}
