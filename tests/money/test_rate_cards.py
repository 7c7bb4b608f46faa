"""A call costs what its card says: every kind apart, the whole call dearer beyond a threshold, unknown never zero."""

from __future__ import annotations

import msgspec
import pytest
from quotapool.domain.quantities import Certainty, Details, Usage
from quotapool.domain.wallet import PICO
from quotapool.money.price_list import PriceList, price
from quotapool.money.rate_cards import CardSet, RateCard, Rule

EXACT = Certainty.EXACT
# Picodollars a token: 5e-6 USD in, 5e-7 cached, 3e-5 out; above 272,000 tokens of prompt 1e-5, 1e-6 and 4.5e-5.
LONG = RateCard(input=10_000_000, cached_input=1_000_000, output=45_000_000)
TEXT = RateCard(input=5_000_000, cached_input=500_000, output=30_000_000, long_from=272_000, long=LONG)
VOICE = RateCard(
    input=4_000_000, cached_input=400_000, output=16_000_000,
    audio_input=32_000_000, cached_audio_input=400_000, audio_output=64_000_000, image_input=5_000_000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("card", "usage", "usd"),
    [
        (TEXT, Usage(EXACT, 1000, 200), "0.011"),
        (TEXT, Usage(EXACT, 2000, 100, 1536), "0.006088"),  # 464 fresh, 1,536 cached
        (TEXT, Usage(EXACT, 400, 150, 0, 120), "0.0065"),  # reasoning is output
        (TEXT, Usage(EXACT, 272_000, 0), "1.36"),
        (TEXT, Usage(EXACT, 272_001, 1), "2.720055"),  # not the excess: all of it
        (TEXT, Usage(EXACT), "0"),
        # 100 prompt = 40 text (10 of them cached) + 50 audio (20 cached) + 10 image; 30 output = 10 text + 20 audio:
        # 30 x 4e-6 + 10 x 4e-7 + 30 x 3.2e-5 + 20 x 4e-7 + 10 x 5e-6 + 10 x 1.6e-5 + 20 x 6.4e-5
        (
            VOICE,
            Usage(EXACT, 100, 30, 30, 0, Details(0, 50, 20, 10, 0, cached_audio=20)),
            "0.002582",
        ),
        (RateCard(second=100_000_000), Usage(EXACT, details=Details(seconds=12.5)), "0.00125"),  # $0.006 a minute
        (RateCard(character=15_000_000), Usage(EXACT, details=Details(characters=1000)), "0.015"),
        (RateCard(input=1, output=1, request=10**9), Usage(EXACT), "0.001"),
        # Without a price for the cache, cached tokens are tokens, and so is writing it.
        (RateCard(input=2_000_000), Usage(EXACT, 10, 0, 5), "0.00002"),
        (RateCard(input=2_000_000), Usage(EXACT, 10, 0, 5, 0, Details(cache_write=5)), "0.00002"),
        (RateCard(input=2_000_000, cache_write=2_500_000), Usage(EXACT, 10, details=Details(4)), "0.000022"),
        # An image model whose answer does not split its output.
        (RateCard(input=5_000_000, output=10_000_000, image_output=32_000_000), Usage(EXACT, 0, 100), "0.0032"),
    ],
)  # fmt: skip
def test_a_call_costs_the_sum_of_its_kinds(card, usage, usd):
    units, _, millionths = usd.partition(".")
    assert price(card, usage) == int(units) * PICO + int(millionths.ljust(12, "0"))


@pytest.mark.parametrize(
    "usage",
    [
        Usage(EXACT, 1),
        Usage(EXACT, 0, 1),
        Usage(EXACT, 1, 0, 1),
        Usage(EXACT, 5, 0, details=Details(audio_prompt=5)),
        Usage(EXACT, 0, 5, details=Details(audio_completion=5)),
        Usage(EXACT, details=Details(seconds=1.0)),
        Usage(EXACT, details=Details(characters=1)),
    ],
)
def test_what_has_no_known_rate_has_no_price(usage):
    assert price(RateCard(), usage) is None


def test_audio_is_never_billed_as_text():
    assert price(TEXT, Usage(EXACT, 100, 10, details=Details(audio_prompt=50))) is None


RULES = (
    Rule("equals", "gpt-4o", "gpt-4o"),
    Rule("equals", "gpt-4o-2024-08-06", "gpt-4o"),
    Rule("starts", "ft:gpt-4o-2024-", "ft:gpt-4o"),
    Rule("starts", "gpt-4o-audio", "gpt-4o-audio"),
    Rule("regex", r"^gpt-6-\d{4}$", "gpt-6"),
    Rule("contains", "moderation", "moderation"),
)
BOOK = PriceList(
    CardSet(
        "data 1",
        "2026-11-22",
        {"ours": "own:ours", "gpt-4o": "own:gpt-4o"},
        RULES,
        {
            name: {"default": RateCard(input=cost), "priority": RateCard(input=cost * 2)}
            for cost, name in enumerate(
                ("gpt-4o", "ft:gpt-4o", "gpt-4o-audio", "gpt-6", "moderation", "own:ours", "own:gpt-4o"), start=1
            )
        },
    )
)


@pytest.mark.parametrize(
    ("model", "tier", "input_rate", "sure"),
    [
        ("gpt-4o", "default", 7, True),  # what the configuration says stands first ...
        ("gpt-4o-2024-08-06", "", 7, True),  # ... for its snapshots, too
        ("gpt-4o-2024-08-06", "priority", 14, True),
        ("GPT-4o-audio-preview-2025-06-03", "auto", 3, True),
        ("gpt-6-1234", "default", 4, True),
        ("gpt-6-1234-2026-01-01", "default", 4, False),  # a snapshot nobody named is taken for its alias
        ("omni-moderation-latest", "default", 5, True),
        ("ft:gpt-4o-2024-08-06:acme::x", "default", 2, True),
    ],
)
def test_names_find_their_card(model, tier, input_rate, sure):
    card, is_sure = BOOK.card(model, tier)
    assert card is not None
    assert (card.input, is_sure) == (input_rate, sure)


@pytest.mark.parametrize(
    ("model", "tier"),
    [
        ("gpt-9", "default"),
        ("gpt-4o", "scale"),  # a tier that is not in the data is not standard
        ("gpt-4o", "flex"),
        ("ft:gpt-4.1:acme::x", "default"),
        ("ft:gpt-4.1:moderation::x", "default"),  # a fine-tuned model is never a base model with a similar name
        ("", "default"),
    ],
)
def test_what_is_not_in_the_data_has_no_card(model, tier):
    assert BOOK.card(model, tier)[0] is None


def test_cards_are_unchanged_after_the_way_to_a_worker():
    cards = CardSet("data 1", "2026-11-22", {"a": "b"}, RULES, {"m": {"default": TEXT}})
    assert msgspec.json.decode(msgspec.json.encode(cards), type=CardSet) == cards


def test_a_flood_of_invented_names_does_not_fill_the_memory():
    for n in range(5000):
        BOOK.card(f"model-{n}", "")
    assert len(BOOK._found) <= 2000
