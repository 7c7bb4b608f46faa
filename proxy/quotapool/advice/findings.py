"""What clients could do to need less of the pool, from the sums of a week. Pure: time and prices are arguments.

Each finding is computed from counts of what happened, as if it went on like that; `how` says it with the numbers.
Findings do not add up: a request that a cache would have answered needs no lower maximum.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal

import msgspec

from quotapool.advice.bursts import LEAST, SPAN_S
from quotapool.advice.note_store import Day, Name
from quotapool.advice.sums import MAXIMA, Sums
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.wallet import PICO
from quotapool.money.price_list import STANDARD, PriceList, price

Kind = Literal["repeats", "maximum", "cache_key", "single_embeddings", "can_wait", "snapshot"]

WINDOW_DAYS: Final = 7
MONTH_DAYS: Final = 30
LEAST_USD: Final = 1.0
"""A month."""
LEAST_SHARE: Final = 0.05
"""Of a model's limit, for all of the pool."""
LEAST_REQUESTS: Final = 100
_FITTING: Final = 0.999  # of the answers, with a maximum that is named
_SNAPSHOT: Final = re.compile(r"(.+?)-(?:\d{4}-\d{2}-\d{2}|\d{4})")


class Finding(msgspec.Struct, frozen=True):
    """One client and model. `usd_month`: what it would save, None if it saves no money; `tpm`, `rpm`: how much more the
    pool could do within its limits for the model, as a share (0.38: 38 % more), None if nothing. `facts`: the counts it
    is computed from; `advice`: what to do; `how`: how the estimate was computed."""

    kind: Kind
    client: str
    model: str
    usd_month: float | None
    tpm: float | None
    rpm: float | None
    facts: dict[str, float]
    advice: str
    how: str


class Week(msgspec.Struct, frozen=True):
    """The sums of `days` days, a day at least."""

    days: float
    sums: Mapping[Name, Sums]

    @property
    def per_month(self) -> float:
        return MONTH_DAYS / self.days


def week_of(days: Iterable[Day], now: float) -> Week:
    """`now` in Unix seconds. Less than a day counts as one: nobody knows yet what the other hours are like."""
    since, total = now, dict[Name, Sums]()
    for day in days:
        since = min(since, day.since)
        for name, row in day.sums.items():
            total.setdefault(name, Sums()).add(row)
    return Week(max(1.0, (now - since) / 86_400), total)


def findings(week: Week, prices: PriceList, *, cached_for_s: float, corrected: Collection[str] = ()) -> list[Finding]:
    """All that are worth it, those first that save most money, then most of a limit.

    `cached_for_s`: how long the cache would keep an answer. `corrected`: models for which upstream gives back what was
    reserved and not used, so that a high maximum costs nothing.
    """
    of_models: dict[str, Sums] = {}
    for (_, model), row in week.sums.items():
        of_models.setdefault(model, Sums()).add(row)
    found: list[Finding] = []
    for (client, model), row in week.sums.items():
        all_of_it = of_models[model]
        possible = (
            _repeats(client, model, row, all_of_it, week, cached_for_s),
            None if model in corrected else _maximum(client, model, row, all_of_it, week),
            _cache_key(client, model, row, week, prices),
            _single_embeddings(client, model, row, all_of_it, week),
            _can_wait(client, model, row, week, prices),
            _snapshot(client, model, row, week, prices),
        )
        found += (finding for finding in possible if finding is not None)
    found.sort(key=lambda one: (-(one.usd_month or 0), -max(one.tpm or 0, one.rpm or 0), one.client, one.model))
    return found


def _repeats(client: str, model: str, row: Sums, pool: Sums, week: Week, kept_s: float) -> Finding | None:
    """Requests that a cache would have answered."""
    usd, tpm = _month(row.repeated_pico, week), _more(row.repeated_tokens, pool.tokens)
    if not LEAST_REQUESTS <= row.repeats <= row.requests or (usd < LEAST_USD and tpm < LEAST_SHARE):
        return None
    return Finding(
        "repeats", client, model, usd, tpm, None,
        {"requests": row.requests, "repeats": row.repeats, "tokens": row.repeated_tokens,
         "usd": row.repeated_pico / PICO, "days": week.days},
        f"{_client(client)} repeats {_percent(row.repeats / row.requests)} of its requests for {model} word for word: "
        "the cache (cache.models) would answer them.",
        f"In {_days(week)}, {row.repeats:,} of {row.requests:,} requests were the same, word for word, as one of the "
        f"{_span(kept_s)} before. They cost {_usd(row.repeated_pico / PICO)}, in {MONTH_DAYS} days {_usd(usd)}, and "
        f"took {row.repeated_tokens:,} of the {pool.tokens:,} tokens that the pool used of the model; without them its "
        f"limit serves {_percent(tpm)} more.",
    )  # fmt: skip


def _maximum(client: str, model: str, row: Sums, pool: Sums, week: Week) -> Finding | None:
    """A maximum far above what answers take: as much of the tokens a minute is reserved."""
    if row.limited < LEAST_REQUESTS:
        return None
    fitting, place = 0, -1
    for n, count in enumerate(row.fits):
        fitting += count
        if fitting >= _FITTING * row.limited:
            place = n
            break
    if place < 0:
        return None
    freed = row.limited_reserved - row.would_reserve[place]
    tpm = _more(freed, pool.reserved)
    if tpm < LEAST_SHARE:
        return None
    allowed, written, longer = row.allowed // row.limited, row.written // row.limited, row.limited - fitting
    return Finding(
        "maximum", client, model, None, tpm, None,
        {"requests": row.limited, "allowed": allowed, "used": written, "maximum": MAXIMA[place], "longer": longer,
         "reserved": row.limited_reserved, "freed": freed, "days": week.days},
        f"{_client(client)} allows answers of {allowed:,} tokens and uses {written:,}: a maximum of {MAXIMA[place]:,} "
        f"gives the pool {_percent(tpm)} more TPM for {model}.",
        f"In {_days(week)}, {row.limited:,} requests reserved {row.limited_reserved:,} tokens; with a maximum of "
        f"{MAXIMA[place]:,} they would have reserved {row.would_reserve[place]:,}, and {longer:,} of their answers "
        f"would have been cut. All clients together reserved {pool.reserved:,}; {freed:,} fewer is the same work in "
        f"{_percent(freed / pool.reserved)} less of the limit. (Where OpenAI's answers show that it gives back what "
        "was reserved and not used, this is not advised.)",
    )  # fmt: skip


def _cache_key(client: str, model: str, row: Sums, week: Week, prices: PriceList) -> Finding | None:
    """Long beginnings that upstream did not find in its cache."""
    card, _ = prices.card(model, STANDARD)
    if row.alike < LEAST_REQUESTS or card is None or card.input is None or card.cached_input is None:
        return None
    off = card.input - card.cached_input
    usd = _month(row.alike_uncached * off, week)
    if usd < LEAST_USD:
        return None
    together = row.alike_tokens // row.alike
    return Finding(
        "cache_key", client, model, usd, None, None,
        {"requests": row.long, "alike": row.alike, "together": together, "uncached": row.alike_uncached,
         "usd_per_million": off * 1_000_000 / PICO, "days": week.days},
        f"{_client(client)} begins its prompts alike, for some {together:,} tokens: one prompt_cache_key for each such "
        "beginning lets OpenAI find more of them in its cache.",
        f"In {_days(week)}, {row.alike:,} of {row.long:,} long prompts without a prompt_cache_key began like another "
        f"of the five minutes before, for {row.alike_tokens:,} tokens in all, of which OpenAI took "
        f"{row.alike_tokens - row.alike_uncached:,} from its cache. The other {row.alike_uncached:,} would have been "
        f"{_usd(off * 1_000_000 / PICO)} cheaper for a million: {_usd(usd)} in {MONTH_DAYS} days, if all are found.",
    )  # fmt: skip


def _single_embeddings(client: str, model: str, row: Sums, pool: Sums, week: Week) -> Finding | None:
    """Many requests for one embedding that could be one for many."""
    spared = row.in_bursts - row.bursts
    rpm = _more(spared, pool.requests)
    if row.in_bursts < LEAST_REQUESTS or not row.bursts or rpm < LEAST_SHARE:
        return None
    return Finding(
        "single_embeddings", client, model, None, None, rpm,
        {"requests": row.singles, "in_bursts": row.in_bursts, "bursts": row.bursts, "days": week.days},
        f"{_client(client)} asks for one embedding a request, {row.in_bursts // row.bursts:,} times within a second: "
        f"one request takes up to 2,048 inputs, and gives the pool {_percent(rpm)} more RPM for {model}.",
        f"In {_days(week)}, {row.in_bursts:,} of {row.singles:,} requests with a single input came at least {LEAST} "
        f"within {SPAN_S:g} s, {row.bursts:,} times. One request each time is {spared:,} fewer of the "
        f"{pool.requests:,} that the pool made of the model. The price is the same.",
    )  # fmt: skip


def _can_wait(client: str, model: str, row: Sums, week: Week, prices: PriceList) -> Finding | None:
    """Work that can wait, at the price of work that cannot."""
    usage = Usage(Certainty.EXACT, row.patient_prompt, row.patient_completion, row.patient_cached)
    paid = _priced(prices, model, STANDARD, usage)
    tier, costs = "", None
    for name in ("flex", "batch"):
        if (costs := _priced(prices, model, name, usage)) is not None:
            tier = name
            break
    if row.patient < LEAST_REQUESTS or not paid or costs is None or costs >= paid:
        return None
    saved = row.patient_pico * (paid - costs) / paid
    usd = _month(saved, week)
    if usd < LEAST_USD:
        return None
    way = "service_tier: flex" if tier == "flex" else "OpenAI's Batch API"
    return Finding(
        "can_wait", client, model, usd, None, None,
        {"requests": row.patient, "usd": row.patient_pico / PICO, "share": (paid - costs) / paid,
         "flex": float(tier == "flex"), "days": week.days},
        f"{_client(client)} has the priority batch and pays the standard price of {model}: {way} does the same for "
        f"{_percent(1 - (paid - costs) / paid)} of it.",
        f"In {_days(week)}, {row.patient:,} requests of priority batch cost {_usd(row.patient_pico / PICO)} at the "
        f"standard price. At that of {tier} the same tokens are {_percent((paid - costs) / paid)} cheaper: {_usd(usd)} "
        f"in {MONTH_DAYS} days.",
    )  # fmt: skip


def _snapshot(client: str, model: str, row: Sums, week: Week, prices: PriceList) -> Finding | None:
    """An older, dated version that the price data list at a higher price than the model it is a version of."""
    dated = _SNAPSHOT.fullmatch(model)
    if dated is None or row.requests < LEAST_REQUESTS:
        return None
    newer = dated[1]
    usage = Usage(Certainty.EXACT, row.prompt, row.completion, row.cached)
    (_, is_listed), (_, newer_is_listed) = prices.card(model, STANDARD), prices.card(newer, STANDARD)
    paid, costs = _priced(prices, model, STANDARD, usage), _priced(prices, newer, STANDARD, usage)
    if not (is_listed and newer_is_listed) or not paid or costs is None or costs >= paid:
        return None
    usd = _month(row.pico * (paid - costs) / paid, week)
    if usd < LEAST_USD:
        return None
    return Finding(
        "snapshot", client, model, usd, None, None,
        {"requests": row.requests, "usd": row.pico / PICO, "share": (paid - costs) / paid, "days": week.days},
        f"{_client(client)} uses {model}, which costs more than {newer}, the model that it is an older version of.",
        f"In {_days(week)}, {row.requests:,} requests cost {_usd(row.pico / PICO)}. By the price data the same tokens "
        f"of {newer} are {_percent((paid - costs) / paid)} cheaper: {_usd(usd)} in {MONTH_DAYS} days.",
    )  # fmt: skip


def _priced(prices: PriceList, model: str, tier: str, usage: Usage) -> int | None:
    """At the rates of short prompts: these are the sums of many."""
    card, _ = prices.card(model, tier)
    return None if card is None else price(msgspec.structs.replace(card, long=None), usage)


def _month(pico: float, week: Week) -> float:
    return pico / PICO * week.per_month


def _more(freed: int, of: int) -> float:
    """How much more fits into the same limit: with a quarter freed, a third."""
    return freed / (of - freed) if 0 < freed < of else 0.0


# ---- words


def _client(client: str) -> str:
    return client or "The anonymous client"


def _days(week: Week) -> str:
    return "one day" if week.days == 1 else f"{week.days:.1f} days"


def _usd(usd: float) -> str:
    return f"${usd:,.2f}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _span(seconds: float) -> str:
    for size, word in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:g} {word}"
    return f"{seconds:g} seconds" if seconds < 120 else f"{seconds / 60:g} minutes"
