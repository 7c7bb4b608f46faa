"""Log probabilities of the simulated model's tokens: always the same for the same token.

Shapes: Python SDK 3.54, `types/chat/chat_completion_token_logprob.py`, `types/completion_choice.py`,
`types/responses/response_output_text.py` and `response_text_delta_event.py`.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from typing import Any, Final

from quotapool.simulator.parsed_request import COMPLETIONS, RESPONSES, ParsedRequest

OF_RESPONSES: Final = "message.output_text.logprobs"  # in `include`


def alternatives(parsed: ParsedRequest) -> int | None:
    """How many tokens are asked for at each place beside the one that was chosen; None: no log probabilities."""
    body = parsed.body
    if parsed.shape is COMPLETIONS:
        wanted = body.get("logprobs")
        return wanted if isinstance(wanted, int) and not isinstance(wanted, bool) else None
    if parsed.shape is RESPONSES:
        include = body.get("include")
        is_wanted = isinstance(include, list) and OF_RESPONSES in include
    else:
        is_wanted = body.get("logprobs") is True
    top = body.get("top_logprobs")
    return (top if isinstance(top, int) else 0) if is_wanted else None


def of_token(token: str, top: int, *, with_bytes: bool = True) -> dict[str, Any]:
    """One token with its `top` likeliest alternatives, of which it is the first."""

    def entry(text: str, logprob: float) -> dict[str, Any]:
        found = {"token": text, "logprob": logprob}
        return {**found, "bytes": list(text.encode())} if with_bytes else found

    chosen = _logprob(token)
    return {
        **entry(token, chosen),
        "top_logprobs": [entry(text, logprob) for text, logprob in _likeliest(token, chosen, top)],
    }


def of_text(pieces: Sequence[str], top: int, offset: int = 0) -> dict[str, Any]:
    """As legacy completions have them. `offset`: of the first piece, in characters."""
    chosen = [_logprob(piece) for piece in pieces]
    return {
        "tokens": list(pieces),
        "token_logprobs": chosen,
        "top_logprobs": [dict(_likeliest(piece, logprob, top)) for piece, logprob in zip(pieces, chosen, strict=True)]
        if top
        else None,
        "text_offset": list(itertools.accumulate(map(len, pieces[:-1]), initial=offset)) if pieces else [],
    }


def _logprob(token: str) -> float:
    """From -0.999 to 0."""
    return -(zlib.crc32(token.encode()) % 1000) / 1000


def _likeliest(token: str, logprob: float, top: int) -> list[tuple[str, float]]:
    return [(token if place == 0 else f"{token}{place}", logprob - place) for place in range(top)]
