"""Whether a whole answer may be kept: what one client gets as it is may be of no use, or wrong, to the next one.

An answer that ends at the request's own limit (`finish_reason` `length`) is kept: the limit is part of what was asked,
and completions end there more often than not. One that ends there before its first word is not: its limit went to
reasoning, and the next try may do with less. A response at its limit has the status `incomplete`, and is not kept.

Sources: openai-openapi 2.3.0, and the types of the Python SDK 3.54.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from quotapool.openai.endpoints import Endpoint
from quotapool.openai.facts import Canonical
from quotapool.openai.jsontext import BROKEN
from quotapool.openai.shapes import KeptChoices, KeptData, KeptResponse
from quotapool.openai.usage import usage_of

MALFORMED: Final = "malformed"
ERROR: Final = "error"
REFUSAL: Final = "refusal"
FILTERED: Final = "content_filter"
INCOMPLETE: Final = "incomplete"
TOOLS: Final = "tool_calls"
HOSTED: Final = "tools_hosted"
AUDIO: Final = "audio"
STORED: Final = "stored_objects"
NO_USAGE: Final = "no_usage"

UNSTORABLE: Final[dict[str, str]] = {
    MALFORMED: "the answer is not JSON of the shape that OpenAI documents",
    ERROR: "it has an error, or the moderation of it failed",
    REFUSAL: "the model refused, which it may not do the next time",
    FILTERED: "a content filter left something out",
    INCOMPLETE: "it was cut short, says nothing, or has fewer answers than were asked for",
    TOOLS: "it calls tools, and `cache.tools` is off",
    HOSTED: "a tool at OpenAI or at a third party had a part in it: what that finds changes",
    AUDIO: "it has audio, which names a stored object",
    STORED: "upstream stored it, against the request",
    NO_USAGE: "it does not say what it used, so what a hit saves would be unknown",
}
"""Why an answer is not kept: the words of `unstorable`, and what each means."""

_ENDED: Final = frozenset({"stop", "length"})
_CALLED: Final = frozenset({"tool_calls", "function_call"})
_CLIENTS_CALLS: Final = frozenset(
    {"function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call"}
)
"""Calls of tools that the client runs itself."""
_SILENT_ITEMS: Final = frozenset({"reasoning", "compaction"})

_choices: Final = msgspec.json.Decoder(KeptChoices)
_data: Final = msgspec.json.Decoder(KeptData)
_response: Final = msgspec.json.Decoder(KeptResponse)


def unstorable(endpoint: Endpoint, asked: Canonical, whole: bytes, *, tools: bool) -> str:
    """A word of UNSTORABLE if an answer is not to be kept, "" if it may be.

    `endpoint` and `asked`: of the request, for which `canonical` gave something. `whole`: the answer, of status 200, as
    one JSON text. `tools`: answers that call the client's tools may be kept. Takes time linear in the answer.
    """
    try:
        if endpoint.name in {"chat", "completions"}:
            return _of_choices(_choices.decode(whole), asked.choices, tools=tools)
        if endpoint.name == "responses":
            return _of_response(_response.decode(whole), tools=tools)
        return _of_data(endpoint.name, _data.decode(whole), asked.choices)
    except BROKEN:
        return MALFORMED


def _of_choices(answer: KeptChoices, asked: int, *, tools: bool) -> str:
    if answer.error is not None or _has_failed(answer.moderation):
        return ERROR
    if answer.choices is None:
        return MALFORMED
    if len(answer.choices) < asked:
        return INCOMPLETE
    for choice in answer.choices:
        if choice.error is not None:
            return ERROR
        reason, message = choice.finish_reason, choice.message
        if reason == "content_filter":
            return FILTERED
        if message is None:  # of completions
            if reason not in _ENDED or type(choice.text) is not str:
                return INCOMPLETE
            continue
        if message.refusal or _refuses(message.content):
            return REFUSAL
        if message.audio is not None:
            return AUDIO
        if message.annotations:  # citations of a search
            return HOSTED
        calls = bool(message.tool_calls) or message.function_call is not None
        if calls and not tools:
            return TOOLS
        if not (calls or message.content) or reason not in (_ENDED | _CALLED if calls else _ENDED):
            return INCOMPLETE
    if answer.metadata:  # repeated of a stored one
        return STORED
    return NO_USAGE if usage_of(answer.usage) is None else ""


def _of_response(answer: KeptResponse, *, tools: bool) -> str:
    if answer.error is not None or answer.status == "failed" or _has_failed(answer.moderation):
        return ERROR
    details = answer.incomplete_details
    if type(details) is dict and details.get("reason") == "content_filter":
        return FILTERED
    if answer.status != "completed" or details is not None or answer.input_transformations:
        return INCOMPLETE  # `input_transformations`: this account could not read a part of the request
    if answer.store is True:
        return STORED
    if answer.output is None:
        return MALFORMED
    says = False
    for item in answer.output:
        kind = item.type
        if type(kind) is not str:
            return MALFORMED
        if item.status not in {None, "completed"}:
            return INCOMPLETE
        if kind == "message":
            if _refuses(item.content):
                return REFUSAL
            says = says or bool(item.content)
        elif kind in _CLIENTS_CALLS:
            if not tools:
                return TOOLS
            says = True
        elif kind not in _SILENT_ITEMS:
            return HOSTED
    if not says:
        return INCOMPLETE
    return NO_USAGE if usage_of(answer.usage) is None else ""


def _of_data(name: str, answer: KeptData, asked: int) -> str:
    """Embeddings, moderations, and models."""
    if answer.error is not None:
        return ERROR
    if name == "moderations":
        return "" if answer.results else INCOMPLETE
    if name == "models":
        listed = answer.object == "list" and answer.data is not None
        return "" if listed or (answer.object == "model" and answer.id) else MALFORMED
    if answer.data is None:
        return MALFORMED
    if len(answer.data) < asked:
        return INCOMPLETE
    return NO_USAGE if usage_of(answer.usage) is None else ""


def _refuses(content: object) -> bool:
    """Whether one of a message's parts is a refusal."""
    return type(content) is list and any(type(part) is dict and part.get("type") == "refusal" for part in content)


def _has_failed(moderation: Any) -> bool:
    """Whether the moderation that the request asked for gave an error for its words or the answer's."""
    if type(moderation) is not dict:
        return False
    return any(type(one) is dict and one.get("type") == "error" for one in moderation.values())
