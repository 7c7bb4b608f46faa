"""An answer as it is kept."""

from __future__ import annotations

import msgspec

from quotapool.openai.replay import Form

__all__ = ["Cost", "Entry", "Form"]


class Cost(msgspec.Struct, frozen=True, gc=False):
    """What an answer cost when it was made, and so what it saves each time it is served: tokens, and picodollars (None:
    no price is known)."""

    prompt: int = 0
    completion: int = 0
    pico: int | None = 0


class Entry(msgspec.Struct, frozen=True, gc=False):
    """`body`: as upstream sent it, without a key's echo and without an encoding; events of chat and completions with
    their usage chunk. `content_type`: of the answer. `model`: as the request named it. `cost`: of the whole answer."""

    form: Form
    body: bytes
    content_type: str = "application/json"
    model: str = ""
    cost: Cost = Cost()
