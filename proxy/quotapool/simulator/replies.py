"""Bodies and stream frames of chat completions and completions; embeddings, models, moderations, everything else."""

from __future__ import annotations

import base64
import functools
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from quotapool.simulator import logprobs
from quotapool.simulator.answers import Answer, Usage, embedded_items
from quotapool.simulator.errors import ErrorReply
from quotapool.simulator.parsed_request import CHAT, ParsedRequest, read_prompt

MODELS: Final = (
    "gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-5.5", "gpt-3.5-turbo-instruct",
    "text-embedding-3-small", "text-embedding-3-large", "omni-moderation-latest",
)  # fmt: skip
MODEL_CREATED: Final = 1_735_689_600
HARMS: Final = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Turn:
    """One admitted request with its answer. `created` is in Unix seconds; `account` is the name of the one that made
    it, to which encrypted reasoning is bound."""

    id: str
    created: int
    parsed: ParsedRequest
    answers: tuple[Answer, ...]
    usage: Usage
    account: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream, and the number of tokens that must be produced before it can be sent."""

    data: bytes
    tokens: int = 0


def pretty(document: Any) -> bytes:
    """Indented, as OpenAI's JSON answers are; a reader that expects compact JSON must fail here too."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def data_frame(document: dict[str, Any], tokens: int = 0) -> Frame:
    return Frame(b"data: " + msgspec.json.encode(document) + b"\n\n", tokens)


def usage_document(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def finish_reason(answer: Answer) -> str:
    if answer.cut:
        return "length"
    if answer.filtered:
        return "content_filter"
    return "tool_calls" if answer.function is not None else "stop"


def call_id(turn: Turn, index: int) -> str:
    return f"call_{turn.id.partition('-')[2]}{index}"


def completion_body(turn: Turn) -> bytes:
    """The JSON answer of chat completions and of completions."""
    chat = turn.parsed.shape is CHAT
    return pretty(
        {
            "id": turn.id,
            "object": "chat.completion" if chat else "text_completion",
            "created": turn.created,
            "model": turn.parsed.model,
            "choices": [
                chat_choice(turn, index, answer) if chat else whole_text_choice(turn, index, answer)
                for index, answer in enumerate(turn.answers)
            ],
            "usage": usage_document(turn.usage),
            "service_tier": turn.parsed.service_tier,
            "system_fingerprint": "fp_simulated",
        }
    )


def chat_choice(turn: Turn, index: int, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    if answer.function is not None:
        call = {"name": answer.function, "arguments": answer.text}
        message["content"] = None
        message["tool_calls"] = [{"id": call_id(turn, index), "type": "function", "function": call}]
    elif answer.refuses:
        message["content"], message["refusal"] = None, answer.text
    probable = chat_logprobs(turn, answer, answer.pieces)
    return {"index": index, "message": message, "logprobs": probable, "finish_reason": finish_reason(answer)}


def chat_logprobs(turn: Turn, answer: Answer, pieces: Sequence[str]) -> dict[str, Any] | None:
    """Log probabilities of text, if they are asked for; tool calls have none."""
    top = logprobs.alternatives(turn.parsed)
    if top is None or answer.function is not None:
        return None
    tokens = [logprobs.of_token(piece, top) for piece in pieces]
    return {"content": None, "refusal": tokens} if answer.refuses else {"content": tokens, "refusal": None}


def whole_text_choice(turn: Turn, index: int, answer: Answer) -> dict[str, Any]:
    return text_choice(turn, index, answer.pieces, finish_reason(answer))


def text_choice(turn: Turn, index: int, pieces: Sequence[str], finish: str | None, offset: int = 0) -> dict[str, Any]:
    """`offset`: of the first piece in the choice's text, in characters."""
    top = logprobs.alternatives(turn.parsed)
    probable = None if top is None or not pieces else logprobs.of_text(pieces, top, offset)
    return {"text": "".join(pieces), "index": index, "logprobs": probable, "finish_reason": finish}


def completion_frames(turn: Turn, failure: ErrorReply | None = None) -> Iterator[Frame]:
    """The stream of chat completions and of completions.

    With `include_usage` every chunk carries `"usage":null` and one extra chunk with `choices: []` has the numbers;
    without it no chunk has the key. A `failure` comes after the role chunks, and nothing comes after a failure.
    """
    parsed = turn.parsed
    chat = parsed.shape is CHAT
    envelope: dict[str, Any] = {
        "id": turn.id,
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": turn.created,
        "model": parsed.model,
        "service_tier": parsed.service_tier,
        "system_fingerprint": "fp_simulated",
    }
    unknown_yet = {"usage": None} if parsed.include_usage else {}

    def chunk(choice: dict[str, Any], tokens: int = 0) -> Frame:
        return data_frame({**envelope, "choices": [choice], **unknown_yet}, tokens)

    if chat:
        for index, answer in enumerate(turn.answers):
            yield chunk(delta_choice(index, opening_delta(turn, index, answer)))
    if failure is not None:
        yield data_frame(failure.document())
        return
    for index, answer in enumerate(turn.answers):
        thinking, offset = answer.reasoning, 0
        for piece in answer.pieces:
            if chat:
                choice = delta_choice(index, piece_delta(answer, piece), chat_logprobs(turn, answer, [piece]))
            else:
                choice = text_choice(turn, index, [piece], None, offset)
                offset += len(piece)
            yield chunk(choice, 1 + thinking)
            thinking = 0
        finish = finish_reason(answer)
        last = delta_choice(index, {}, finish=finish) if chat else text_choice(turn, index, (), finish)
        yield chunk(last, thinking)
    if parsed.include_usage:
        yield data_frame({**envelope, "choices": [], "usage": usage_document(turn.usage)})
    yield Frame(DONE)


def delta_choice(
    index: int, delta: dict[str, Any], probable: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": probable, "finish_reason": finish}


def opening_delta(turn: Turn, index: int, answer: Answer) -> dict[str, Any]:
    if answer.function is None:
        return {"role": "assistant", "content": "", "refusal": None}
    function = {"name": answer.function, "arguments": ""}
    call = {"index": 0, "id": call_id(turn, index), "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}


def piece_delta(answer: Answer, piece: str) -> dict[str, Any]:
    if answer.function is None:
        return {"refusal": piece} if answer.refuses else {"content": piece}
    return {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}


@functools.lru_cache(maxsize=16)
def unit_vector(dimensions: int) -> tuple[float, ...]:
    """Of length 1, in numbers that 32-bit floats hold exactly."""
    raw = [math.sin(step * 12.9898 + 1.0) for step in range(dimensions)]
    length = math.sqrt(sum(value * value for value in raw))
    return tuple(array("f", [value / length for value in raw]))


def embedding_of(item: Any, dimensions: int) -> list[float]:
    """The unit vector of one text or array of tokens: it depends on nothing else."""
    digest = read_prompt(item).digest
    base, turned = unit_vector(dimensions), digest % dimensions
    vector = [*base[turned:], *base[:turned]]
    for place in range(min(32, dimensions)):  # so that inputs differ that are turned alike
        if digest >> place & 1:
            vector[place] = -vector[place]
    return vector


def embeddings_body(turn: Turn) -> bytes:
    """One unit vector for each input, as floats or as base64 of little-endian 32-bit floats, which are equal."""
    body = turn.parsed.body
    wanted = body.get("dimensions")
    default = 3072 if "large" in turn.parsed.model else 1536
    dimensions = wanted if isinstance(wanted, int) and 0 < wanted <= 3072 else default

    def embedding(item: Any) -> list[float] | str:
        vector = embedding_of(item, dimensions)
        if body.get("encoding_format") == "base64":
            return base64.b64encode(array("f", vector).tobytes()).decode()
        return vector

    return msgspec.json.encode(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": embedding(item)}
                for index, item in enumerate(embedded_items(turn.parsed))
            ],
            "model": turn.parsed.model,
            "usage": {"prompt_tokens": turn.usage.prompt, "total_tokens": turn.usage.prompt},
        }
    )


def moderations_body(turn: Turn) -> bytes:
    inputs = turn.parsed.body["input"]
    result = {
        "flagged": False,
        "categories": dict.fromkeys(HARMS, False),
        "category_scores": dict.fromkeys(HARMS, 0.0),
        "category_applied_input_types": {harm: ["text"] for harm in HARMS},
    }
    several = isinstance(inputs, list) and all(isinstance(item, str) for item in inputs)
    return pretty({"id": turn.id, "model": turn.parsed.model, "results": [result] * (len(inputs) if several else 1)})


def model_document(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": MODEL_CREATED, "owned_by": "openai"}
