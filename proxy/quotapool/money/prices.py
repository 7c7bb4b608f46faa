"""Compiles rate cards from the price data of the package genai-prices. For the supervisor and commands only.

The package is imported here, and in `settings/unknown_names.py` for its models' names: its data takes 20 MB and a call
takes 135 microseconds, which no worker should spend. Beware: for a service tier that it does not know, it silently
returns the standard price. So a tier gets a card only if the data names it, on that day.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from quotapool.domain.wallet import PICO
from quotapool.money.price_list import STANDARD, PriceList
from quotapool.money.rate_cards import CardSet, RateCard, Rule
from quotapool.settings.money import ModelPrices, Rates

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

PACKAGE: Final = "genai-prices"
TIERS: Final[dict[str, dict[str, str]]] = {
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast"},
    "batch": {"processing": "batch"},
}
_FAMILY: Final = "openai"
_MILLION: Final = 10**6
# The data's names, how many units a price is for, and ours. If two stand for the same kind, the first counts.
_KINDS: Final[tuple[tuple[str, int, str], ...]] = (
    ("input_mtok", _MILLION, "input"),
    ("cache_read_mtok", _MILLION, "cached_input"),
    ("cache_write_mtok", _MILLION, "cache_write"),
    ("output_mtok", _MILLION, "output"),
    ("input_audio_mtok", _MILLION, "audio_input"),
    ("cache_audio_read_mtok", _MILLION, "cached_audio_input"),
    ("output_audio_mtok", _MILLION, "audio_output"),
    ("input_image_mtok", _MILLION, "image_input"),
    ("cache_image_read_mtok", _MILLION, "cached_image_input"),
    ("output_image_mtok", _MILLION, "image_output"),
    ("input_audio_hours", 3600, "second"),
    ("audio_hours", 3600, "second"),
    ("input_mchars", _MILLION, "character"),
    ("requests_kcount", 1000, "request"),
    ("web_searches_kcount", 1000, "web_search"),
)
# Of tools' own fees, an answer states web searches at most; the command `usage` says so.
_TOOL_FEES: Final = frozenset({"web_searches_kcount", "storage_searches_kcount", "code_executions_kcount"})
_KNOWN: Final = frozenset(name for name, _, _ in _KINDS) | _TOOL_FEES
_FREE: Final = RateCard(input=0, output=0, request=0)  # a model that is listed without any price: moderation


def compile_cards(day: date, written: Mapping[str, ModelPrices] | None = None) -> CardSet:
    """Cards of all OpenAI models for one UTC day; `written`: the option `prices`, which overrides the data.

    Takes 0.2 s the first time, so not on an event loop. Needs no network.
    """
    import genai_prices
    from genai_prices.data import providers

    models = next(provider.models for provider in providers if provider.id == _FAMILY)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    cards: dict[str, dict[str, RateCard]] = {}
    rules: list[Rule] = []
    for model in models:
        if tiers := _tiers(model, noon):
            cards[model.id] = tiers
            rules += (Rule(how, text, model.id) for how, text in _rules(model.match))
    data = CardSet(f"{PACKAGE} {genai_prices.__version__}", day.isoformat(), {}, tuple(rules), cards)
    return _overridden(data, written or {})


def _tiers(model: ModelInfo, at: datetime) -> dict[str, RateCard]:
    standard = _card(model.get_prices(at, {"service_tier": STANDARD}))
    if standard is None:
        return {}
    tiers = {STANDARD: standard}
    for tier, context in TIERS.items():
        named = any(
            variant.when == context and (variant.constraint is None or variant.constraint.active(at))
            for variant in model.price_variants or ()
        )
        card = _card(model.get_prices(at, context)) if named else None
        if card is not None:
            tiers[tier] = card
    return tiers


def _card(prices: ModelPrice) -> RateCard | None:
    """One card, with those of longer prompts in `long`; None if the data prices what this proxy cannot measure."""
    stated = {name: value for name, value in vars(prices).items() if value is not None}
    if not stated.keys() <= _KNOWN:
        return None
    if not stated.keys() - _TOOL_FEES:
        return _FREE
    starts = sorted({tier.start for value in stated.values() for tier in getattr(value, "tiers", ())}, reverse=True)
    card: RateCard | None = None
    beyond = 0
    for start in (*starts, -1):
        rates: dict[str, Any] = {}
        for name, units, kind in _KINDS:
            if name in stated:
                rates.setdefault(kind, _pico(_at(stated[name], start), units))
        card = RateCard(**rates, long_from=beyond, long=card)
        beyond = start
    return card


def _at(value: Any, start: int) -> Decimal:
    """The price of prompts just longer than `start` tokens; -1: of short ones."""
    tiers = [tier for tier in getattr(value, "tiers", ()) if tier.start <= start]
    found: Decimal = tiers[-1].price if tiers else getattr(value, "base", value)
    return found


def _pico(usd: Decimal | float, units: int) -> int:
    return round(Decimal(str(usd)) * PICO / units)


def _rules(clause: Any) -> Iterator[tuple[str, str]]:
    """The name rules of one model, in order. What is no list of alternatives is left out: unpriced."""
    found: list[Any] | None = getattr(clause, "or_", None)
    if found is not None:
        for part in found:
            yield from _rules(part)
        return
    for attribute, how in (
        ("equals", "equals"),
        ("starts_with", "starts"),
        ("ends_with", "ends"),
        ("contains", "contains"),
        ("regex", "regex"),
    ):
        text = getattr(clause, attribute, None)
        if isinstance(text, str):
            yield how, text if how == "regex" else text.lower()


def _overridden(data: CardSet, written: Mapping[str, ModelPrices]) -> CardSet:
    if not written:
        return data
    prices = PriceList(data)
    own: dict[str, str] = {}
    first: list[Rule] = []
    cards = dict(data.cards)
    for name in sorted(written, key=lambda name: (-len(name), name)):
        pattern = "*" in name or "?" in name
        given = written[name]
        base = {} if pattern else {tier: card for tier in (STANDARD, *TIERS) if (card := prices.card(name, tier)[0])}
        # The id begins like the names that it matches: fine-tuned names match only fine-tuned models.
        model = f"{'ft:' if name.startswith('ft:') else ''}own:{name}"
        cards[model] = {**base, STANDARD: _with(base.get(STANDARD), given)}
        for tier, rates in given.tiers.items():
            cards[model][tier] = _with(base.get(tier), rates)
        if pattern:
            first.append(Rule("regex", f"(?i){fnmatch.translate(name)}", model))
        else:
            own[name] = model
    version = f"{data.version} + prices"
    return msgspec.structs.replace(data, version=version, own=own, rules=(*first, *data.rules), cards=cards)


def _with(card: RateCard | None, rates: Rates) -> RateCard:
    """A card with the written rates, at any length of prompt."""
    card = card or RateCard()
    units = {kind: units for _, units, kind in _KINDS if units == _MILLION and kind != "character"}
    given = {
        kind: _pico(usd, units.get(kind, 1)) for kind in Rates.model_fields if (usd := getattr(rates, kind)) is not None
    }
    if card.long is not None:
        given["long"] = _with(card.long, rates)  # type: ignore[assignment]  # the one field that is no number
    return msgspec.structs.replace(card, **given)
