"""What a complete JSON answer says it used, in tokens (or seconds), at which service tier, and by which model.

Shapes (openai-openapi 2.3.0): chat and completions `prompt_tokens`, `completion_tokens`,
`prompt_tokens_details.{cached_tokens,cache_write_tokens,audio_tokens}`,
`completion_tokens_details.{reasoning_tokens,audio_tokens}`; embeddings `prompt_tokens`; responses, images and
transcriptions `input_tokens`, `output_tokens`, `input_tokens_details`, `output_tokens_details` with the same names
and `image_tokens`; transcriptions and realtime spell the details `input_token_details`, and realtime tells cached
tokens apart in `cached_tokens_details.{text_tokens,audio_tokens,image_tokens}`. Transcriptions by the minute say
`{"type": "duration", "seconds": 12}`.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from quotapool.domain.quantities import Certainty, Details, Usage
from quotapool.openai.jsontext import BROKEN, decode_leniently, locate

UNREPORTED: Final = Usage(Certainty.AT_LEAST)
"""Nobody told us: some tokens may have been used."""

_SCAN_FROM: Final = 8192  # bytes; below it decoding all is as quick as looking from the end
_TIER_WITHIN: Final = 65_536  # bytes from the end; in a response, `tools` and the like stand behind it
_NO_TIER: Final = frozenset({"", "auto"})  # "auto" is what was asked for, never what was done


class _Answer(msgspec.Struct, gc=False):
    usage: Any = None
    service_tier: Any = None


class _Model(msgspec.Struct, gc=False):
    model: Any = None


class _Said(_Model, gc=False):
    response: _Model | None = None


_answer: Final = msgspec.json.Decoder(_Answer)
_said: Final = msgspec.json.Decoder(_Said)


def read_usage(body: bytes) -> Usage:
    """The usage of a JSON answer: EXACT where upstream said it, else UNREPORTED. Never raises.

    In a large answer (embeddings, long texts) `usage` stands near the end: there only the tail is decoded, after
    it was proved to begin at a member of the outermost object.
    """
    try:
        if len(body) >= _SCAN_FROM and (at := locate(body, b'"usage"')) >= 0:
            told = _answer.decode(b"{" + body[at:])
            if told.service_tier is None and type(told.usage) is dict and "output_tokens" in told.usage:
                told.service_tier = _tier_before(body)
        else:
            told = _answer.decode(body)
    except BROKEN:
        return UNREPORTED
    return usage_of(told.usage, reported_tier(told.service_tier)) or UNREPORTED


def answering_model(body: bytes) -> str:
    """The model that an answer, or the last event of its stream, says it came from; "" where it tells none."""
    try:
        seen = decode_leniently(_said, body)
    except BROKEN:
        return ""
    model = seen.model if seen.response is None else seen.response.model
    return model if type(model) is str else ""


def reported_tier(told: object) -> str:
    """A decoded `service_tier`; "" where it says nothing of how the call was served."""
    return told if type(told) is str and told not in _NO_TIER else ""


def _tier_before(body: bytes) -> object:
    """The tier of a long response, where it stands before `usage` (in chat it stands behind)."""
    tail = body[-_TIER_WITHIN:]
    at = locate(tail, b'"service_tier"')
    return _answer.decode(b"{" + tail[at:]).service_tier if at >= 0 else None


def usage_of(told: object, tier: str = "") -> Usage | None:
    """A decoded usage object as EXACT usage; None where it counts nothing."""
    if type(told) is not dict:
        return None
    prompt = told.get("prompt_tokens")
    if prompt is None:
        prompt = told.get("input_tokens")
        completion = told.get("output_tokens")
        prompt_details = told.get("input_tokens_details") or told.get("input_token_details")
        completion_details = told.get("output_tokens_details") or told.get("output_token_details")
    else:
        completion = told.get("completion_tokens")
        prompt_details = told.get("prompt_tokens_details")
        completion_details = told.get("completion_tokens_details")
    if type(prompt) is not int and type(completion) is not int:
        return _duration(told, tier)
    prompt = _count(prompt)
    completion = _count(completion)
    cached = reasoning = 0
    details = None
    # Parts cannot exceed their whole, whatever a look-alike upstream reports.
    if type(completion_details) is dict:
        reasoning = min(completion, _count(completion_details.get("reasoning_tokens")))
    else:
        completion_details = None
    if type(prompt_details) is dict:
        cached = min(prompt, _count(prompt_details.get("cached_tokens")))
    else:
        prompt_details = None
    if _is_special(prompt_details) or _is_special(completion_details):
        details = _details(prompt, completion, cached, prompt_details or {}, completion_details or {})
    return Usage(Certainty.EXACT, prompt, completion, cached, reasoning, details, tier)


def _is_special(part: dict[str, Any] | None) -> bool:
    """Whether tokens other than text, or written to the cache, are named: most answers name them as 0."""
    return part is not None and bool(
        part.get("audio_tokens") or part.get("image_tokens") or part.get("cache_write_tokens")
    )


def _details(prompt: int, completion: int, cached: int, up: dict[str, Any], down: dict[str, Any]) -> Details:
    audio = min(prompt, _count(up.get("audio_tokens")))
    image = min(prompt - audio, _count(up.get("image_tokens")))
    audio_said = min(completion, _count(down.get("audio_tokens")))
    of_cached = up.get("cached_tokens_details")
    if type(of_cached) is not dict:
        of_cached = {}
    cached_audio = min(audio, cached, _count(of_cached.get("audio_tokens")))
    return Details(
        min(prompt - cached, _count(up.get("cache_write_tokens"))),
        audio,
        audio_said,
        image,
        min(completion - audio_said, _count(down.get("image_tokens"))),
        cached_audio,
        min(image, cached - cached_audio, _count(of_cached.get("image_tokens"))),
    )


def _duration(told: dict[str, Any], tier: str) -> Usage | None:
    seconds = told.get("seconds")
    if told.get("type") != "duration" or isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    if not 0 < seconds < math.inf:
        return None
    return Usage(Certainty.EXACT, details=Details(seconds=float(seconds)), tier=tier)


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0
