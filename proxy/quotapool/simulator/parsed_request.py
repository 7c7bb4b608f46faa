"""Parses a request, and estimates the tokens that OpenAI's limiter counts for it before the answer is known.

"Your rate limit is calculated as the maximum of max_tokens and the estimated number of tokens based on the character
count of your request" (OpenAI's rate-limit guide); with `n` answers the maximum counts n times.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from quotapool.simulator import errors
from quotapool.simulator.errors import ErrorReply

CHARACTERS_PER_TOKEN: Final = 4
MOST_CHOICES: Final = 128
SNAPSHOT: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")

# Keys of a message whose value is not prompt text: names and ids, and base64 or URLs of images, audio and files.
NOT_TEXT: Final = frozenset(
    ("role", "type", "id", "call_id", "tool_call_id", "name", "status", "detail", "format", "url", "image_url",
     "data", "file_data", "file_id", "encrypted_content")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """Where an endpoint has its prompt and its maximum of output tokens; `default_model` None: it must be named."""

    name: str
    text: tuple[str, ...]
    output_limits: tuple[str, ...] = ()
    generates: bool = False
    default_model: str | None = None


CHAT: Final = Shape("chat", ("messages",), ("max_completion_tokens", "max_tokens"), generates=True)
COMPLETIONS: Final = Shape("completions", ("prompt",), ("max_tokens",), generates=True)
RESPONSES: Final = Shape("responses", ("input", "instructions"), ("max_output_tokens",), generates=True)
EMBEDDINGS: Final = Shape("embeddings", ("input",))
MODERATIONS: Final = Shape("moderations", ("input",), default_model="omni-moderation-latest")

SHAPES: Final[dict[str, Shape]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/responses": RESPONSES,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/moderations": MODERATIONS,
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt's size, and a checksum from which the answer is derived. A token is four characters, rounded up."""

    characters: int
    digest: int

    @property
    def tokens(self) -> int:
        return max(1, math.ceil(self.characters / CHARACTERS_PER_TOKEN))


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """One parsed request. `estimate` is in tokens; `max_output` is None if the request names none."""

    shape: Shape
    body: dict[str, Any]
    model: str
    prompt: Prompt
    n: int
    max_output: int | None
    estimate: int

    @property
    def streams(self) -> bool:
        return self.shape.generates and self.body.get("stream") is True

    @property
    def include_usage(self) -> bool:
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    @property
    def service_tier(self) -> str:
        """The tier served: `fast` answers `priority`, `auto` (the default) answers `default`."""
        wanted = self.body.get("service_tier") or "auto"
        return {"auto": "default", "fast": "priority"}.get(wanted, str(wanted))

    @property
    def wants_reasoning(self) -> bool:
        reasoning = self.body.get("reasoning")
        effort = reasoning.get("effort") if isinstance(reasoning, dict) else self.body.get("reasoning_effort")
        return effort not in {None, "none", "minimal"}


def model_group(model: str) -> str:
    """The name under which a model is limited: a dated snapshot shares its alias's limit."""
    return SNAPSHOT.sub("", model)


def read_prompt(value: Any, so_far: Prompt = Prompt(0, 0)) -> Prompt:
    """Characters and checksum of all text in a prompt; an integer is a token of a token array."""
    if isinstance(value, str):
        return Prompt(so_far.characters + len(value), zlib.crc32(value.encode(), so_far.digest))
    if isinstance(value, int) and not isinstance(value, bool):
        return Prompt(so_far.characters + CHARACTERS_PER_TOKEN, zlib.crc32(str(value).encode(), so_far.digest))
    if isinstance(value, list):
        for item in value:
            so_far = read_prompt(item, so_far)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in NOT_TEXT:
                so_far = read_prompt(item, so_far)
    return so_far


def parse_request(
    shape: Shape, raw: bytes, default_output: int, prompts: Mapping[str, str]
) -> ParsedRequest | ErrorReply:
    """The request in a JSON body, or the 400 or 404 for it. `prompts`: the stored ones, and their models."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return errors.UNPARSABLE
    if not isinstance(body, dict):
        return errors.UNPARSABLE
    template = body.get("prompt") if shape is RESPONSES else None
    stored = str(template.get("id") or "") if isinstance(template, dict) else ""
    if stored and stored not in prompts:
        return errors.unknown_prompt(stored)
    model = body.get("model") or prompts.get(stored) or shape.default_model
    if not isinstance(model, str):
        return errors.MISSING_MODEL
    if shape.text[0] not in body and not stored:
        return errors.missing_parameter(shape.text[0])
    for name in ("n", *shape.output_limits):
        value = body.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            return errors.not_an_integer(name)
    if (body.get("n") or 1) > MOST_CHOICES:
        return errors.not_an_integer("n")

    prompt = Prompt(0, 0)
    for name in shape.text:
        prompt = read_prompt(body.get(name), prompt)
    n = (body.get("n") or 1) if shape.generates else 1
    max_output = next((body[name] for name in shape.output_limits if body.get(name) is not None), None)
    output = n * (max_output or default_output) if shape.generates else 0
    return ParsedRequest(shape, body, model, prompt, n, max_output, max(output, prompt.tokens))
