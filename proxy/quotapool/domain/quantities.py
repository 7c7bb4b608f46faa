"""What is counted, and what it is counted against: dimensions, costs, limits, usage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec


class Dimension(StrEnum):
    """One way in which OpenAI limits an (account, model group)."""

    RPM = "rpm"  # requests per minute
    TPM = "tpm"  # tokens per minute
    RPD = "rpd"  # requests per day
    TPD = "tpd"  # tokens per day
    IPM = "ipm"  # images per minute
    PROJECT_TPM = "project_tpm"  # tokens per minute of the project, in addition to the organisation's; always learned


PERIOD_S: Final[dict[Dimension, float]] = {
    Dimension.RPM: 60.0,
    Dimension.TPM: 60.0,
    Dimension.RPD: 86_400.0,
    Dimension.TPD: 86_400.0,
    Dimension.IPM: 60.0,
    Dimension.PROJECT_TPM: 60.0,
}


_OF_TOKENS: Final = frozenset({Dimension.TPM, Dimension.TPD, Dimension.PROJECT_TPM})


class Cost(msgspec.Struct, frozen=True, gc=False):  # made for every request: a frozen dataclass takes ten times as long
    """What one request costs: `requests`, `tokens` (as OpenAI's limiter counts them) and `images`."""

    requests: int = 1
    tokens: int = 0
    images: int = 0

    def of(self, dimension: Dimension) -> int:
        if dimension in _OF_TOKENS:
            return self.tokens
        if dimension is Dimension.IPM:
            return self.images
        return self.requests


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one (account, model group), per dimension; None: not configured."""

    rpm: float | None = None
    tpm: float | None = None
    rpd: float | None = None
    tpd: float | None = None
    ipm: float | None = None
    project_tpm: float | None = None

    def of(self, dimension: Dimension) -> float | None:
        value: float | None = getattr(self, dimension)  # a dimension is the name of its field
        return value

    def over(self, other: Limits) -> Limits:
        """These limits where they are set, `other`'s elsewhere."""
        return Limits(*(mine if (mine := self.of(d)) is not None else other.of(d) for d in Dimension))

    def capped_by(self, other: Limits) -> Limits:
        """The lower limit of both, in each dimension."""
        return Limits(*(min((x for x in (self.of(d), other.of(d)) if x is not None), default=None) for d in Dimension))


class Certainty(StrEnum):
    """How well we know what a call used. Only NOTHING and EXACT may give tokens back."""

    NOTHING = "nothing"  # upstream did no work for this call
    AT_LEAST = "at_least"  # the answer was cut short: this much was seen, there may be more
    EXACT = "exact"  # reported by upstream


class Details(msgspec.Struct, frozen=True, gc=False):
    """Tokens that only some models count separately, each a part of `Usage.prompt` or `Usage.completion`; and usage
    that is not counted in tokens.

    `cached_audio` and `cached_image` are parts of `audio_prompt` and `image_prompt`, and of `Usage.cached_prompt`.
    """

    cache_write: int = 0
    audio_prompt: int = 0
    audio_completion: int = 0
    image_prompt: int = 0
    image_completion: int = 0
    cached_audio: int = 0
    cached_image: int = 0
    seconds: float = 0.0  # of audio, if the model is billed by duration
    characters: int = 0  # of text, if the model is billed by what it was given to speak
    web_searches: int = 0  # that the model made


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one call. `cached_prompt` is a part of `prompt`, `reasoning` a part of `completion`.

    `by_tools`: (model, its usage) for each model that the answering one called as a tool; not part of these tokens.

    A struct, because one is made for every answer: a frozen dataclass takes five times as long.
    """

    certainty: Certainty
    prompt: int = 0
    completion: int = 0
    cached_prompt: int = 0
    reasoning: int = 0
    details: Details | None = None
    tier: str = ""  # the service tier that upstream reports; "": none reported
    by_tools: tuple[tuple[str, Usage], ...] = ()

    @property
    def total(self) -> int:
        """Tokens that count against the limits of the model that answered."""
        return self.prompt + self.completion


NOTHING: Final = Usage(Certainty.NOTHING)
