"""Cards compiled from the price data: what OpenAI's price list says, by model, tier and date; nothing invented."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data import providers
from quotapool.domain.quantities import Certainty, Details, Usage
from quotapool.domain.wallet import PICO
from quotapool.money.price_list import PriceList, price
from quotapool.money.prices import TIERS, compile_cards
from quotapool.settings.money import ModelPrices

DAY = date(2026, 11, 22)
EXACT = Certainty.EXACT


@pytest.fixture(scope="module")
def cards():
    return compile_cards(DAY)


@pytest.fixture(scope="module")
def prices(cards):
    return PriceList(cards)


@pytest.mark.parametrize(
    ("model", "tier", "usage", "usd"),
    [
        # The price facts of gpt-5.5, USD a token: 5e-6 in, 5e-7 cached, 3e-5 out; flex and batch half;
        # priority 1.25e-5 and 7.5e-5; above 272,000 1e-5 and 4.5e-5.
        ("gpt-5.5", "default", Usage(EXACT, 1_000_000 // 4, 1000, 50_000), "1.055"),
        ("gpt-5.5", "flex", Usage(EXACT, 1000, 100), "0.004"),
        ("gpt-5.5", "batch", Usage(EXACT, 1000, 100), "0.004"),
        ("gpt-5.5", "priority", Usage(EXACT, 1000, 100), "0.02"),
        ("gpt-5.5", "fast", Usage(EXACT, 1000, 100), "0.02"),
        ("gpt-5.5", "default", Usage(EXACT, 300_000, 100), "3.0045"),
        ("gpt-5.5-2026-04-23", "", Usage(EXACT, 1000, 200), "0.011"),
        ("text-embedding-3-small", "", Usage(EXACT, 8000), "0.00016"),
        ("whisper-1", "", Usage(EXACT, details=Details(seconds=60.0)), "0.006"),
        ("tts-1", "", Usage(EXACT, details=Details(characters=1_000_000)), "15"),
        ("omni-moderation-latest", "", Usage(EXACT, 100), "0"),
    ],
)
def test_the_price_list_by_hand(prices, model, tier, usage, usd):
    card, sure = prices.card(model, tier)
    assert card is not None
    assert sure
    assert Decimal(price(card, usage)) / PICO == Decimal(usd)


def test_a_model_is_known_under_the_date_of_the_day_only():
    # OpenAI lowered o3 from $10 / $40 to $2 / $8 a million on 10 June 2025.
    before, after = (PriceList(compile_cards(day)).card("o3", "")[0] for day in (date(2025, 6, 9), date(2025, 6, 10)))
    assert (before.input, before.output) == (10_000_000, 40_000_000)
    assert (after.input, after.output) == (2_000_000, 8_000_000)


def test_a_tier_is_priced_from_the_day_on_which_the_data_names_it():
    # The data says so for gpt-5.5: flex, priority and fast from 12 October 2026, batch from the 14th.
    tiers = {day: set(compile_cards(date(2026, 10, day)).cards["gpt-5.5"]) for day in (11, 12, 14)}
    assert tiers == {11: {"default"}, 12: {"default", "flex", "priority", "fast"}, 14: {"default", *TIERS}}


def test_a_tier_or_model_that_the_data_does_not_know_is_not_priced(prices):
    assert prices.card("gpt-5.5", "scale")[0] is None
    assert prices.card("gpt-4o", "flex")[0] is None  # OpenAI offers it no flex processing
    assert prices.card("text-embedding-3-small", "priority")[0] is None
    assert prices.card("ft:gpt-4.1-2025-04-14:acme::x", "")[0] is None
    assert prices.card("gpt-99", "")[0] is None
    # And a fine-tuned model's own price is not its base's: gpt-4o costs $2.50, tuned it is $3.75.
    assert prices.card("ft:gpt-4o-2024-08-06:acme::x", "")[0].input == 3_750_000
    assert prices.card("gpt-4o", "")[0].input == 2_500_000


def test_every_model_and_tier_costs_what_the_package_itself_calculates(cards, prices):
    provider = next(p for p in providers if p.id == "openai")
    at = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC)
    compared = 0
    for model in provider.models:
        for tier in cards.cards[model.id]:
            context = {"service_tier": tier} if tier == "default" else TIERS[tier]
            for prompt, cached, completion in ((1000, 0, 10), (2000, 1024, 333), (272_000, 5, 0), (272_001, 128, 7)):
                usage = Usage(EXACT, prompt, completion, cached)
                theirs = TheirUsage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion)
                expected = model.calc_price(theirs, provider, genai_request_timestamp=at, price_context=context)
                ours = price(cards.cards[model.id][tier], usage)
                if ours is None:  # no rate for text at all: billed by duration or characters, or without output
                    assert not {"input_mtok", "output_mtok"} <= vars(model.get_prices(at)).keys()
                    continue
                if cards.cards[model.id][tier].image_output is not None:
                    continue  # whose output, if not split, is taken for images
                assert Decimal(ours) / PICO == expected.total_price, (model.id, tier)
                compared += 1
    assert compared > 700
    assert len(cards.cards) == len(provider.models)  # none was left out


def test_every_name_the_package_knows_finds_the_same_model(cards):
    prices = PriceList(cards)
    provider = next(p for p in providers if p.id == "openai")
    names = [rule.text for rule in cards.rules if rule.how in {"equals", "starts"}]
    assert len(names) > 200
    for name in names:
        theirs = provider.find_model(name)
        if name.startswith("ft:") and not theirs.id.startswith("ft:"):
            assert prices.card(name, "")[0] is None  # a fine-tuned gpt-4 is not what gpt-4 costs
        else:
            assert prices._find(name) == (theirs.id, True), name


def test_configured_prices_override_the_data_only_for_the_rates_they_give():
    # Given a negotiated price for gpt-5.5, one for a fine-tuned family, and one for a model of our own
    written = {
        "gpt-5.5": ModelPrices.model_validate(
            {"input": 4, "tiers": {"priority": {"output": 60}, "flex": {"input": 0}}}
        ),
        "ft:gpt-4.1-*": ModelPrices(input=3, output=12),
        "our-model": ModelPrices(request=0.25, second=0.001),
    }
    cards = compile_cards(DAY, written)
    prices = PriceList(cards)
    usage = Usage(EXACT, 1_000_000, 1_000_000)

    def usd(model, tier=""):
        card, _ = prices.card(model, tier)
        found = None if card is None else price(card, usage)
        return None if found is None else found / PICO

    # I expect the written rate at any length of prompt, and the data's for the rest: output above 272,000 is 45.
    assert usd("gpt-5.5") == usd("gpt-5.5-2026-04-23") == 4 + 45
    assert usd("gpt-5.5", "priority") == 12.5 + 60
    assert usd("gpt-5.5", "flex") == 22.5
    assert usd("gpt-5.5", "batch") == 5 + 22.5
    assert usd("gpt-5.4") is not None
    assert usd("ft:gpt-4.1-2025-04-14:acme::x") == 3 + 12
    assert usd("ft:gpt-4.1-2025-04-14:acme::x", "priority") is None
    assert usd("our-model") is None  # no rate for tokens
    assert price(prices.card("our-model", "")[0], Usage(EXACT, details=Details(seconds=10.0))) == 0.26 * PICO
    assert cards.version == f"genai-prices {version('genai-prices')} + prices"


def test_the_cards_name_the_version_of_the_data_and_the_day(cards):
    assert (cards.version, cards.day) == (f"genai-prices {version('genai-prices')}", "2026-11-22")
