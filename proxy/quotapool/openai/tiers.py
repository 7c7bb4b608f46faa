"""The limits of OpenAI's usage tiers, as far as its pages name them. Pure.

Only for questions about accounts that are not there yet: those of accounts that are, are learned from answers.

Sources, all of them copies of OpenAI's own text in public archives:

- `tier1` to `tier5`: the table "Rate limits" of each model's page, developers.openai.com/api/docs/models/NAME, as it
  was in July 2026, between GPT-5.6's release and its lower prices; of GPT-6 in September. Copies of 2026-08-23
  (gpt-5.6-luna), 2026-09-22 (gpt-6-sol) and 2026-09-24 (gpt-6-astra, gpt-4o, gpt-4o-mini, gpt-4o-transcribe-diarize)
  have the same figures.
- `build`, `launch`, `grow`, which took the place of the numbers between 2026-09-24 and 2026-10-08: the guide
  platform.openai.com/docs/guides/rate-limits, the newest text found on 2026-11-22. It names limits of the models Astra,
  Sol and Terra, which have the same, and of Luna.

Prompts that are long have limits of their own at some models; they are not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from quotapool.domain.quantities import Limits

NUMBERED: Final = ("tier1", "tier2", "tier3", "tier4", "tier5")
NAMED: Final = ("build", "launch", "grow")
_WRITTEN: Final = re.compile(r"(?:tier)?[ _-]?([1-5])")


def tier_named(text: str) -> str | None:
    """`3`, `Tier 3`, `tier_3` and `TIER3` are `tier3`; `Grow` is `grow`. None: OpenAI has no such tier."""
    name = text.strip().lower()
    if numbered := _WRITTEN.fullmatch(name):
        return f"tier{numbered[1]}"
    return name if name in NAMED else None


def limits_of(tier: str, group: str) -> Limits | None:
    """Per minute and day, of a model group in a tier as `tier_named` has it; None: no page names them."""
    if tier in NAMED:
        family = _LUNA if _IS_LUNA.fullmatch(group) else _LARGE if _IS_LARGE.fullmatch(group) else None
        return None if family is None else family[NAMED.index(tier)]
    rows = _MODELS.get(group)
    return None if rows is None else rows[NUMBERED.index(tier)]


def source_of(tier: str) -> str:
    """Where a tier's limits are from, and of when, as the end of a sentence."""
    if tier in NAMED:
        return "that OpenAI's guide named on 2026-11-22"
    return "of OpenAI's model pages from July to September 2026 (since then its tiers are build, launch and grow)"


# ---- the guide

_IS_LARGE: Final = re.compile(r"gpt-\d+(?:\.\d+)?-(?:astra|sol|terra)")
_IS_LUNA: Final = re.compile(r"gpt-\d+(?:\.\d+)?-luna")
_LARGE: Final = Limits(5_000, 1_000_000), Limits(10_000, 4_000_000), Limits(15_000, 40_000_000)
_LUNA: Final = Limits(5_000, 2_000_000), Limits(10_000, 10_000_000), Limits(30_000, 180_000_000)

# ---- the models' pages: requests and tokens per minute in tiers 1 to 5

_Rows = tuple[Limits | None, ...]


def _rows(*of_tiers: tuple[int, int]) -> _Rows:
    return tuple(Limits(rpm, tpm) for rpm, tpm in of_tiers)


def _but(rows: _Rows, tier: int, limits: Limits) -> _Rows:
    """Like another model's, except in one tier."""
    return *rows[: tier - 1], limits, *rows[tier:]


_GPT_5: Final = _rows((500, 500_000), (5_000, 1_000_000), (5_000, 2_000_000), (10_000, 4_000_000), (15_000, 40_000_000))
_GPT_5_MINI: Final = _rows(
    (500, 500_000), (5_000, 2_000_000), (5_000, 4_000_000), (10_000, 10_000_000), (30_000, 180_000_000)
)
_GPT_5_CHAT: Final = _rows((500, 30_000), (5_000, 450_000), (5_000, 800_000), (10_000, 2_000_000), (15_000, 40_000_000))
_GPT_5_5_PRO: Final = _rows((50, 50_000), (500, 200_000), (500, 500_000), (1_000, 1_000_000), (2_000, 4_000_000))
_GPT_4O: Final = _rows((500, 30_000), (5_000, 450_000), (5_000, 800_000), (10_000, 2_000_000), (10_000, 30_000_000))
_O1_MINI: Final = _rows(
    (500, 200_000), (5_000, 2_000_000), (5_000, 4_000_000), (10_000, 10_000_000), (30_000, 150_000_000)
)
_GPT_4O_MINI: Final = _but(_O1_MINI, 1, Limits(500, 200_000, rpd=10_000))
_O3_MINI: Final = _rows(
    (1_000, 100_000), (2_000, 200_000), (5_000, 4_000_000), (10_000, 10_000_000), (30_000, 150_000_000)
)
_O4_MINI: Final = _but(_O3_MINI, 2, Limits(2_000, 2_000_000))
_GPT_4_5: Final = _rows((1_000, 125_000), (5_000, 250_000), (5_000, 500_000), (10_000, 1_000_000), (10_000, 2_000_000))
_GPT_4_TURBO: Final = _rows((500, 30_000), (5_000, 450_000), (5_000, 600_000), (10_000, 800_000), (10_000, 2_000_000))
_GPT_4: Final = _rows((500, 10_000), (5_000, 40_000), (5_000, 80_000), (10_000, 300_000), (10_000, 1_000_000))
_GPT_3_5: Final = _but(_GPT_4O_MINI, 5, Limits(10_000, 50_000_000))
_SEARCH: Final = _rows((100, 30_000), (500, 45_000), (500, 80_000), (1_000, 200_000), (1_000, 3_000_000))
_EMBEDDING: Final = _rows(
    (3_000, 1_000_000), (5_000, 1_000_000), (5_000, 5_000_000), (10_000, 5_000_000), (10_000, 10_000_000)
)
_MODERATION: Final = _rows((500, 10_000), (500, 20_000), (1_000, 50_000), (2_000, 250_000), (5_000, 500_000))
_TRANSCRIBE: Final = _rows((500, 10_000), (2_000, 100_000), (5_000, 400_000), (10_000, 2_000_000), (10_000, 6_000_000))
_MINI_SPEECH: Final = _rows((500, 50_000), (2_000, 150_000), (5_000, 600_000), (10_000, 2_000_000), (10_000, 8_000_000))
_SPEECH: Final = tuple(Limits(rpm) for rpm in (500, 2_500, 5_000, 7_500, 10_000))
_IMAGE: Final = tuple(
    Limits(tpm=tpm, ipm=ipm)
    for tpm, ipm in ((100_000, 5), (250_000, 20), (800_000, 50), (3_000_000, 150), (8_000_000, 250))
)
_COMPUTER_USE: Final = None, None, *[Limits(3_000, 20_000_000)] * 3


def _by_model() -> Iterator[tuple[str, _Rows]]:
    for names, rows in (
        ("gpt-5 gpt-5.1 gpt-5.2 gpt-5.4 gpt-5.5 gpt-5.6-sol gpt-5.6-terra gpt-6-astra gpt-6-sol gpt-6.1-sol", _GPT_5),
        ("gpt-5.6", _GPT_5),  # an alias of gpt-5.6-sol: the API's changelog, 2026-07-09
        ("gpt-5.1-codex gpt-5.1-codex-max gpt-5.2-codex gpt-5.3-codex", _GPT_5),
        ("gpt-5-codex", _but(_GPT_5, 5, Limits(15_000, 10_000_000))),
        ("gpt-5-mini gpt-5.1-codex-mini gpt-5.4-mini gpt-5.6-luna gpt-6-luna", _GPT_5_MINI),
        ("gpt-5-nano gpt-5.4-nano", _but(_GPT_5_MINI, 1, Limits(500, 200_000))),
        ("gpt-5-chat-latest gpt-5.1-chat-latest gpt-5.2-chat-latest gpt-5.3-chat-latest chat-latest", _GPT_5_CHAT),
        ("gpt-5.5-pro", _GPT_5_5_PRO),
        ("gpt-5-pro gpt-5.2-pro gpt-5.4-pro o1 o1-preview o1-pro o3 o3-pro", _GPT_4O),
        ("gpt-4.1 gpt-4o chatgpt-4o-latest gpt-4o-audio-preview gpt-audio gpt-audio-1.5 gpt-audio-mini", _GPT_4O),
        ("o3-deep-research", _but(_GPT_4O, 1, Limits(500, 200_000))),
        ("gpt-4.1-mini gpt-4.1-nano gpt-4o-mini gpt-4o-mini-search-preview", _GPT_4O_MINI),
        ("o1-mini", _O1_MINI),
        ("o3-mini codex-mini-latest", _O3_MINI),
        ("o4-mini", _O4_MINI),
        ("o4-mini-deep-research", _but(_O4_MINI, 1, Limits(1_000, 200_000))),
        ("gpt-4.5-preview", _GPT_4_5),
        ("gpt-4-turbo gpt-4-turbo-preview", _GPT_4_TURBO),
        ("gpt-4", _but(_GPT_4, 1, Limits(500, 10_000, rpd=10_000))),
        ("gpt-3.5-turbo", _GPT_3_5),
        ("gpt-4o-search-preview", _SEARCH),
        ("text-embedding-3-large text-embedding-3-small text-embedding-ada-002", _EMBEDDING),
        ("omni-moderation-latest", _but(_MODERATION, 1, Limits(500, 10_000, rpd=10_000))),
        ("gpt-4o-transcribe", _TRANSCRIBE),
        ("gpt-4o-transcribe-diarize", _but(_TRANSCRIBE, 2, Limits(5_000, 100_000))),
        ("gpt-4o-mini-transcribe gpt-4o-mini-tts", _MINI_SPEECH),
        ("tts-1 tts-1-hd whisper-1", _SPEECH),
        ("gpt-image-1 gpt-image-1-mini gpt-image-1.5 gpt-image-2", _IMAGE),
        ("computer-use-preview", _COMPUTER_USE),
    ):
        for name in names.split():
            yield name, rows


_MODELS: Final = dict(_by_model())
