"""What is summed up of one client's requests for one model on a day: counts, tokens, money, and nothing they said."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import msgspec

MAXIMA: Final = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
"""Maxima of an answer's tokens that advice may name."""


def _none_yet() -> list[int]:
    return [0] * len(MAXIMA)


class Sums(msgspec.Struct):
    """Of requests that upstream answered, and whose usage it counted. Money in picodollars, as far as prices are known.

    `limited`: requests for one answer that name its maximum; `allowed`: the sum of these maxima; `limited_reserved`:
    what they reserved; `written`: what the answers took. `fits[n]`: those whose answer took at most `MAXIMA[n]` tokens,
    and more than the one before; `would_reserve[n]`: what all would have reserved with no maximum above `MAXIMA[n]`.
    `repeats`: requests that were asked word for word before, within a cache's time.
    `long`: prompts that upstream's cache takes, without a `prompt_cache_key`; `alike`: those that begin like another of
    the minutes before; `alike_tokens`: for so long; `alike_uncached`: those of them that did not come from the cache.
    `singles`: requests for one embedding; `in_bursts`: those that came with many others within a second; `bursts`: how
    many such seconds there were. `patient`: requests of priority `batch` at the standard price.
    """

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reserved: int = 0
    pico: int = 0
    limited: int = 0
    allowed: int = 0
    limited_reserved: int = 0
    written: int = 0
    repeats: int = 0
    repeated_tokens: int = 0
    repeated_pico: int = 0
    long: int = 0
    alike: int = 0
    alike_tokens: int = 0
    alike_uncached: int = 0
    singles: int = 0
    in_bursts: int = 0
    bursts: int = 0
    patient: int = 0
    patient_prompt: int = 0
    patient_cached: int = 0
    patient_completion: int = 0
    patient_pico: int = 0
    fits: list[int] = msgspec.field(default_factory=_none_yet)
    would_reserve: list[int] = msgspec.field(default_factory=_none_yet)

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion

    def limit(self, maximum: int, prompt: int, reserved: int, written: int) -> None:
        """A request that names a maximum. `prompt`: the estimate of its tokens, which is reserved if it is more."""
        self.limited += 1
        self.allowed += maximum
        self.limited_reserved += reserved
        self.written += written
        place = bisect_left(MAXIMA, written)
        if place < len(MAXIMA):
            self.fits[place] += 1
        would = self.would_reserve
        for n, most in enumerate(MAXIMA):
            would[n] += reserved if most >= maximum else max(most, prompt)

    def add(self, other: Sums) -> None:
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in ((self.fits, other.fits), (self.would_reserve, other.would_reserve)):
            for n, more in enumerate(theirs):
                mine[n] += more


_COUNTS: Final = Sums.__struct_fields__[:-2]


def flat(sums: Sums) -> list[int]:
    """As the script adds them up."""
    return [*(getattr(sums, name) for name in _COUNTS), *sums.fits, *sums.would_reserve]


def of_flat(numbers: Sequence[float]) -> Sums | None:
    """What `flat` made, or their sum; None: another version's. Beyond 2^53 the script adds in steps."""
    if len(numbers) != len(_COUNTS) + 2 * len(MAXIMA):
        return None
    whole = [int(number) for number in numbers]
    rest = len(_COUNTS)
    sums = Sums(fits=whole[rest : rest + len(MAXIMA)], would_reserve=whole[rest + len(MAXIMA) :])
    for name, number in zip(_COUNTS, whole[:rest], strict=True):
        setattr(sums, name, number)
    return sums
