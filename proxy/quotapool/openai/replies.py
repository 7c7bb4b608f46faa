"""The proxy's own errors, in OpenAI's shape, so that SDKs raise the right exception.

One constant per code; `docs/errors.md` is tested against `ALL`. Shape: OpenAI's `Error` schema,
`{"error": {"message", "type", "param", "code"}}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec

from quotapool.openai.head import Header

# The Node SDK ignores a longer `retry-after` and retries early; the Python SDK gives up beyond 120 s.
LONGEST_WAIT_S: Final = 60


def error_body(message: str, type: str, code: str | None, param: str | None = None) -> bytes:  # noqa: A002  OpenAI's field name
    """OpenAI's error JSON. Characters that UTF-8 cannot carry become `?`."""
    encodable = message.encode("utf-8", "replace").decode("utf-8")
    return msgspec.json.encode({"error": {"message": encodable, "type": type, "param": param, "code": code}})


def retry_headers(seconds: float) -> list[Header]:
    """Headers that control an SDK's own retry, `seconds` before the request can succeed.

    Up to 60 s: retry then, not earlier. Longer (a daily limit, a monthly one): the true time, and
    `x-should-retry: false`, since no SDK waits that long. Unknown or never (`inf`): only "do not retry".
    """
    if not math.isfinite(seconds):
        return [(b"x-should-retry", b"false")]
    return [
        (b"retry-after", b"%d" % max(1, math.ceil(seconds))),
        (b"retry-after-ms", b"%d" % max(1, math.ceil(seconds * 1000))),
        (b"x-should-retry", b"true" if seconds <= LONGEST_WAIT_S else b"false"),
    ]


@dataclass(frozen=True, slots=True)
class ProxyError:
    """One error that the proxy can answer with. `should_retry` is for SDKs: can the same request succeed soon?"""

    code: str
    status: int
    type: str
    should_retry: bool
    cause: str
    remedy: str

    @property
    def message(self) -> str:
        return f"{self.cause} {self.remedy}"

    @property
    def headers(self) -> list[Header]:
        """The header that tells SDKs whether to retry, for answers without a known wait."""
        return [(b"x-should-retry", b"true" if self.should_retry else b"false")]

    def body(self, message: str = "", *, param: str | None = None) -> bytes:
        """The JSON answer; `message` replaces the general one if the caller knows more."""
        return error_body(message or self.message, self.type, self.code, param)


_CALLER: Final = "invalid_request_error"
_SERVER: Final = "server_error"
_UNAVAILABLE: Final = "service_unavailable_error"
_QUOTA: Final = "insufficient_quota"

MISSING_PROXY_KEY: Final = ProxyError(
    "missing_proxy_key", 401, _CALLER, False,
    "No client key was sent.",
    "Send your client key as `Authorization: Bearer <client key>`.",
)  # fmt: skip
INVALID_PROXY_KEY: Final = ProxyError(
    "invalid_proxy_key", 401, _CALLER, False,
    "This client key is unknown or was revoked.",
    "Ask the proxy's operator for a valid key (`quotapool clients add`).",
)  # fmt: skip
OPENAI_KEY_SENT: Final = ProxyError(
    "openai_key_sent", 401, _CALLER, False,
    "This looks like an OpenAI key, but this proxy expects a client key.",
    "Use the client key you got from the proxy's operator; the proxy adds the OpenAI key itself.",
)  # fmt: skip
HOST_NOT_ALLOWED: Final = ProxyError(
    "host_not_allowed", 403, _CALLER, False,
    "The request's Host header is neither a loopback address nor a host name this proxy is configured for.",
    "Call the proxy at 127.0.0.1 or localhost, or ask its operator to allow this host name or to set up client keys.",
)  # fmt: skip
CLIENT_SUSPENDED: Final = ProxyError(
    "client_suspended", 403, _CALLER, False,
    "This client is suspended, by the operator or because too many of its requests violated OpenAI's policies.",
    "Ask the proxy's operator, and check what your users send (`quotapool clients resume NAME` lifts it).",
)  # fmt: skip
CLIENT_EXPIRED: Final = ProxyError(
    "client_expired", 403, _CALLER, False,
    "This client's access has ended: the day came that was set for it (UTC).",
    "Ask the proxy's operator to extend it (`quotapool clients set NAME --expires-on DATE`).",
)  # fmt: skip
ORIGIN_NOT_ALLOWED: Final = ProxyError(
    "origin_not_allowed", 403, _CALLER, False,
    "Web pages from this origin may not use this proxy.",
    "Call the proxy from a server, or ask its operator to allow this origin or to set up client keys.",
)  # fmt: skip
PATH_NOT_FOUND: Final = ProxyError(
    "path_not_found", 404, _CALLER, False,
    "This proxy does not serve this path: paths of the OpenAI API begin with exactly one /v1/.",
    "Set base_url to the proxy's address followed by /v1, for example http://127.0.0.1:8080/v1.",
)  # fmt: skip
PATH_NOT_ALLOWED: Final = ProxyError(
    "path_not_allowed", 403, _CALLER, False,
    "Organization and dashboard paths are never forwarded with the pool's keys.",
    "Call https://api.openai.com directly with your own admin key.",
)  # fmt: skip
METHOD_NOT_ALLOWED: Final = ProxyError(
    "method_not_allowed", 405, _CALLER, False,
    "This HTTP method is not part of the OpenAI API.",
    "Use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS.",
)  # fmt: skip
INVALID_JSON: Final = ProxyError(
    "invalid_json", 400, _CALLER, False,
    "The request body is not a JSON object.",
    "Send a valid JSON object, encoded as UTF-8.",
)  # fmt: skip
INVALID_MODEL: Final = ProxyError(
    "invalid_model", 400, _CALLER, False,
    "The request names no model, or its model is not a string.",
    'Set `model` to the name of a model, for example "gpt-4o-mini".',
)  # fmt: skip
INVALID_HTTP: Final = ProxyError(
    "invalid_http", 400, _CALLER, False,
    "This is not a valid HTTP/1.1 request, or one of its header lines is longer than 64 KiB.",
    "Use an OpenAI SDK or another HTTP client, and send long texts in the request body.",
)  # fmt: skip
UNSUPPORTED_ENCODING: Final = ProxyError(
    "unsupported_encoding", 400, _CALLER, False,
    "The body's Content-Encoding or Content-Type cannot be read: it is unknown, given twice, or does not fit the body.",
    "Send the body as it is, or encoded once with gzip, deflate, zstd or br; send forms as they are.",
)  # fmt: skip
INVALID_FORM: Final = ProxyError(
    "invalid_form", 400, _CALLER, False,
    "The multipart form can be read in more than one way, so it is not known which model and objects it names.",
    "Use an OpenAI SDK or another HTTP client that writes forms as RFC 7578 shows them.",
)  # fmt: skip
HTTP_VERSION_NOT_SUPPORTED: Final = ProxyError(
    "http_version_not_supported", 505, _CALLER, False,
    "This proxy speaks HTTP/1.1 and HTTP/1.0.",
    "Let your client or the proxy in between use HTTP/1.1.",
)  # fmt: skip
BODY_TIMEOUT: Final = ProxyError(
    "body_timeout", 408, _CALLER, True,
    "The rest of the request body did not come in time.",
    "Retry on a better connection, or ask the proxy's operator to raise `timeouts.client`.",
)  # fmt: skip
INVALID_WEBSOCKET: Final = ProxyError(
    "invalid_websocket", 400, _CALLER, False,
    "This request asks for a WebSocket, but its headers are not those of a handshake (RFC 6455, version 13).",
    "Use an OpenAI SDK or another WebSocket client; a proxy in between must forward Upgrade and Connection.",
)  # fmt: skip
CLIENT_SECRET_SENT: Final = ProxyError(
    "client_secret_sent", 401, _CALLER, False,
    "This is an OpenAI client secret (ek_...), which is valid for a session of one account only.",
    "Connect to api.openai.com with it; to use this proxy, send your client key instead.",
)  # fmt: skip
BODY_TOO_LARGE: Final = ProxyError(
    "body_too_large", 413, _CALLER, False,
    "The request body is larger than this proxy accepts.",
    "Send less, upload large inputs as files, or ask the operator to raise the limit.",
)  # fmt: skip
MODEL_NOT_AVAILABLE: Final = ProxyError(
    "model_not_available", 404, _CALLER, False,
    "No account in the pool has access to this model or feature.",
    "Check the model's name, or ask the proxy's operator to add an account that has access to it.",
)  # fmt: skip
MODEL_NOT_ALLOWED: Final = ProxyError(
    "model_not_allowed", 403, _CALLER, False,
    "Your client key may not use this model.",
    "Use a model that GET /v1/models lists, or ask the proxy's operator to allow this one.",
)  # fmt: skip
REQUEST_TOO_LARGE_FOR_POOL: Final = ProxyError(
    "request_too_large_for_pool", 429, "tokens", False,
    "This single request needs more tokens than any account in the pool may use in a whole minute or day (TPM, TPD).",
    "Shorten the input or lower the maximum number of output tokens; waiting will not help.",
)  # fmt: skip
RATE_LIMIT_EXCEEDED: Final = ProxyError(
    "rate_limit_exceeded", 429, "requests", True,
    "Every account in the pool that could serve this request, or your own client key, is at its rate limit.",
    "Retry after the time in the retry-after header.",
)  # fmt: skip
CLIENT_RATE_LIMITED: Final = ProxyError(
    "client_rate_limited", 429, "requests", True,
    "This client, or its team, is at a limit that the proxy's operator set for it.",
    "Retry after the time in the retry-after header; `quotapool me` shows the limits.",
)  # fmt: skip
CLIENT_CONCURRENCY: Final = ProxyError(
    "client_concurrency", 429, "requests", True,
    "This client, or its team, has as many requests under way as the proxy's operator allows.",
    "Retry when one of them has been answered; `quotapool me` shows the limits.",
)  # fmt: skip
CLIENT_BUDGET_EXHAUSTED: Final = ProxyError(
    "client_budget_exhausted", 429, _QUOTA, False,
    "A budget that the proxy's operator set for this client, or its team, is used up.",
    "Wait until it resets, or ask the operator to raise it; `quotapool me` shows what is left.",
)  # fmt: skip
CLIENT_MODEL_UNPRICED: Final = ProxyError(
    "client_model_unpriced", 403, _CALLER, False,
    "This client has a budget in dollars, and what this model costs is not known, so the budget could not be kept.",
    "Use another model, or ask the proxy's operator to name its price under `prices`.",
)  # fmt: skip
CLIENT_COST_UNSEEN: Final = ProxyError(
    "client_cost_unseen", 403, _CALLER, False,
    "This client has a hard budget, and what this request starts (a job, a video, a session that others hold) is "
    "charged by OpenAI without telling the proxy, so the budget could not be kept.",
    "Ask the proxy's operator to allow it: a budget with `mode: soft` lets it through.",
)  # fmt: skip
CLIENT_IP_NOT_ALLOWED: Final = ProxyError(
    "client_ip_not_allowed", 403, _CALLER, False,
    "This client key may not be used from this address.",
    "Call from an address that the proxy's operator allowed for it, or ask the operator to allow this one.",
)  # fmt: skip
PRICES_NOT_LOADED: Final = ProxyError(
    "prices_not_loaded", 503, _UNAVAILABLE, True,
    "The proxy has just started and does not know prices yet, which this client's budget in dollars needs.",
    "Retry in a moment.",
)  # fmt: skip
QUEUE_FULL: Final = ProxyError(
    "queue_full", 429, "requests", True,
    "The pool is at its rate limit and too many requests are already waiting for it.",
    "Retry after the time in the retry-after header, or send fewer requests at once.",
)  # fmt: skip
QUEUE_TIMEOUT: Final = ProxyError(
    "queue_timeout", 429, "requests", True,
    "The request waited for the pool's rate limit as long as the proxy allows.",
    "Retry after the time in the retry-after header, or ask the operator to raise `queue.max_wait`.",
)  # fmt: skip
POOL_CREDIT_EXHAUSTED: Final = ProxyError(
    "pool_credit_exhausted", 429, _QUOTA, False,
    "Every account in the pool is out of credit or has inactive billing.",
    "The operator must add credit at OpenAI; the proxy then resumes by itself.",
)  # fmt: skip
POOL_SPEND_LIMIT_REACHED: Final = ProxyError(
    "pool_spend_limit_reached", 429, _QUOTA, False,
    "Every account in the pool has reached a spend or usage limit.",
    "The operator must raise a limit or wait for its monthly reset; the proxy then resumes by itself.",
)  # fmt: skip
POOL_DAILY_LIMIT_REACHED: Final = ProxyError(
    "pool_daily_limit_reached", 429, _QUOTA, False,
    "The pool has spent what its operator allows per day (`spend.daily_limit_usd`).",
    "Wait for the next day, or ask the operator to raise the limit.",
)  # fmt: skip
POOL_NO_USABLE_KEYS: Final = ProxyError(
    "pool_no_usable_keys", 503, _UNAVAILABLE, False,
    "No key in the pool is usable: all are invalid, removed, disabled or locked.",
    "The operator can see the reasons with `quotapool check`, and what to do about each.",
)  # fmt: skip
UPSTREAM_KEY_REFUSED: Final = ProxyError(
    "upstream_key_refused", 503, _UNAVAILABLE, True,
    "OpenAI refused the chosen key, and a request whose body is streamed through cannot be sent a second time.",
    "Retry: the refused key has left the pool, so another one will be used.",
)  # fmt: skip
UPSTREAM_UNREACHABLE: Final = ProxyError(
    "upstream_unreachable", 502, _SERVER, True,
    "The proxy could not connect to OpenAI.",
    "Retry; if the error persists, the operator should check the proxy's network and status.openai.com.",
)  # fmt: skip
EGRESS_REFUSED: Final = ProxyError(
    "egress_refused", 502, _SERVER, False,
    "OpenAI, or something on the way to it, refuses this proxy's network: it sent a web page instead of an answer.",
    "The operator should check the proxy's outgoing address, region and forward proxy. No key is at fault.",
)  # fmt: skip
UPSTREAM_TIMEOUT: Final = ProxyError(
    "upstream_timeout", 504, _SERVER, False,
    "OpenAI did not answer in time; it may have done the work anyway.",
    "Retry only if doing the work twice is harmless, or ask the operator to raise the timeout.",
)  # fmt: skip
UPSTREAM_PROTOCOL_ERROR: Final = ProxyError(
    "upstream_protocol_error", 502, _SERVER, False,
    "OpenAI's answer broke off or was not valid HTTP; it may have done the work anyway.",
    "Retry only if doing the work twice is harmless.",
)  # fmt: skip
NOT_CACHED: Final = ProxyError(
    "not_cached", 504, _CALLER, False,
    "The request has `Cache-Control: only-if-cached`, and the proxy keeps no answer to it that it may serve.",
    "Send it without `only-if-cached` to have OpenAI answer it.",
)  # fmt: skip
STORE_UNAVAILABLE: Final = ProxyError(
    "store_unavailable", 503, _UNAVAILABLE, True,
    "The proxy's budget store (Redis) does not answer.",
    "Retry; if the error persists, the operator should check Redis.",
)  # fmt: skip
OBJECT_NOT_FOUND: Final = ProxyError(
    "object_not_found", 404, _CALLER, False,
    "No object with this id is visible to this client.",
    "Check the id, and use the client key that created the object; the message in the body is OpenAI's own.",
)  # fmt: skip
OBJECTS_APART: Final = ProxyError(
    "objects_apart", 400, _CALLER, False,
    "The ids in this request belong to objects in different accounts of the pool, and no account can see them all.",
    "Create these objects again with one client key, one after another, so that they end up in one account.",
)  # fmt: skip
OBJECT_ELSEWHERE: Final = ProxyError(
    "object_elsewhere", 400, _CALLER, False,
    "This event names an object in another account of the pool than the one this session uses.",
    "Send it as an HTTP request, which goes to the right account, or name only objects created in this session.",
)  # fmt: skip
OBJECT_ACCOUNT_UNAVAILABLE: Final = ProxyError(
    "object_account_unavailable", 503, _UNAVAILABLE, False,
    "The account that holds the object this request names is not usable now, and no other account has the object.",
    "The operator can see the reason with `quotapool check`; the object is available again when the account is.",
)  # fmt: skip
DRAINING: Final = ProxyError(
    "draining", 503, _UNAVAILABLE, True,
    "This proxy is shutting down, and this request would have had to wait for the pool's rate limit.",
    "Retry; another replica or the restarted proxy will answer.",
)  # fmt: skip
PROXY_OVERLOADED: Final = ProxyError(
    "proxy_overloaded", 503, _UNAVAILABLE, True,
    "The proxy is already handling as many requests as it can.",
    "Retry in a moment; if the error persists, the operator should add workers or replicas.",
)  # fmt: skip
INTERNAL_ERROR: Final = ProxyError(
    "internal_error", 500, _SERVER, False,
    "The proxy failed to handle this request because of an internal error.",
    "Send the operator the x-quotapool-request-id of this response; the log has the details.",
)  # fmt: skip

ALL: Final[tuple[ProxyError, ...]] = tuple(
    constant for constant in list(globals().values()) if isinstance(constant, ProxyError)
)
