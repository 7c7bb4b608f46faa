"""The shapes of JSON that are decoded on the request path: of each, the members that are looked at."""

from __future__ import annotations

from typing import Any, Final

import msgspec

NONE: Final = msgspec.Raw(b"")
"""A member that is absent."""


class AnyObject(msgspec.Struct, gc=False):
    """Has no members, so decoding into it only checks that the bytes are one JSON object."""


# ---- requests


class Body(msgspec.Struct, gc=False):
    model: Any = None
    stream: Any = None
    stream_options: Any = None
    n: Any = None
    store: Any = None
    service_tier: Any = None
    prompt_cache_key: Any = None


class ChatBody(Body, gc=False):
    messages: Any = None
    max_completion_tokens: Any = None
    max_tokens: Any = None
    prediction: Any = None
    tools: msgspec.Raw = NONE
    functions: msgspec.Raw = NONE
    response_format: msgspec.Raw = NONE


class ResponsesBody(Body, gc=False):
    input: Any = None
    instructions: Any = None
    max_output_tokens: Any = None
    background: Any = None
    conversation: Any = None
    prompt: Any = None
    tools: msgspec.Raw = NONE
    text: msgspec.Raw = NONE
    reasoning: msgspec.Raw = NONE


class CompletionsBody(Body, gc=False):
    prompt: Any = None
    suffix: Any = None
    max_tokens: Any = None
    best_of: Any = None


class EmbeddingsBody(Body, gc=False):
    input: Any = None


class Peek(msgspec.Struct, gc=False):
    """Any body that may name a model."""

    model: Any = None
    stream: Any = None
    n: Any = None


class Speech(msgspec.Struct, gc=False):
    input: Any = None


class WithStreamOptions(msgspec.Struct, gc=False):
    stream_options: msgspec.Raw = NONE


class StreamOptions(msgspec.Struct, gc=False):
    include_usage: Any = None


# ---- answers


class Answer(msgspec.Struct, gc=False):
    usage: Any = None
    service_tier: Any = None
    tool_usage: Any = None
    tools: msgspec.Raw = NONE  # can be long, and is rarely needed


class Tool(msgspec.Struct, gc=False):
    type: Any = None
    model: Any = None


class Model(msgspec.Struct, gc=False):
    model: Any = None


class AnswerOrEvent(Model, gc=False):
    response: Model | None = None


class NestedResponse(msgspec.Struct, gc=False):
    id: Any = None
    usage: Any = None
    service_tier: Any = None
    tool_usage: Any = None
    tools: msgspec.Raw = NONE


class Event(msgspec.Struct, gc=False):
    id: Any = None
    type: Any = None
    error: Any = None
    choices: Any = None
    usage: Any = None
    delta: Any = None
    service_tier: Any = None
    response: NestedResponse | None = None  # can be megabytes, of which only the usage is needed


class ResponseEvent(msgspec.Struct, gc=False):
    type: Any = None
    error: Any = None
    output_index: Any = None
    item: msgspec.Raw = NONE
    response: msgspec.Raw = NONE


# ---- answers that may be kept


class KeptMessage(msgspec.Struct, gc=False):
    content: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None
    annotations: Any = None


class KeptChoice(msgspec.Struct, gc=False):
    finish_reason: Any = None
    message: KeptMessage | None = None
    text: Any = None
    error: Any = None


class KeptChoices(msgspec.Struct, gc=False):
    """Of chat and completions."""

    choices: list[KeptChoice] | None = None
    usage: Any = None
    error: Any = None
    metadata: Any = None
    moderation: Any = None


class KeptItem(msgspec.Struct, gc=False):
    type: Any = None
    status: Any = None
    content: Any = None


class KeptResponse(msgspec.Struct, gc=False):
    status: Any = None
    output: list[KeptItem] | None = None
    usage: Any = None
    error: Any = None
    incomplete_details: Any = None
    input_transformations: Any = None
    moderation: Any = None
    store: Any = None


class KeptData(msgspec.Struct, gc=False):
    """Embeddings, moderations, models. The vectors are not read."""

    object: Any = None
    id: Any = None
    data: list[msgspec.Raw] | None = None
    results: list[msgspec.Raw] | None = None
    usage: Any = None
    error: Any = None
