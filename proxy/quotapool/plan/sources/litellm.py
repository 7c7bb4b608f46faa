"""Demand from LiteLLM: its spend logs, from the database, the API or a CSV, and the payloads that its callbacks log.

Facts, from the repository BerriAI/litellm:
- schema.prisma: `LiteLLM_SpendLogs` has a row for each request: `startTime` and `endTime` (UTC), `api_key` (the
  SHA-256 of the virtual key), `model` (as the provider has it) and `model_group` (as clients ask for it),
  `prompt_tokens`, `completion_tokens`, `spend` in USD, `status` (`success`, `failure`), `cache_hit` (`True`, `False`).
- `/spend/logs` answers with a list of such rows, `/spend/logs/v2` and `/spend/logs/ui` with `{"data": [...]}`.
- litellm/types/utils.py: `StandardLoggingPayload`, which callbacks (files, S3, GCS, Datadog ...) log: the same names,
  with times in seconds, `response_cost`, `model_parameters` with the client's `max_tokens`, `error_information`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from quotapool.domain.request_record import AskedFor
from quotapool.openai.jsontext import BROKEN
from quotapool.plan.demand import UNSEEN
from quotapool.plan.sources.record import Collector, Known, count_of, moment_of, pico_of, text_of
from quotapool.plan.sources.ring import demand

TABLE: Final = "LiteLLM_SpendLogs"
KEY: Final = "request_id"
STARTED: Final = "startTime"
NEEDED: Final = ("startTime", "endTime", "model", "prompt_tokens", "completion_tokens")
ALSO: Final = (
    *("api_key", "model_group", "custom_llm_provider", "spend", "total_tokens", "status", "cache_hit", "call_type"),
    *("metadata", "team_id", "end_user"),
)
_PAYLOAD: Final = "standard_logging_object"
_OPENAIS: Final = frozenset(
    {"", "openai", "text-completion-openai", "azure", "azure_text", "custom_openai", "openai_like", "hosted_vllm"}
)
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_REFUSED: Final = "rate_limit_exceeded"
_NO_ESTIMATE: Final = (
    "LiteLLM does not record the largest output that a request allows: the tokens of its prompt are taken for what it "
    "reserves"
)
_NO_WAITS: Final = "LiteLLM does not record how long a request waited for room"


def is_row(row: Mapping[str, Any]) -> bool:
    return _PAYLOAD in row or ("startTime" in row and "prompt_tokens" in row)


def take(row: Mapping[str, Any], known: Known, into: Collector) -> None:
    """One row or payload. What it is worth is all that is read; prompts and answers beside that are not looked at."""
    inner = row.get(_PAYLOAD)
    row = inner if isinstance(inner, Mapping) else row
    began, ended = moment_of(row.get("startTime")), moment_of(row.get("endTime"))
    model = text_of(row.get("model_group")) or text_of(row.get("model"))
    if began is None or not model:
        into.leave_out("without a time or a model")
        return
    if text_of(row.get("cache_hit")).lower() in {"true", "1"}:
        into.leave_out("answered by the cache")
        return
    if text_of(row.get("custom_llm_provider")) not in _OPENAIS:
        into.leave_out("of vendors that this pool does not serve")
        return
    prompt, completion = count_of(row.get("prompt_tokens")), count_of(row.get("completion_tokens"))
    failed = _error_of(row)
    if failed is not None and 400 <= failed < 500 and failed != 429:
        served, tokens = True, 0  # the client's own mistake: it counts as a request
    else:
        served = failed is None
        tokens = max(prompt + completion, count_of(row.get("total_tokens"))) if served else UNSEEN
    most = _most_output(row)
    if not most:
        into.assume(_NO_ESTIMATE)
    images = int("image" in text_of(row.get("call_type")))
    model = model.removeprefix("openai/").removeprefix("azure/")
    asked = AskedFor("", 0 if images else max(prompt, most), images, max_wait_s=float("inf"))
    into.add(
        demand(
            *(asked, known, into, began, _client(row, known), model, tokens),
            max(0.0, (ended or began) - began),
            _pico(row, known, model, prompt, completion) if served else None,
        ),
        code="" if served else (_REFUSED if failed == 429 else str(failed or 500)),
    )
    into.assume(_NO_WAITS)
    into.no_waits()


def _error_of(row: Mapping[str, Any]) -> int | None:
    """The status of a failed request; None: it was served."""
    if (text_of(row.get("status")) or "success").lower() == "success":
        return None
    told = row.get("error_information") or _mapping(row.get("metadata")).get("error_information")
    return count_of(_mapping(told).get("error_code")) or 500


def _most_output(row: Mapping[str, Any]) -> int:
    """Tokens of output that the request allows, all answers together; 0: not recorded."""
    asked = _mapping(row.get("model_parameters"))
    names = ("max_completion_tokens", "max_output_tokens", "max_tokens")
    most = next((count for name in names if (count := count_of(asked.get(name)))), 0)
    return most * max(1, min(128, count_of(asked.get("n"))))


def _client(row: Mapping[str, Any], known: Known) -> str:
    """The client whose key this is here, if it has moved over; else the key's alias; else the beginning of its hash."""
    metadata = _mapping(row.get("metadata"))
    key = next(
        (
            key
            for given in (row.get("api_key"), metadata.get("user_api_key_hash"), metadata.get("user_api_key"))
            if (key := text_of(given))
        ),
        "",
    )
    alias = text_of(metadata.get("user_api_key_alias"))
    if not key:
        return alias
    if not _HASH.fullmatch(key):  # old versions stored some as they are
        key = hashlib.sha256(key.encode()).hexdigest()
    return known.client_by_hash.get(key) or alias or f"litellm-{key[:8]}"


def _pico(row: Mapping[str, Any], known: Known, model: str, prompt: int, completion: int) -> int | None:
    for name in ("spend", "response_cost"):
        if (pico := pico_of(row.get(name))) is not None:
            return pico
    return known.price(model, prompt, 0, completion) if prompt or completion else 0


def _mapping(given: object) -> Mapping[str, Any]:
    """A JSON object, or the text of one, as CSV files and databases have it."""
    if isinstance(given, str | bytes) and given[:1] in {"{", b"{"}:
        try:
            given = msgspec.json.decode(given)
        except BROKEN:
            return {}
    return given if isinstance(given, Mapping) else {}
