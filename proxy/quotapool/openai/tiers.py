"""The limits of OpenAI's usage tiers, as far as its rate limit guide names them. Pure.

Only for questions about accounts that are not there yet: those of accounts that are, are learned from answers.
Source: platform.openai.com/docs/guides/rate-limits, the newest text found on 2026-11-22, a mirror of the page. It names
limits of the models Astra, Sol and Terra, which have the same, and of Luna. The tiers `tier1` to `tier5` of the guide's
text of summer 2026 are known by name only.
"""

from __future__ import annotations

import re
from typing import Final

from quotapool.domain.quantities import Limits

AS_OF: Final = "2026-11-22"
NAMES: Final = ("build", "launch", "grow")
NAMES_ONLY: Final = ("free", "tier1", "tier2", "tier3", "tier4", "tier5")

_LARGE: Final = re.compile(r"gpt-\d+(?:\.\d+)?-(?:astra|sol|terra)")
_LUNA: Final = re.compile(r"gpt-\d+(?:\.\d+)?-luna")
_OF_LARGE: Final = {
    "build": Limits(5_000, 1_000_000),
    "launch": Limits(10_000, 4_000_000),
    "grow": Limits(15_000, 40_000_000),
}
_OF_LUNA: Final = {
    "build": Limits(5_000, 2_000_000),
    "launch": Limits(10_000, 10_000_000),
    "grow": Limits(30_000, 180_000_000),
}


def limits_of(tier: str, group: str) -> Limits | None:
    """Requests and tokens per minute of a model group in a tier; None: the guide names none."""
    name = tier.lower()
    if _LUNA.fullmatch(group):
        return _OF_LUNA.get(name)
    return _OF_LARGE.get(name) if _LARGE.fullmatch(group) else None
