"""What calls cost, as integers, by model and service tier.

Money is counted in picodollars (1e-12 USD): a price per million tokens with up to six decimals is then a whole number
per token, and sums of any length stay exact. Cards are compiled by `prices.py` and sent to the workers as JSON.
"""

from __future__ import annotations

import msgspec


class RateCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """Picodollars for each token, second, character, request and web search of one (model, tier). None: unknown.

    If a prompt has more than `long_from` tokens, all of the call is priced by the card `long`.
    """

    input: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    output: int | None = None
    audio_input: int | None = None
    cached_audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    cached_image_input: int | None = None
    image_output: int | None = None
    second: int | None = None
    character: int | None = None
    request: int | None = None
    web_search: int | None = None
    long_from: int = 0
    long: RateCard | None = None


class Rule(msgspec.Struct, frozen=True, array_like=True):
    """Names that match (`how`: equals, starts, ends, contains, regex) are priced by the cards of `model`."""

    how: str
    text: str
    model: str


class CardSet(msgspec.Struct, frozen=True):
    """All cards of one UTC day. `version` names the price data; the first rule that matches a name gives its model."""

    version: str = ""
    day: str = ""
    own: dict[str, str] = {}  # names that the configuration prices -> model
    rules: tuple[Rule, ...] = ()
    cards: dict[str, dict[str, RateCard]] = {}  # model -> tier -> card
