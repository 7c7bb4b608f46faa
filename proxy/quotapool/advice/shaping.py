"""What a request's answer depends on, until `openai/cacheable.py` is here, whose signatures these are."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from quotapool.openai.endpoints import Endpoint
from quotapool.openai.jsontext import BROKEN

_LEFT_OUT: Final = (
    *("stream", "stream_options", "user", "metadata", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention", "service_tier"),
)
_body: Final = msgspec.json.Decoder(dict[str, Any])
_encoder: Final = msgspec.json.Encoder(order="deterministic")


class Canonical(msgspec.Struct, frozen=True, gc=False):
    """`text`: equal for all requests that ask for the same answer; `temperature`: as asked, 1 by default."""

    text: bytes
    temperature: float = 0.0


def canonical(endpoint: Endpoint, method: str, target: str, text: bytes) -> Canonical | str:
    """A word says why an answer is never kept."""
    if method != "POST" or "?" in target or endpoint.estimate is None:
        return "endpoint"
    try:
        body = _body.decode(text)
    except BROKEN:
        return "malformed"
    if body.get("store") is True or (endpoint.estimate == "responses" and body.get("store") is not False):
        return "stored_objects"
    for name in _LEFT_OUT:
        body.pop(name, None)
    temperature = body.get("temperature")
    return Canonical(_encoder.encode(body), 1.0 if temperature is None else float(temperature))
