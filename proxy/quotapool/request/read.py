"""A client's request as it is read: what it is, what it will cost, and what its client may expect."""

from __future__ import annotations

import asyncio
import io
import re
import zlib
from collections.abc import Mapping
from typing import Final

from quotapool.domain.quantities import Cost
from quotapool.openai import replies
from quotapool.openai.encoding import TooLarge, Unreadable, decoded_request
from quotapool.openai.endpoints import IMAGES, Endpoint
from quotapool.openai.facts import RequestFacts
from quotapool.openai.forms import FieldReader, FormError, boundary_of
from quotapool.openai.head import Head
from quotapool.openai.named_models import other_models
from quotapool.openai.refusal import Refusal
from quotapool.openai.requests import (
    InvalidRequest,
    inject_include_usage,
    peek_model,
    read_request,
    speech_characters,
)
from quotapool.openai.value_count import MOST_VALUES, SMALL, ValueCount
from quotapool.pool.configuration import Snapshot
from quotapool.pool.roster import Roster
from quotapool.pool.want import Want
from quotapool.request.client_request import ClientRequest
from quotapool.request.passing_forms import after
from quotapool.request.relay import Downstream
from quotapool.settings import Client, Settings

NO_MODEL: Final = "-"  # the model group of requests that name no model
_NO_MODELS_COST: Final = Cost(0)  # files, lists, batches: no model's limits are used
LONGEST_MODEL: Final = 128  # characters of a model name that make its group
_SECONDS: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}
_NO_JSON: Final = re.compile(
    r"\s*(?:multipart/|audio/|video/|image/|application/(?:sdp|octet-stream)\b)", re.IGNORECASE
)
_PRIORITY: Final = {"high": 1, "normal": 0, "batch": -1}
_CACHED_FROM: Final = 1024  # prompt tokens from which upstream caches (prompt caching guide)
_PEEK: Final = 65_536  # bytes of a form that are looked at for its model's name
_STREAM: Final = ("stream",)
TIERS: Final = frozenset({"flex", "priority", "fast", "scale"})
_PREFIX: Final = 4096  # bytes of a body that tell whether two long prompts begin alike


async def read_client_request(
    down: Downstream,
    endpoint: Endpoint,
    settings: Settings,
    roster: Roster,
    *,
    every_model: bool = False,
    whole_forms: bool = False,
) -> ClientRequest:
    """Read and estimate. `every_model`: all models that it names are found. `whole_forms`: a form is read to its end
    before it goes on.

    Raises Refusal (400, 413)."""
    headers = down.headers
    content_type = headers.get("content-type", "")
    is_json = _NO_JSON.match(content_type) is None  # upstream may read JSON under other names, and under none
    length = headers.first.get("content-length")
    has_body = (length is not None and length != b"0") or "transfer-encoding" in headers.first
    if not has_body and endpoint.estimate is None:
        return ClientRequest(endpoint, b"", None, "", NO_MODEL, _NO_MODELS_COST, endpoint.replayable)
    if content_type and headers.is_repeated("content-type"):  # it is not known which one upstream takes
        raise Refusal(replies.UNSUPPORTED_ENCODING)
    if endpoint.estimate is None and not (is_json and endpoint.json_body):
        return await _streamed(down, endpoint, content_type, settings, roster, whole=whole_forms)
    most = settings.max_json_body
    if "content-encoding" in headers.first or (most if length is None else int(length)) > SMALL:
        body, text = await _read_large(down, most)
    else:
        body = text = await down.read(most)
    if endpoint.estimate is None:
        model, streamed, count = peek_model(text)
        models = _other_models(text, model) if every_model else ()
        model = model[:LONGEST_MODEL]
        named = cost_of(endpoint, model, count, roster)
        characters = speech_characters(text) if endpoint.path == "audio/speech" else 0
        request = ClientRequest(endpoint, body, None, model, *named, endpoint.replayable, streamed)
        request.characters, request.models, request.text = characters, models, text
        return request
    try:
        facts = read_request(endpoint.estimate, text)
    except InvalidRequest as invalid:
        if invalid.param == "model":
            raise Refusal(replies.INVALID_MODEL, str(invalid), param=invalid.param) from invalid
        raise Refusal(replies.INVALID_JSON, str(invalid)) from invalid
    model = facts.model[:LONGEST_MODEL]
    inject = facts.stream and not facts.asked_usage and endpoint.dialect == "chat" and settings.inject_usage
    inject = inject and text is body  # what came encoded goes on as it came
    return ClientRequest(
        endpoint,
        inject_include_usage(body) if inject else body,
        None,
        model,
        _group(model, facts, settings, roster) if model else NO_MODEL,
        facts.cost if model else _NO_MODELS_COST,
        endpoint.replayable and not (endpoint.replay_depends_on_body and facts.stateful),
        facts.stream,
        text=text,
        strip_usage=inject,
        sticky=_sticky(facts, text) if settings.sticky else None,
        tier=facts.service_tier if facts.service_tier in TIERS else "",
        prompt_tokens=facts.prompt_tokens,
        output=facts.output,
        choices=facts.choices,
        background=facts.background,
        store=facts.store,
        prompt=facts.prompt[:LONGEST_MODEL],
        features=_features(facts),
        models=_other_models(text, "" if facts.prompt else facts.model) if every_model else (),
    )


async def _read_large(down: Downstream, most: int) -> tuple[bytes, bytes]:
    """A body that may be large, and its text without an encoding, the very same object if it has none. Raises Refusal
    (400, 413)."""
    headers = down.headers
    length = int(headers.raw("content-length") or -1)
    if "content-encoding" not in headers and SMALL < (most if length < 0 else length) <= most:
        large = _LargeText(most)
        async for piece in down.stream():
            await large.add(piece)
        text = large.text()
        return text, text
    body = await down.read(most)
    if "content-encoding" not in headers:
        return body, body
    large = _LargeText(most)
    try:
        for piece in decoded_request(body, ",".join(headers.getall("content-encoding")), most):
            await large.add(piece)
    except Unreadable as unreadable:
        raise Refusal(replies.UNSUPPORTED_ENCODING) from unreadable
    except TooLarge as too_large:
        message = f"Decoded, the body is larger than the {too_large.most} bytes that this proxy reads of one so small."
        raise Refusal(replies.BODY_TOO_LARGE, message) from too_large
    return body, large.text()


class _LargeText:
    """A JSON body as it comes in, refused as soon as it has too many values. Others have their turn meanwhile."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._written = io.BytesIO()  # holds it once, and gives it without a copy
        self._values = ValueCount()

    async def add(self, piece: bytes) -> None:
        """Raises Refusal (413)."""
        self._written.write(piece)
        self._size += len(piece)
        if self._size > self._most:
            raise Refusal(replies.BODY_TOO_LARGE, f"The body is longer than the {self._most} bytes this proxy reads.")
        self._values.add(piece)
        while self._size > SMALL:
            with self._written.getbuffer() as text:
                more = self._values.step(text)
            if self._values.is_too_high:
                message = f"The body has more than {MOST_VALUES} arrays, objects and members; no more are decoded here."
                raise Refusal(replies.BODY_TOO_LARGE, message)
            await asyncio.sleep(0)
            if not more:
                break

    def text(self) -> bytes:
        return self._written.getvalue()


def _other_models(text: bytes, model: str) -> tuple[str, ...]:
    try:
        return tuple(other_models(text, model))
    except ValueError as unreadable:
        raise Refusal(replies.INVALID_JSON) from unreadable


def cost_of(endpoint: Endpoint, model: str, count: int, roster: Roster) -> tuple[str, Cost]:
    """Group and cost of a request that is not counted in tokens."""
    if not (model or endpoint.names_model):
        return NO_MODEL, _NO_MODELS_COST
    return roster.group_of(model) if model else NO_MODEL, Cost(1, 0, count) if endpoint.name == IMAGES else Cost()


async def _streamed(
    down: Downstream, endpoint: Endpoint, content_type: str, settings: Settings, roster: Roster, *, whole: bool
) -> ClientRequest:
    """A body that passes as it comes. Of a form whose model tells what it costs, the beginning is looked at first;
    a model that comes later is found by `watched`."""
    stream, length = down.stream(), down.headers.raw("content-length")
    model, streamed, count, models = "", False, 1, tuple[str, ...]()
    boundary = boundary_of(content_type) if endpoint.names_model else b""
    if boundary and "content-encoding" not in down.headers:
        most = settings.max_json_body if whole else _PEEK
        held, fields, piece = bytearray(), FieldReader(boundary, with_files=whole), b"-"
        try:
            while piece and ("model" not in fields.found or whole) and len(held) < most:
                piece = await anext(stream, b"")
                held += piece
                fields.feed(piece)
        except FormError as unclear:
            boundary = b""  # there is no telling what it names
            if whole:
                raise Refusal(replies.INVALID_FORM, f"{replies.INVALID_FORM.message} Here: {unclear}.") from unclear
        if whole and not fields.ended:
            raise Refusal(replies.BODY_TOO_LARGE if len(held) >= most else replies.INVALID_FORM)
        stream, models = after(bytes(held), stream), tuple(fields.models)
        model, streamed, count = facts_of_form(fields.found)
        if "model" in fields.found or not piece:
            boundary = b""
    else:
        boundary = b""
    named = cost_of(endpoint, model, count, roster)
    request = ClientRequest(endpoint, None, stream, model, *named, replayable=False, streamed=streamed, length=length)
    request.boundary, request.models = boundary, models
    return request


def facts_of_form(fields: Mapping[str, str]) -> tuple[str, bool, int]:
    """(model, whether it is to stream, how many images) that a form's fields ask for."""
    given = fields.get("n", "1")
    count = max(1, int(given)) if given.isdecimal() and len(given) < 4 else 1
    return fields.get("model", "")[:LONGEST_MODEL], fields.get("stream", "").lower() == "true", count


def _features(facts: RequestFacts) -> tuple[str, ...]:
    """Those that OpenAI gives to verified organisations or certain accounts only (`openai/classify.py`)."""
    if not (facts.service_tier or facts.summary):
        return _STREAM if facts.stream else ()
    wanted = (("stream", facts.stream), ("service_tier", facts.service_tier), ("reasoning_summary", facts.summary))
    return tuple(name for name, wants in wanted if wants)


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


def want_of(request: ClientRequest, headers: Head, client_id: str, client: Client | None, now: Snapshot) -> Want:
    """What admission is asked for. Priority and patience are set per client; the request may only lower them."""
    queue = now.settings.queue
    priority = _PRIORITY[client.priority] if client else 0
    if "x-quotapool-priority" in headers.first:
        asked = headers["x-quotapool-priority"]
        priority = min(priority, _PRIORITY.get(asked.strip().lower(), priority))
    patience = queue.max_wait if client is None or client.max_wait is None else client.max_wait
    for name in ("x-quotapool-max-wait", "x-stainless-read-timeout", "x-stainless-timeout"):
        if name in headers.first:
            patience = min(patience, _seconds(headers[name], patience))
    unread = request.body is None and request.endpoint.names_model  # it names a model that was not looked for
    renamable = bool(request.body) and "content-encoding" not in headers.first
    return Want(
        request.group,
        request.use,
        request.cost,
        request.replayable,
        max(0.0, patience - request.waited_s),
        exclude=set(now.credentials.closed_to(request.model or "?" * unread, renamable=renamable)),
        client=client_id,
        weight=client.weight if client else 1.0,
        priority=priority,
        leave=queue.batch_leaves if priority < 0 else 0.0,
        sticky=request.sticky,
        only=request.placement.only if request.placement is not None else None,
    )


def _seconds(text: str, otherwise: float) -> float:
    """A header's number of seconds (`5`, `2.5`, `5s`, `500ms`, `1m`); what cannot be read changes nothing."""
    found = _SECONDS.fullmatch(text.strip().lower())
    return float(found[1]) * _UNITS[found[2]] if found else otherwise
