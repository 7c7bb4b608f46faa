"""The most that a request may use, and cost: what a client's budgets hold for it until it is settled."""

from __future__ import annotations

import math
from typing import Final

from quotapool.domain.quantities import Certainty, Details, Usage
from quotapool.money.price_list import PriceList, price

# An image of the largest size and highest quality (OpenAI's image generation guide: 1024x1536, high).
_TOKENS_OF_AN_IMAGE: Final = 6240
# Sound in a form: its length is not known before it is decoded. 32 kbit/s is low for speech.
_BYTES_OF_A_SECOND: Final = 4000


def highest_usage(*, prompt: int, output: int, images: int = 0, characters: int = 0, sound_bytes: int = 0) -> Usage:
    """`prompt`, `output`: tokens; `images`: to be made; `characters`: to be spoken; `sound_bytes`: to be heard."""
    if not (images or characters or sound_bytes):
        return Usage(Certainty.EXACT, prompt, output)
    made = images * _TOKENS_OF_AN_IMAGE
    details = Details(
        image_completion=made, characters=characters, seconds=float(math.ceil(sound_bytes / _BYTES_OF_A_SECOND))
    )
    return Usage(Certainty.EXACT, prompt, output + made, details=details)


def highest_price(prices: PriceList, model: str, tier: str, usage: Usage) -> int | None:
    """Picodollars of it, nothing of it cached; None: the model, or a part of what it uses, has no known price."""
    card, _ = prices.card(model, tier)
    if card is None:
        return None
    total = price(card, usage)
    if total is not None and card.cache_write is not None and card.input is not None:
        total += usage.prompt * max(0, card.cache_write - card.input)
    return total
