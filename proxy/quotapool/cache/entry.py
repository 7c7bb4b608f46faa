"""An answer as it is kept."""

from __future__ import annotations

from enum import Enum

import msgspec


class Form(Enum):
    """How upstream wrote an answer: as one JSON text, or as server-sent events."""

    JSON = "json"
    EVENTS = "events"


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
