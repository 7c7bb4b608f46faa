"""Faults that can be set for one key or one account, and OpenAI's answers to them.

Some kinds apply before the rate limiter; the others apply after admission, so they cost what a request costs. Statuses,
codes and known wordings are OpenAI's; wordings of codes published without one are our own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

import msgspec

from quotapool.simulator import errors
from quotapool.simulator.errors import CALLER, ErrorReply


class Kind(StrEnum):
    DEAD = "dead"  # somebody must act
    MONEY = "money"  # may come back; reading /v1/models still works
    EGRESS = "egress"  # about the caller's network
    ACCESS = "access"  # one endpoint or model is not allowed
    SERVICE = "service"  # OpenAI itself: after admission
    TRANSPORT = "transport"  # the connection itself: after admission
    MODEL = "model"  # an answer of status 200 that is not what was asked for: after admission


BEFORE_ADMISSION: Final = frozenset((Kind.DEAD, Kind.MONEY, Kind.EGRESS, Kind.ACCESS))
NOT_ON_READS: Final = frozenset((Kind.MONEY, Kind.ACCESS, Kind.SERVICE, Kind.TRANSPORT, Kind.MODEL))


@dataclass(frozen=True, slots=True)
class Fault:
    """`reply` is None if the answer depends on the request (see `reply_to`), or there is none."""

    name: str
    kind: Kind
    reply: ErrorReply | None = None


BILLING: Final = "https://platform.openai.com/settings/organization/billing/"
MONEY_TYPE: Final = "insufficient_quota"
TERMINATED: Final = (
    "Your access was terminated due to violation of our policies, please check your email for more information. "
    "If you believe this is in error and would like to appeal, please contact us through our help center."
)
BLOCKED_PAGE: Final = (
    '<!DOCTYPE html>\n<html lang="en-US"><head><title>Attention Required! | Cloudflare</title></head>\n'
    "<body><h1>Sorry, you have been blocked</h1><p>You are unable to access api.openai.com</p></body></html>\n"
)

CATALOGUE: Final = {
    fault.name: fault
    for fault in (
        Fault("invalid_api_key", Kind.DEAD),
        Fault("account_deactivated", Kind.DEAD, ErrorReply(
            401, "The OpenAI account associated with this API key has been deactivated. If you are the developer for "
            "this OpenAI app, please check your email for more information. If you are seeing this error while using "
            "another app or site, please reach out to them for more help.", code="account_deactivated")),
        Fault("access_terminated_403", Kind.DEAD, ErrorReply(
            403, TERMINATED, "access_terminated", "access_terminated")),
        Fault("access_terminated_429", Kind.DEAD, ErrorReply(429, TERMINATED, "access_terminated")),
        Fault("insufficient_quota", Kind.MONEY, ErrorReply(
            429, "You exceeded your current quota, please check your plan and billing details. For more information "
            "on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
            MONEY_TYPE, "insufficient_quota")),
        Fault("credit_balance_exhausted", Kind.MONEY, ErrorReply(
            429, f"You have no credits remaining. Add credits to continue using the API at {BILLING}.",
            MONEY_TYPE, "credit_balance_exhausted")),
        Fault("organization_spend_limit_exceeded", Kind.MONEY, ErrorReply(
            429, "Your organization has reached its monthly spend limit.",
            MONEY_TYPE, "organization_spend_limit_exceeded")),
        Fault("project_spend_limit_exceeded", Kind.MONEY, ErrorReply(
            429, "This project has reached its monthly spend limit. Other projects can continue.",
            MONEY_TYPE, "project_spend_limit_exceeded")),
        Fault("organization_usage_limit_exceeded", Kind.MONEY, ErrorReply(
            429, "Your organization has reached its assigned monthly usage limit.",
            MONEY_TYPE, "organization_usage_limit_exceeded")),
        Fault("billing_not_active", Kind.MONEY, ErrorReply(
            429, "Your account is not active, please check your billing details on our website.",
            "billing_not_active", "billing_not_active")),
        Fault("billing_hard_limit_reached", Kind.MONEY, ErrorReply(
            400, "Billing hard limit has been reached", CALLER, "billing_hard_limit_reached")),
        Fault("ip_not_authorized", Kind.EGRESS, ErrorReply(
            401, "Your IP is not authorized to make this request.", "ip_not_authorized", "ip_not_authorized")),
        Fault("country", Kind.EGRESS, ErrorReply(
            403, "Country, region, or territory not supported",
            "request_forbidden", "unsupported_country_region_territory")),
        Fault("html_403", Kind.EGRESS, ErrorReply(403, "", html=BLOCKED_PAGE)),
        Fault("missing_scope", Kind.ACCESS, ErrorReply(
            403, "You have insufficient permissions for this operation. Missing scopes: model.request. Check that you "
            "have the correct role in your organization (Reader, Writer, Owner) and project (Member, Owner), and if "
            "you're using a restricted API key, that it has the necessary scopes.", CALLER, "missing_scope")),
        Fault("model_not_found", Kind.ACCESS),
        Fault("slow_down", Kind.SERVICE, ErrorReply(
            429, "Your request rate has increased too quickly. Slow down and increase it gradually.",
            "rate_limit_error", "slow_down", retry_after_s=5)),
        Fault("overloaded_503", Kind.SERVICE, ErrorReply(
            503, "The requested model is temporarily overloaded. Please retry later.",
            "service_unavailable_error", "server_is_overloaded", retry_after_s=2)),
        Fault("error_500", Kind.SERVICE, errors.SERVER_ERROR),
        Fault("stream_error", Kind.SERVICE),
        Fault("slow", Kind.TRANSPORT),
        Fault("hang", Kind.TRANSPORT),
        Fault("reset", Kind.TRANSPORT),
        Fault("reset_mid_stream", Kind.TRANSPORT),
        Fault("hold", Kind.TRANSPORT),
        Fault("refusal", Kind.MODEL),
        Fault("content_filter", Kind.MODEL),
    )
}  # fmt: skip


class FaultRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of a fault request, which then counts down.

    after: requests that are still served normally. count: how many requests it hits, None for all until it is cleared.
    model: only requests for this model. events: stream events sent before `reset_mid_stream` cuts, or before `hold`
    stops until the fault is cleared, replaced or reset; a plain answer is held as a whole.
    latency_ms: what `slow` adds. code: the code of a `stream_error`.
    """

    fault: str
    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    count: Annotated[int, msgspec.Meta(ge=0)] | None = None
    model: str | None = None
    events: Annotated[int, msgspec.Meta(ge=0)] = 3
    latency_ms: Annotated[float, msgspec.Meta(ge=0)] = 1000.0
    code: str = "server_error"

    def hits(self, method: str, model: str) -> Fault | None:
        """The fault, if it hits this request; counts down the requests that are still to be served normally."""
        fault = CATALOGUE[self.fault]
        if self.count == 0 or (self.model is not None and self.model != model):
            return None
        if method == "GET" and fault.kind in NOT_ON_READS:
            return None
        if self.after > 0:
            self.after -= 1
            return None
        return fault

    def count_hit(self) -> None:
        """Count one request that was hit."""
        if self.count:
            self.count -= 1


class FaultSlot:
    """The fault of one key or account, None for none."""

    __slots__ = ("_changed", "fault")

    def __init__(self) -> None:
        self.fault: FaultRequest | None = None
        self._changed = asyncio.Event()

    def set(self, fault: FaultRequest | None) -> None:
        self.fault = fault
        self._changed.set()
        self._changed = asyncio.Event()

    async def ended(self, fault: FaultRequest) -> None:
        """Return when `fault` is no longer the one here."""
        while self.fault is fault:
            await self._changed.wait()


class Hit(NamedTuple):
    """A fault that hits a request, and where it was set."""

    fault: Fault
    scheduled: FaultRequest
    slot: FaultSlot


def reply_to(fault: Fault, secret: str, model: str, project: str) -> ErrorReply:
    """The answer of a fault before admission, or of a failing service."""
    if fault.reply is not None:
        return fault.reply
    if fault.name == "invalid_api_key":
        return errors.invalid_api_key(secret)
    if fault.name == "model_not_found":
        return errors.model_without_access(model, project)
    return errors.SERVER_ERROR


def stream_failure(code: str) -> ErrorReply:
    """The error that a `stream_error` sends with HTTP status 200."""
    return ErrorReply(200, "The server had an error processing your request. Sorry about that!", "server_error", code)
