"""Limits of OpenAI's usage tiers, by hand from the tables of its pages."""

from __future__ import annotations

import pytest
from quotapool.domain.quantities import Limits
from quotapool.openai.tiers import NAMED, NUMBERED, limits_of, source_of, tier_named


@pytest.mark.parametrize(
    ("text", "tier"),
    [
        ("tier3", "tier3"),
        ("3", "tier3"),
        ("Tier 3", "tier3"),
        ("TIER_5", "tier5"),
        (" tier-1 ", "tier1"),
        ("Grow", "grow"),
        ("free", None),
        ("tier0", None),
        ("tier6", None),
        ("33", None),
        ("tier", None),
        ("", None),
        ("default", None),
    ],
)
def test_a_tier_is_written_in_any_case_with_or_without_its_word(text, tier):
    assert tier_named(text) == tier


@pytest.mark.parametrize(
    ("tier", "group", "limits"),
    [
        ("build", "gpt-6-astra", Limits(5_000, 1_000_000)),
        ("build", "gpt-6-luna", Limits(5_000, 2_000_000)),
        ("grow", "gpt-5.6-luna", Limits(30_000, 180_000_000)),
        ("grow", "gpt-6.1-terra", Limits(15_000, 40_000_000)),
        ("grow", "gpt-4o", None),
        ("grow", "my-gpt-6-luna", None),
    ],
)
def test_named_tiers_are_those_of_the_rate_limit_guide(tier, group, limits):
    assert limits_of(tier, group) == limits


@pytest.mark.parametrize(
    ("group", "rows"),
    [
        # developers.openai.com/api/docs/models/gpt-4o, as of 2026-09-24
        ("gpt-4o", [(500, 30_000), (5_000, 450_000), (5_000, 800_000), (10_000, 2_000_000), (10_000, 30_000_000)]),
        # .../gpt-6-astra, 2026-09-24
        (
            "gpt-6-astra",
            [(500, 500_000), (5_000, 1_000_000), (5_000, 2_000_000), (10_000, 4_000_000), (15_000, 40_000_000)],
        ),
        # .../gpt-5.6-luna, 2026-08-23
        (
            "gpt-5.6-luna",
            [(500, 500_000), (5_000, 2_000_000), (5_000, 4_000_000), (10_000, 10_000_000), (30_000, 180_000_000)],
        ),
        # .../chatgpt-4o-latest, July 2026; also OpenAI's llms-models-pricing.txt
        (
            "chatgpt-4o-latest",
            [(500, 30_000), (5_000, 450_000), (5_000, 800_000), (10_000, 2_000_000), (10_000, 30_000_000)],
        ),
        # .../gpt-4-turbo, o4-mini and text-embedding-3-small, July 2026
        ("gpt-4-turbo", [(500, 30_000), (5_000, 450_000), (5_000, 600_000), (10_000, 800_000), (10_000, 2_000_000)]),
        (
            "o4-mini",
            [(1_000, 100_000), (2_000, 2_000_000), (5_000, 4_000_000), (10_000, 10_000_000), (30_000, 150_000_000)],
        ),
        (
            "text-embedding-3-small",
            [(3_000, 1_000_000), (5_000, 1_000_000), (5_000, 5_000_000), (10_000, 5_000_000), (10_000, 10_000_000)],
        ),
    ],
)
def test_numbered_tiers_are_those_of_the_models_pages(group, rows):
    assert [limits_of(tier, group) for tier in NUMBERED] == [Limits(rpm, tpm) for rpm, tpm in rows]


def test_limits_by_the_day_and_of_images_are_there_where_a_page_has_them():
    assert limits_of("tier1", "gpt-4o-mini") == Limits(500, 200_000, rpd=10_000)
    assert limits_of("tier2", "gpt-4o-mini") == Limits(5_000, 2_000_000)
    assert limits_of("tier5", "gpt-3.5-turbo") == Limits(10_000, 50_000_000)
    assert limits_of("tier4", "gpt-image-2") == Limits(tpm=3_000_000, ipm=150)
    assert limits_of("tier2", "whisper-1") == Limits(rpm=2_500)
    assert limits_of("tier2", "computer-use-preview") is None
    assert limits_of("tier3", "computer-use-preview") == Limits(3_000, 20_000_000)
    assert limits_of("tier3", "my-model") is None


def test_a_tiers_source_has_its_date():
    assert {source_of(tier).count("2026") for tier in (*NUMBERED, *NAMED)} == {1}
