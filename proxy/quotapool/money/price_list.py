"""What a call costs: the price list finds the card of a (model, service tier), and the card prices the usage."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Final

from quotapool.domain.quantities import Usage
from quotapool.money.rate_cards import CardSet, RateCard, Rule

STANDARD: Final = "default"
_STANDARD_WORDS: Final = frozenset({"", "auto", STANDARD})
_SNAPSHOT: Final = re.compile(r"(?P<alias>.+)-\d{4}-\d{2}-\d{2}", re.DOTALL)
_MOST_CACHED: Final = 2000  # model names come from clients
_TUNED: Final = "ft:"


def price(card: RateCard, usage: Usage) -> int | None:
    """Picodollars of one call; None if it used something whose rate is unknown."""
    while card.long is not None and usage.prompt > card.long_from:
        card = card.long
    if usage.details is not None or card.image_output is not None or card.request is not None:
        return _sum_of_parts(card, usage)
    cached = usage.cached_prompt
    fresh = usage.prompt - cached
    total = 0
    if fresh:
        if card.input is None:
            return None
        total = fresh * card.input
    if cached:
        rate = card.input if card.cached_input is None else card.cached_input
        if rate is None:
            return None
        total += cached * rate
    if usage.completion:
        if card.output is None:
            return None
        total += usage.completion * card.output
    return total


def _sum_of_parts(card: RateCard, usage: Usage) -> int | None:
    """Every kind by its own rate. Without a listed discount cached tokens cost as much as others, and written ones as a
    prompt; images that have no rate of their own are billed as text. Audio never is.
    """
    d = usage.details
    write, audio, image, cached_audio, cached_image, audio_out, image_out, characters, seconds = (
        (0, 0, 0, 0, 0, 0, 0, 0, 0.0)
        if d is None
        else (
            *(d.cache_write, d.audio_prompt, d.image_prompt, d.cached_audio, d.cached_image),
            *(d.audio_completion, d.image_completion, d.characters, d.seconds),
        )
    )
    cached = usage.cached_prompt - cached_audio - cached_image
    text = usage.prompt - audio - image - cached - write
    text_out = usage.completion - audio_out - image_out
    if card.image_output is not None and not image_out:  # an image model whose answer does not split its output
        text_out, image_out = 0, text_out
    parts = (
        (max(0, text), card.input),
        (cached, _first(card.cached_input, card.input)),
        (write, _first(card.cache_write, card.input)),
        (audio - cached_audio, card.audio_input),
        (cached_audio, _first(card.cached_audio_input, card.audio_input)),
        (image - cached_image, _first(card.image_input, card.input)),
        (cached_image, _first(card.cached_image_input, card.cached_input, card.image_input, card.input)),
        (text_out, card.output),
        (audio_out, card.audio_output),
        (image_out, _first(card.image_output, card.output)),
        (characters, card.character),
        (seconds, card.second),
    )
    total = card.request or 0
    if d is not None and d.web_searches and card.web_search is not None:  # most cards do not know this fee
        total += d.web_searches * card.web_search
    for amount, rate in parts:
        if amount:
            if rate is None:
                return None
            total += round(amount * rate)
    return total


def _first(*rates: int | None) -> int | None:
    return next((rate for rate in rates if rate is not None), None)


class PriceList:
    """Finds cards. Names are matched by the price data's rules, in their order, and cached."""

    def __init__(self, cards: CardSet) -> None:
        self.version = cards.version
        self.day = cards.day
        self._own = cards.own
        self._cards = cards.cards
        self._rules = len(cards.rules)
        self._equal: dict[str, tuple[int, str]] = {}
        self._loose: list[tuple[int, Callable[[str], object], str]] = []
        for index, rule in enumerate(cards.rules):
            if rule.how == "equals":
                self._equal.setdefault(rule.text, (index, rule.model))
            else:
                self._loose.append((index, _fits(rule), rule.model))
        self._found: dict[str, tuple[str, bool]] = {}

    def card(self, model: str, tier: str) -> tuple[RateCard | None, bool]:
        """The card, None if this model or this tier of it has no known price; and whether it is sure.

        Not sure: a dated snapshot that the price data does not name, priced as its alias.
        """
        found = self._found.get(model)
        if found is None:
            found = self._find(model)
            if len(self._found) >= _MOST_CACHED:
                self._found.clear()
            self._found[model] = found
        name, sure = found
        tiers = self._cards.get(name)
        return (None if tiers is None else tiers.get(standard_or(tier))), sure

    def _find(self, model: str) -> tuple[str, bool]:
        snapshot = None if model.startswith(_TUNED) else _SNAPSHOT.fullmatch(model)
        own = self._own.get(model) or (self._own.get(snapshot["alias"]) if snapshot else None)
        if own:
            return own, True
        if name := self._first_rule(model.lower()):
            return name, True
        return (self._first_rule(snapshot["alias"].lower()) if snapshot else ""), False

    def _first_rule(self, model: str) -> str:
        at, name = self._equal.get(model, (self._rules, ""))
        for index, fits, loose_name in self._loose:
            if index > at:
                break
            if fits(model):
                return loose_name
        return name


def standard_or(tier: str) -> str:
    """The tier's canonical name: without one it is the standard tier."""
    return STANDARD if tier in _STANDARD_WORDS else tier


def _fits(rule: Rule) -> Callable[[str], object]:
    text, tuned = rule.text, rule.model.startswith(_TUNED)

    def fits(model: str, matches: Callable[[str], object]) -> object:
        # A fine-tuned model has a price of its own: never that of a base model with a similar name.
        return matches(model) if tuned or not model.startswith(_TUNED) else None

    match rule.how:
        case "starts":
            return partial(fits, matches=lambda model: model.startswith(text))
        case "ends":
            return partial(fits, matches=lambda model: model.endswith(text))
        case "contains":
            return partial(fits, matches=lambda model: text in model)
        case _:
            return partial(fits, matches=re.compile(text).search)
