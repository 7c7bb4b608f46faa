"""The cheapest calls that prove something about a key: is it valid, and does its account pay.

`GET /v1/models` is free and proves validity. Credit is proven by an embedding of one token; if the key may not make
one, by a chat answer of one token from the cheapest model that is listed for the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from quotapool.domain.verdict import OK, Kind, Verdict
from quotapool.openai.classify import classify
from quotapool.upstream.credentials import Credentials
from quotapool.upstream.interface import Upstream, UpstreamFailure, read_body

_LARGEST: Final = 2**20  # bytes of an answer that are read
EMBEDDING: Final = "text-embedding-3-small"
# Chat models by the price of one token, cheapest first, reasoning models last: one token is not enough for their
# reasoning. (input, output) in picodollars a token, from OpenAI's price list of 2026; spend is priced by
# `money/prices.py`, these only bound a probe before it is made.
CHAT: Final = {
    "gpt-4.1-nano": (100_000, 400_000),
    "gpt-4o-mini": (150_000, 600_000),
    "gpt-4.1-mini": (400_000, 1_600_000),
    "gpt-3.5-turbo": (500_000, 1_500_000),
    "gpt-4.1": (2_000_000, 8_000_000),
    "gpt-4o": (2_500_000, 10_000_000),
    "gpt-5-nano": (50_000, 400_000),
    "gpt-5-mini": (250_000, 2_000_000),
}
_UNKNOWN_PRICE: Final = (10_000_000, 60_000_000)  # assumed for other models
_PROMPT: Final = 24  # tokens that the smallest chat may count as, with its framing
EMBEDDING_PICO: Final = 8 * 20_000


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The answer to one call. `in_json`: it came from the API itself, and is no page of something on the way;
    `document` is its content; `failure`: why there was no answer."""

    verdict: Verdict = OK
    status: int = 0
    request_id: str = ""
    in_json: bool = False
    document: Any = None
    failure: str = ""


def most_pico(model: str) -> int:
    """The most that a chat of one token can cost, in picodollars."""
    prompt, completion = CHAT.get(model, _UNKNOWN_PRICE)
    return _PROMPT * prompt + completion


class Calls:
    """Makes the calls. `clean` removes secrets from upstream's answers."""

    def __init__(self, upstream: Upstream, credentials: Credentials, clean: Callable[[bytes], bytes]) -> None:
        self.upstream = upstream
        self.other_upstreams: Mapping[str, Upstream] = {}  # by address: of keys with their own upstream
        self.credentials = credentials
        self._clean = clean

    async def models(self, key: str) -> ProbeAnswer:
        return await self._call(key, "GET", "/v1/models", None)

    async def embed(self, key: str) -> ProbeAnswer:
        return await self._call(key, "POST", "/v1/embeddings", {"model": EMBEDDING, "input": "1"})

    async def chat(self, key: str, model: str) -> ProbeAnswer:
        body = {"model": model, "max_completion_tokens": 1, "messages": [{"role": "user", "content": "1"}]}
        return await self._call(key, "POST", "/v1/chat/completions", body)

    async def _call(self, key: str, method: str, target: str, payload: dict[str, Any] | None) -> ProbeAnswer:
        route = self.credentials.route(key)
        upstream = self.upstream if route is None else self.other_upstreams.get(route.base)
        if upstream is None:  # a reload is about to add it
            return ProbeAnswer(Verdict(Kind.SERVICE, "connect"), failure="connect")
        headers = [self.credentials.header(key), (b"Accept-Encoding", b"identity")]
        if route is not None:
            target = route.target(target)
        body = None
        if payload is not None:
            body = msgspec.json.encode(payload)
            if route is not None:
                body = route.body(body, payload["model"])
            headers += [(b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body))]
        try:
            answer = await upstream.send(method, target, headers, body)
            try:
                content = self._clean(await read_body(answer, _LARGEST))
            finally:
                answer.close()
        except UpstreamFailure as failure:
            return ProbeAnswer(Verdict(Kind.SERVICE, failure.reason), failure=failure.reason)
        verdict = classify(answer.status, answer.headers, content)
        request_id = answer.headers.get("x-request-id", "")
        try:
            document = msgspec.json.decode(content)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            document = None
        in_json = isinstance(document, dict)
        if verdict.kind is Kind.OK and not in_json:
            verdict = Verdict(Kind.EGRESS, "http_200")  # a login page has status 200, too
        return ProbeAnswer(verdict, answer.status, request_id, in_json, document)


def chat_model(listed_by: ProbeAnswer, served: Sequence[str]) -> str:
    """The cheapest chat model among those that `models` listed; else one that the pool has `served`; else ""."""
    rows = listed_by.document.get("data") if isinstance(listed_by.document, dict) else None
    listed = {row.get("id") for row in rows if isinstance(row, dict)} if isinstance(rows, list) else set()
    for model in (*CHAT, *served):
        if model in listed:
            return model
    return "" if listed or not served else served[0]
