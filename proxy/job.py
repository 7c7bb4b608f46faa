"""A request that passed the gate: what it is, what it will cost, and what its client may expect."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

from proxy.admission import Want
from proxy.domain.quantities import Cost
from proxy.openai import replies
from proxy.openai.endpoints import IMAGES, Endpoint
from proxy.openai.requests import InvalidRequest, RequestFacts, inject_include_usage, peek_model, read_request
from proxy.refusal import Refusal
from proxy.relay import Downstream
from proxy.roster import Roster
from proxy.settings import Client, Settings

NO_MODEL: Final = "-"  # the model group of requests that name no model
_LONGEST_MODEL: Final = 128  # characters of a model name that make its group
_SECONDS: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}
_PRIORITY: Final = {"high": 1, "normal": 0, "batch": -1}
_CACHED_FROM: Final = 1024  # prompt tokens from which upstream caches (prompt caching guide)
_PREFIX: Final = 4096  # bytes of a body that tell whether two long prompts begin alike


@dataclass(slots=True)
class Job:
    """A request that passed the gate. `body` None: it streams from the client and cannot be sent twice."""

    endpoint: Endpoint
    body: bytes | None
    stream: AsyncIterator[bytes] | None
    model: str
    group: str
    cost: Cost
    replayable: bool
    streamed: bool = False
    strip_usage: bool = False
    length: str | None = None
    sticky: int | None = None
    retrying: bool = False  # holds one place of the retry budget

    @property
    def to_send(self) -> bytes | AsyncIterator[bytes] | None:
        """The body for upstream."""
        return self.stream if self.body is None else (self.body or None)


async def read_job(down: Downstream, endpoint: Endpoint, settings: Settings, roster: Roster) -> Job:
    """Read and estimate. Raises Refusal (400, 413)."""
    headers = down.headers
    is_json = headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json"
    has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
    if not has_body and endpoint.estimate is None:
        return Job(endpoint, b"", None, "", NO_MODEL, Cost(), endpoint.replayable)
    encoded = "Content-Encoding" in headers
    if endpoint.estimate is None and not (is_json and endpoint.json_body and not encoded):
        length = headers.get("Content-Length")
        return Job(endpoint, None, down.stream(), "", NO_MODEL, Cost(), replayable=False, length=length)
    body = await down.read(settings.max_json_body)
    if endpoint.estimate is None:
        model, streamed, count = peek_model(body)
        model = model[:_LONGEST_MODEL]
        group = roster.group_of(model) if model else NO_MODEL
        cost = Cost(1, 0, count) if endpoint.name == IMAGES else Cost()
        return Job(endpoint, body, None, model, group, cost, endpoint.replayable, streamed)
    try:
        facts = read_request(endpoint.estimate, body)
    except InvalidRequest as invalid:
        raise Refusal(replies.INVALID_JSON, str(invalid), param=invalid.param) from invalid
    model = facts.model[:_LONGEST_MODEL]
    inject = facts.stream and not facts.asked_usage and endpoint.dialect == "chat" and settings.inject_usage
    return Job(
        endpoint,
        inject_include_usage(body) if inject else body,
        None,
        model,
        _group(model, facts, settings, roster),
        facts.cost,
        endpoint.replayable and not (endpoint.replay_asks_body and facts.stateful),
        facts.stream,
        strip_usage=inject,
        sticky=_sticky(facts, body) if settings.sticky else None,
    )


def _group(model: str, facts: RequestFacts, settings: Settings, roster: Roster) -> str:
    """The model's group; a long prompt's own where upstream limits long contexts apart."""
    group = roster.group_of(model)
    if settings.long_context:
        long_from = settings.long_context.get(group)
        if long_from is not None and facts.prompt_tokens >= long_from:
            return f"{group}:long"
    return group


def _sticky(facts: RequestFacts, body: bytes) -> int | None:
    """Equal for requests whose prompts upstream may have cached for each other; None where there is nothing to save."""
    if facts.prompt_cache_key:
        return zlib.crc32(facts.prompt_cache_key.encode("utf-8", "surrogatepass"))
    if facts.prompt_tokens >= _CACHED_FROM:
        return zlib.crc32(body[:_PREFIX])
    return None


def want_of(job: Job, headers: Mapping[str, str], client: str, known: Client | None, settings: Settings) -> Want:
    """What admission is asked for. Priority and patience are set per client; the request may only lower them."""
    priority = _PRIORITY[known.priority] if known else 0
    asked = headers.get("x-quotapool-priority")
    if asked is not None:
        priority = min(priority, _PRIORITY.get(asked.strip().lower(), priority))
    patience = settings.queue.max_wait if known is None or known.max_wait is None else known.max_wait
    for name in ("x-quotapool-max-wait", "x-stainless-read-timeout", "x-stainless-timeout"):
        patience = min(patience, _seconds(headers.get(name), patience))
    return Want(
        job.group,
        job.model,
        job.cost,
        job.replayable,
        patience,
        client=client,
        weight=known.weight if known else 1.0,
        priority=priority,
        leave=settings.queue.batch_leaves if priority < 0 else 0.0,
        sticky=job.sticky,
    )


def _seconds(text: str | None, otherwise: float) -> float:
    """A header's number of seconds (`5`, `2.5`, `5s`, `500ms`, `1m`); what cannot be read changes nothing."""
    if text is None:
        return otherwise
    found = _SECONDS.fullmatch(text.strip().lower())
    return float(found[1]) * _UNITS[found[2]] if found else otherwise
