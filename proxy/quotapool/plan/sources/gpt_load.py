"""Demand from gpt-load's request logs, 1.x and 2, from the database, the API's JSON or a CSV of the table.

Facts, from the repository tbphp/gpt-load:
- 1.x, internal/models/types.go: the table `request_logs`; `timestamp` is when the request was logged, `duration_ms`
  before that it came (internal/proxy/server.go, logRequest); `request_type` is `retry` for an attempt that was followed
  by another one, and `final`. Tokens are not recorded; `request_body` is, up to 65,000 characters, where that is
  switched on. Keys of clients are not: a request belongs to `group_name`, or to `parent_group_name`.
- internal/services/log_service.go: the page's own export has keys, groups and status codes, and no times.
- 2, internal/storage/migrations/0001_initial.go: the table of the same name has `completed_at_ms`, `duration_ms`,
  `access_key_id`, `client_model`, `status` (`success`, `error`, `incomplete`, `canceled`), `uncached_input_tokens`,
  `cache_read_tokens`, `cache_write_…_tokens`, `output_tokens` and `estimated_cost_nano_usd`; `access_keys` has names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from quotapool.domain.request_record import AskedFor
from quotapool.domain.wallet import PICO
from quotapool.openai.endpoints import Endpoint, resolve
from quotapool.openai.requests import InvalidRequest, read_request
from quotapool.plan.demand import UNSEEN
from quotapool.plan.sources.record import Collector, Known, SourceError, count_of, moment_of, text_of
from quotapool.plan.sources.ring import demand

TABLE: Final = "request_logs"
KEY: Final = "id"
NEEDED_1: Final = ("timestamp", "model", "status_code", "duration_ms")
ALSO_1: Final = ("group_name", "parent_group_name", "is_success", "request_path", "request_type", "request_body")
COMPLETED: Final = "completed_at_ms"
NEEDED_2: Final = (COMPLETED, "client_model", "status", "status_code", "duration_ms")
_PROMPT: Final = (  # beside what was cached
    *("uncached_input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "cache_write_unknown_tokens"),
)
ALSO_2: Final = (
    *("access_key_id", "protocol", "cache_read_tokens", "output_tokens", "estimated_cost_nano_usd", *_PROMPT),
)
_PROXY: Final = re.compile(r"^/proxy/[^/]+")
_FALSE: Final = frozenset({"0", "false", "f", "no"})
_ANY: Final = float("inf")
_NO_WAITS: Final = "gpt-load does not queue, so its record has no waits"
_NO_TOKENS: Final = "gpt-load 1.x records no tokens: {}"
_NO_ESTIMATE: Final = (
    "gpt-load does not record the largest output that a request allows: the tokens of its prompt are taken for what it "
    "reserves"
)


def is_row(row: Mapping[str, Any]) -> bool:
    return (COMPLETED in row and "client_model" in row) or ("duration_ms" in row and "timestamp" in row)


def is_export(row: Mapping[str, Any]) -> bool:
    """Whether it is the page's own export, which cannot be replayed."""
    return set(row) == {"key_value", "group_name", "status_code"}


NOT_THE_EXPORT: Final = (
    "this is the export of gpt-load's page, which has neither times nor models: give its database, or a CSV of the "
    "table request_logs"
)


class GptLoadRows:
    """`tokens`: what a request of 1.x uses, None: not said. `names`: of 2's access keys, by their ids."""

    def __init__(self, tokens: int | None, names: Mapping[str, str] | None = None) -> None:
        self._tokens = tokens
        self._names = names or {}

    def take(self, row: Mapping[str, Any], known: Known, into: Collector) -> None:
        """Raises SourceError: it cannot be known how many tokens requests use."""
        into.assume(_NO_WAITS)
        into.no_waits()
        if COMPLETED in row:
            self._take_2(row, known, into)
        else:
            self._take_1(row, known, into)

    def _take_1(self, row: Mapping[str, Any], known: Known, into: Collector) -> None:
        if (text_of(row.get("request_type")) or "final") != "final":
            into.leave_out("attempts that another one followed, or tests of keys")
            return
        ended, took_s = moment_of(row.get("timestamp")), count_of(row.get("duration_ms")) / 1000
        model = text_of(row.get("model"))
        if ended is None or not model:
            into.leave_out("without a time or a model")
            return
        status = count_of(row.get("status_code"))
        success = text_of(row.get("is_success") if row.get("is_success") is not None else status < 400).lower()
        served, counts = _outcome(status, success not in _FALSE)
        reserved = _estimate(row)
        if self._tokens is None:
            if reserved is None:
                raise SourceError(
                    "gpt-load 1.x records neither tokens nor, as it is set, requests' bodies: say how many tokens a "
                    "request uses with --tokens 1500"
                )
            tokens, how = reserved, "each request is taken to use what its body reserves (--tokens says otherwise)"
        else:
            tokens, how = self._tokens, f"each request is taken to use {self._tokens:,} (--tokens)"
        into.assume(_NO_TOKENS.format(how))
        reserved = tokens if reserved is None else reserved
        client = text_of(row.get("parent_group_name")) or text_of(row.get("group_name"))
        pico = known.price(model, tokens, 0, 0) if tokens else 0
        asked, use = AskedFor("", reserved, max_wait_s=_ANY), _use(served, counts, tokens, pico)
        one = demand(asked, known, into, ended - took_s, client, model, use[0], took_s, use[1])
        into.add(one, code="" if served else _code(status))

    def _take_2(self, row: Mapping[str, Any], known: Known, into: Collector) -> None:
        protocol = text_of(row.get("protocol"))
        if protocol and not protocol.startswith("openai"):
            into.leave_out("of vendors that this pool does not serve")
            return
        ended, took_s = moment_of(row.get(COMPLETED)), count_of(row.get("duration_ms")) / 1000
        model = text_of(row.get("client_model"))
        if ended is None or not model:
            into.leave_out("without a time or a model")
            return
        status, word = count_of(row.get("status_code")), text_of(row.get("status"))
        served, counts = _outcome(status, word in {"success", "incomplete", "canceled"})
        cached = count_of(row.get("cache_read_tokens"))
        kinds = (
            "uncached_input_tokens",
            "cache_write_5m_tokens",
            "cache_write_1h_tokens",
            "cache_write_unknown_tokens",
        )
        prompt = cached + sum(count_of(row.get(kind)) for kind in kinds)
        completion = count_of(row.get("output_tokens"))
        into.assume(_NO_ESTIMATE)
        nano = count_of(row.get("estimated_cost_nano_usd"))
        pico: int | None = nano * (PICO // 10**9)
        if not nano and (prompt or completion):
            pico = known.price(model, prompt, cached, completion)
        key = text_of(row.get("access_key_id"))
        client = self._names.get(key, f"gpt-load-{key}" if key else "")
        asked, use = AskedFor("", prompt, max_wait_s=_ANY), _use(served, counts, prompt + completion, pico)
        one = demand(asked, known, into, ended - took_s, client, model, use[0], took_s, use[1])
        into.add(one, code="" if served else _code(status))


def _outcome(status: int, success: bool) -> tuple[bool, bool]:
    """Whether upstream took it, and whether it used tokens."""
    if success:
        return True, True
    return (True, False) if 400 <= status < 500 and status != 429 else (False, False)


def _use(served: bool, counts: bool, tokens: int, pico: int | None) -> tuple[int, int | None]:
    """Tokens and picodollars of such an outcome."""
    return (UNSEEN, None) if not served else (tokens, pico) if counts else (0, 0)


def _code(status: int) -> str:
    return "rate_limit_exceeded" if status == 429 else str(status or 500)


def _estimate(row: Mapping[str, Any]) -> int | None:
    """Tokens that the body of a request of 1.x reserves; None: it was not recorded, or cut."""
    body = row.get("request_body")
    if not isinstance(body, str) or not body.startswith("{"):
        return None
    path = _PROXY.sub("", text_of(row.get("request_path")).partition("?")[0])
    endpoint = resolve("POST", path)
    if not isinstance(endpoint, Endpoint) or endpoint.estimate is None:
        return None
    try:
        return read_request(endpoint.estimate, body.encode("utf-8", "replace")).cost.tokens
    except InvalidRequest:
        return None
