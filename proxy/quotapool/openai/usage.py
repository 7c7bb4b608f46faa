"""The usage that a complete JSON answer reports, in tokens (or seconds), its service tier, and its model.

Shapes (openai-openapi 2.3.0): chat and completions `prompt_tokens`, `completion_tokens`,
`prompt_tokens_details.{cached_tokens,cache_write_tokens,audio_tokens}`,
`completion_tokens_details.{reasoning_tokens,audio_tokens}`; embeddings `prompt_tokens`; responses, images and
transcriptions `input_tokens`, `output_tokens`, `input_tokens_details`, `output_tokens_details` with the same names
and `image_tokens`; transcriptions and realtime spell the details `input_token_details`, and realtime splits cached
tokens in `cached_tokens_details.{text_tokens,audio_tokens,image_tokens}`. Transcriptions billed by the minute report
`{"type": "duration", "seconds": 12}`.

A response states what its tools used beside `usage`: `tool_usage.image_gen` has the tokens of the model that `tools`
names for it, `tool_usage.web_search.num_requests` counts searches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import msgspec

from quotapool.domain.quantities import Certainty, Details, Usage
from quotapool.openai.jsontext import BROKEN, count_of, decode_leniently, locate
from quotapool.openai.shapes import Answer, AnswerOrEvent, Tool

UNREPORTED: Final = Usage(Certainty.AT_LEAST)
"""Not reported: some tokens may have been used."""

_SCAN_FROM: Final = 8192  # bytes; below, decoding everything is as fast as searching from the end
_TIER_WITHIN: Final = 65_536  # bytes from the end; in a response, `tools` and the like follow it
_NO_TIER: Final = frozenset({"", "auto"})  # "auto" can be asked for, but is never how a call was served


_answer: Final = msgspec.json.Decoder(Answer)
_tools: Final = msgspec.json.Decoder(list[Tool])
_answer_or_event: Final = msgspec.json.Decoder(AnswerOrEvent)
_IMAGE_TOOL: Final = {"image_gen": "image_generation"}  # `tool_usage` and `tools` name it differently
_LONGEST_MODEL: Final = 128  # characters
_MOST_TOOLS: Final = 16  # that an answer may state usage of


def read_usage(body: bytes) -> Usage:
    """The usage of a JSON answer: EXACT if upstream reports it, else UNREPORTED. Never raises.

    In a large answer (embeddings, long texts) `usage` is near the end: only the tail is decoded, after it was proved to
    begin at a member of the outermost object.
    """
    try:
        if len(body) >= _SCAN_FROM and (at := locate(body, b'"usage"')) >= 0:
            answer = _answer.decode(b"{" + body[at:])
            if (
                type(answer.usage) is dict and "output_tokens" in answer.usage
            ):  # a response: these come before its usage
                if answer.service_tier is None:
                    answer.service_tier = _tier_before(body)
                if answer.tool_usage is None:
                    answer.tool_usage = _member(body, b'"tool_usage"').tool_usage
                if answer.tool_usage and not bytes(answer.tools):
                    answer.tools = _member(body, b'"tools"').tools
        else:
            answer = _answer.decode(body)
    except BROKEN:
        return UNREPORTED
    usage = usage_of(answer.usage, reported_tier(answer.service_tier))
    if usage is not None and answer.tool_usage:
        usage = with_tools(usage, answer.tool_usage, answer.tools)
    return usage or UNREPORTED


def answering_model(body: bytes) -> str:
    """The model that an answer, or the last event of its stream, says it came from; "" if it names none."""
    try:
        decoded = decode_leniently(_answer_or_event, body)
    except BROKEN:
        return ""
    model = decoded.model if decoded.response is None else decoded.response.model
    return model if type(model) is str else ""


def reported_tier(tier: object) -> str:
    """A decoded `service_tier`; "" if it does not say how the call was served."""
    return tier if type(tier) is str and tier not in _NO_TIER else ""


def _tier_before(body: bytes) -> object:
    """The tier of a long response, in which it comes before `usage` (in chat it comes after)."""
    return _member(body[-_TIER_WITHIN:], b'"service_tier"').service_tier


def _member(body: bytes, quoted_name: bytes) -> Answer:
    """What an answer has from this top-level member on; empty if it has no such member."""
    at = locate(body, quoted_name)
    return _answer.decode(b"{" + body[at:]) if at >= 0 else Answer()


def with_tools(usage: Usage, tool_usage: object, tools: object) -> Usage:
    """`usage` with what the tools used. `tools`: as decoded, or its JSON. Never raises."""
    if type(tool_usage) is not dict:
        return usage
    by_tools = tuple(_by_tools(tool_usage, tools))
    search = tool_usage.get("web_search")
    searches = count_of(search.get("num_requests")) if type(search) is dict else 0
    if not by_tools and not searches:
        return usage
    details = msgspec.structs.replace(usage.details or Details(), web_searches=searches) if searches else usage.details
    return msgspec.structs.replace(usage, details=details, by_tools=by_tools)


def _by_tools(tool_usage: dict[str, Any], tools: object) -> Iterator[tuple[str, Usage]]:
    """(model, usage) for each tool that used tokens; the model is "" if the answer does not name it."""
    models: dict[str, str] | None = None
    for name, reported in islice(tool_usage.items(), _MOST_TOOLS):
        used = usage_of(reported)
        if used is None or not used.total:
            continue
        if models is None:
            models = _models_of(tools)
        yield models.get(_IMAGE_TOOL.get(name, name), ""), used


def _models_of(tools: object) -> dict[str, str]:
    """The model of each type of tool that names one."""
    try:
        decoded = _tools.decode(tools) if isinstance(tools, msgspec.Raw) else msgspec.convert(tools, list[Tool])
    except BROKEN:
        return {}
    return {t.type: t.model[:_LONGEST_MODEL] for t in decoded if type(t.type) is str and type(t.model) is str}


def usage_of(reported: object, tier: str = "") -> Usage | None:
    """A decoded usage object as EXACT usage; None if it counts nothing."""
    if type(reported) is not dict:
        return None
    prompt = reported.get("prompt_tokens")
    if prompt is None:
        prompt = reported.get("input_tokens")
        completion = reported.get("output_tokens")
        prompt_details = reported.get("input_tokens_details") or reported.get("input_token_details")
        completion_details = reported.get("output_tokens_details") or reported.get("output_token_details")
    else:
        completion = reported.get("completion_tokens")
        prompt_details = reported.get("prompt_tokens_details")
        completion_details = reported.get("completion_tokens_details")
    if type(prompt) is not int and type(completion) is not int:
        return _duration(reported, tier)
    prompt = count_of(prompt)
    completion = count_of(completion)
    cached = reasoning = 0
    details = None
    # Parts cannot exceed the whole, whatever a look-alike of OpenAI reports.
    if type(completion_details) is dict:
        reasoning = min(completion, count_of(completion_details.get("reasoning_tokens")))
    else:
        completion_details = None
    if type(prompt_details) is dict:
        cached = min(prompt, count_of(prompt_details.get("cached_tokens")))
    else:
        prompt_details = None
    if _is_special(prompt_details) or _is_special(completion_details):
        details = _details(prompt, completion, cached, prompt_details or {}, completion_details or {})
    return Usage(Certainty.EXACT, prompt, completion, cached, reasoning, details, tier)


def _is_special(part: dict[str, Any] | None) -> bool:
    """Whether there are tokens other than text, or written to the cache: most answers report 0 of them."""
    return part is not None and bool(
        part.get("audio_tokens") or part.get("image_tokens") or part.get("cache_write_tokens")
    )


def _details(
    prompt: int, completion: int, cached: int, of_prompt: dict[str, Any], of_completion: dict[str, Any]
) -> Details:
    audio = min(prompt, count_of(of_prompt.get("audio_tokens")))
    image = min(prompt - audio, count_of(of_prompt.get("image_tokens")))
    audio_completion = min(completion, count_of(of_completion.get("audio_tokens")))
    of_cached = of_prompt.get("cached_tokens_details")
    if type(of_cached) is not dict:
        of_cached = {}
    cached_audio = min(audio, cached, count_of(of_cached.get("audio_tokens")))
    return Details(
        min(prompt - cached, count_of(of_prompt.get("cache_write_tokens"))),
        audio,
        audio_completion,
        image,
        min(completion - audio_completion, count_of(of_completion.get("image_tokens"))),
        cached_audio,
        min(image, cached - cached_audio, count_of(of_cached.get("image_tokens"))),
    )


def _duration(reported: dict[str, Any], tier: str) -> Usage | None:
    seconds = reported.get("seconds")
    if reported.get("type") != "duration" or isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    if not 0 < seconds < math.inf:
        return None
    return Usage(Certainty.EXACT, details=Details(seconds=float(seconds)), tier=tier)
