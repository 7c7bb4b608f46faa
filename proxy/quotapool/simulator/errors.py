"""OpenAI's error bodies, word for word if a real one is known.

Wordings come from captured bodies; those of the 2026 spend-limit codes, `slow_down` and `server_is_overloaded` are our
own, since only their codes are published. Shape: {"error": {"message", "type", "param", "code"}}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from quotapool.simulator.buckets import Refusal
from quotapool.simulator.headers import go_duration

CALLER: Final = "invalid_request_error"
LIMITS_PAGE: Final = "Visit https://platform.openai.com/account/rate-limits to learn more."


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error answer. `retry_after_s` becomes `Retry-After` in whole seconds; `html` replaces the JSON body."""

    status: int
    message: str
    type: str = CALLER
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    html: str | None = None

    def document(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def body(self) -> bytes:
        if self.html is not None:
            return self.html.encode()
        return msgspec.json.format(msgspec.json.encode(self.document()), indent=4)

    def headers(self) -> dict[str, str]:
        kind = "text/html; charset=UTF-8" if self.html is not None else "application/json"
        if self.retry_after_s is None:
            return {"Content-Type": kind}
        return {"Content-Type": kind, "Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


NO_API_KEY: Final = ErrorReply(
    401,
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
    "auth (i.e. Authorization: Bearer YOUR_KEY). You can obtain an API key from "
    "https://platform.openai.com/account/api-keys.",
)
UNPARSABLE: Final = ErrorReply(400, "We could not parse the JSON body of your request.")
MISSING_MODEL: Final = ErrorReply(400, "you must provide a model parameter")
SERVER_ERROR: Final = ErrorReply(
    500,
    "The server had an error while processing your request. Sorry about that! You can retry your request, or "
    "contact us through our help center at help.openai.com if the error persists.",
    "server_error",
)


def masked(secret: str) -> str:
    """A secret as OpenAI echoes it: its first eight and its last four characters."""
    if len(secret) <= 12:
        return "*" * len(secret)
    return f"{secret[:8]}{'*' * (len(secret) - 12)}{secret[-4:]}"


def invalid_api_key(secret: str) -> ErrorReply:
    message = (
        f"Incorrect API key provided: {masked(secret)}. "
        "You can find your API key at https://platform.openai.com/account/api-keys."
    )
    return ErrorReply(401, message, code="invalid_api_key")


def mismatched(header: str) -> ErrorReply:
    """`header` is "organization" or "project": the client's header names another one than the key's."""
    message = f"OpenAI-{header.capitalize()} header should match {header} for API key"
    return ErrorReply(401, message, code=f"mismatched_{header}")


def rate_limited(refusal: Refusal, model: str, group: str, organization: str) -> ErrorReply:
    """The 429 of an exhausted bucket, or of a request larger than the whole bucket, for which no wait is enough."""
    shared = "" if model == group else f" (for limit {group})"
    where = f"{model}{shared} in organization {organization} on {refusal.dimension.phrase}"
    if refusal.wait_s is None:
        message = (
            f"Request too large for {where}: Limit {refusal.limit}, Requested {refusal.requested}. The input or "
            f"output tokens must be reduced in order to run successfully. {LIMITS_PAGE}"
        )
    else:
        wait_ms = math.ceil(refusal.wait_s * 1000 - 1e-6)  # rounded up, so that a client that waits is admitted
        message = (
            f"Rate limit reached for {where}: Limit {refusal.limit}, Used {refusal.used}, "
            f"Requested {refusal.requested}. Please try again in {go_duration(wait_ms)}. {LIMITS_PAGE}"
        )
    return ErrorReply(429, message, refusal.dimension.kind, "rate_limit_exceeded", retry_after_s=refusal.wait_s)


def unknown_prompt(prompt_id: str) -> ErrorReply:
    return ErrorReply(404, f"Prompt with id '{prompt_id}' not found.")


def missing_parameter(name: str) -> ErrorReply:
    return ErrorReply(400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)


def not_an_integer(name: str) -> ErrorReply:
    return ErrorReply(400, f"Invalid type for '{name}': expected a positive integer.", code="invalid_type", param=name)


def unknown_model(model: str) -> ErrorReply:
    message = f"The model `{model}` does not exist (or you do not have access to it)"
    return ErrorReply(404, message, code="model_not_found")


def model_without_access(model: str, project: str) -> ErrorReply:
    message = f"Project `{project}` does not have access to model `{model}`"
    return ErrorReply(403, message, code="model_not_found")
