"""Configured limits: the account's own override its tier's, the model's and the default; groups share one."""

from __future__ import annotations

import pytest
from quotapool.domain.quantities import Limits

LIMITS = """
tiers:
  trial: {rpm: 3, rpd: 200}
accounts:
  acme: {tier: trial, rpm: 60}
  other: {tier: trial}
  plain: {}
limits:
  default: {rpm: 500, tpm: 200000, tpd: 9}
  models:
    "gpt-4o*": {tpm: 40}
    "gpt-4o-mini*": {tpm: 41, ipm: 5}
    "gpt-4o-mini-tts": {tpm: 42}
    "gpt-?-[x]": {tpm: 43}
"""


@pytest.mark.parametrize(
    ("account", "group", "expected"),
    [
        # The account's own rpm, its tier's rpd, the rest from the default.
        ("acme", "o3", Limits(rpm=60, tpm=200_000, rpd=200, tpd=9)),
        ("other", "o3", Limits(rpm=3, tpm=200_000, rpd=200, tpd=9)),
        ("plain", "o3", Limits(rpm=500, tpm=200_000, tpd=9)),
        ("a-key-without-account", "o3", Limits(rpm=500, tpm=200_000, tpd=9)),
        # The longest pattern that matches speaks for the model, alone.
        ("plain", "gpt-4o", Limits(rpm=500, tpm=40, tpd=9)),
        ("plain", "gpt-4o-mini-x", Limits(rpm=500, tpm=41, tpd=9, ipm=5)),
        ("plain", "gpt-4o-mini-tts", Limits(rpm=500, tpm=42, tpd=9)),
        ("acme", "gpt-4o", Limits(rpm=60, tpm=40, rpd=200, tpd=9)),
        ("plain", "gpt-5-x", Limits(rpm=500, tpm=43, tpd=9)),
    ],
)
def test_the_first_limit_configured_counts_in_each_dimension(load_yaml, account, group, expected):
    settings = load_yaml(LIMITS)
    assert settings.limits_for(account, group) == expected
    assert settings.limits_for(account, group) is settings.limits_for(account, group)


def test_an_exact_name_wins_over_a_longer_pattern(load_yaml):
    settings = load_yaml('limits: {models: {"gpt-4o": {rpm: 1}, "gpt-4[o]****": {rpm: 2}}}')
    assert settings.limits_for("a", "gpt-4o").rpm == 1


def test_nothing_configured_means_nothing_known(load_yaml):
    assert load_yaml().limits_for("a", "gpt-4o") == Limits()


@pytest.mark.parametrize(
    ("model", "group"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("chatgpt-4o-latest", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("o3-2025-04-16", "reasoning"),
        ("gpt-4-0613", "gpt-4-0613"),
        ("gpt-4-1106-preview", "gpt-4-1106-preview"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", "ft:gpt-4o-mini-2024-07-18:acme::abc"),
        ("ft:gpt-4o:acme:run-2024-07-18", "ft:gpt-4o:acme:run-2024-07-18"),
        ("gpt-4.1-2025-04-14", "pinned"),
        ("-2024-08-06", "-2024-08-06"),
        ("", ""),
    ],
)
def test_a_model_belongs_to_its_configured_group_else_its_alias_else_itself(load_yaml, model, group):
    text = "groups: {gpt-4o: [gpt-4o, chatgpt-4o-latest], reasoning: [o3], pinned: [gpt-4.1-2025-04-14]}"
    settings = load_yaml(text)
    assert settings.group_of(model) == group
    assert settings.group_of(model) == group


def test_model_names_made_up_by_clients_do_not_grow_the_memory(load_yaml):
    settings = load_yaml()
    for number in range(10_000):
        settings.group_of(f"made-up-{number}")
        settings.limits_for("a", f"made-up-{number}")
    remembered = [settings._groups._remembered.cache_info, settings._limits._remembered.cache_info]
    full = [info() for info in remembered]
    assert all(info.currsize <= 4096 for info in full)
    assert settings.group_of("x" * 1_000_000) == "x" * 1_000_000
    settings.limits_for("a", "x" * 1_000_000)
    assert [info() for info in remembered] == full  # a long name is not kept at all
