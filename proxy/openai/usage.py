"""What a complete JSON answer says it used, in tokens.

Shapes (openai-openapi 2.3.0): chat and completions `prompt_tokens`, `completion_tokens`,
`prompt_tokens_details.cached_tokens`, `completion_tokens_details.reasoning_tokens`; embeddings `prompt_tokens`;
responses, images and transcriptions `input_tokens`, `output_tokens`, `input_tokens_details.cached_tokens`,
`output_tokens_details.reasoning_tokens`; realtime spells the details `input_token_details`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from proxy.domain.quantities import Certainty, Usage
from proxy.openai.jsontext import BROKEN, locate

UNTOLD: Final = Usage(Certainty.AT_LEAST)
"""Nobody told us: some tokens may have been used."""

_SCAN_FROM: Final = 8192  # bytes; below it decoding all is as quick as looking from the end


class _Answer(msgspec.Struct, gc=False):
    usage: Any = None


_answer: Final = msgspec.json.Decoder(_Answer)


def read_usage(body: bytes) -> Usage:
    """The usage of a JSON answer: EXACT where upstream said it, else UNTOLD. Never raises.

    In a large answer (embeddings, long texts) `usage` stands near the end: there only the tail is decoded, after
    it was proved to begin at a member of the outermost object.
    """
    try:
        if len(body) >= _SCAN_FROM and (at := locate(body, b'"usage"')) >= 0:
            told = _answer.decode(b"{" + body[at:]).usage
        else:
            told = _answer.decode(body).usage
    except BROKEN:
        return UNTOLD
    return usage_of(told) or UNTOLD


def usage_of(told: object) -> Usage | None:
    """A decoded usage object as EXACT usage; None where it counts no tokens (null, or seconds of audio)."""
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
        return None
    prompt = _count(prompt)
    completion = _count(completion)
    # Parts cannot exceed their whole, whatever a look-alike upstream reports.
    cached = _count(prompt_details.get("cached_tokens")) if type(prompt_details) is dict else 0
    reasoning = _count(completion_details.get("reasoning_tokens")) if type(completion_details) is dict else 0
    return Usage(
        Certainty.EXACT,
        prompt,
        completion,
        min(prompt, cached),
        min(completion, reasoning),
    )


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0
