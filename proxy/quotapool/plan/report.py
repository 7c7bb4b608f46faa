"""What `quotapool plan` answers: the record, the pool as it is, and the changed one, side by side. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from quotapool.domain.wallet import usd
from quotapool.plan.outcome import Binding, Outcome, Share
from quotapool.plan.sources.record import Record

_MOST_ROWS: Final = 100
T = TypeVar("T")


class Figures(msgspec.Struct):
    """Of one column. Waits in seconds, of requests that were served; null: the record does not have them. `usd`: as far
    as prices are known; `unpriced`: served requests without one."""

    requests: int
    served: int
    refused: int
    usd: float
    refusals: dict[str, int]
    unpriced: int | None = None
    waited: int | None = None
    wait_mean_s: float | None = None
    wait_p50_s: float | None = None
    wait_p99_s: float | None = None
    wait_longest_s: float | None = None


class NameRow(msgspec.Struct):
    """One client, model or account in both replays."""

    name: str
    requests: tuple[int, int]
    refused: tuple[int, int]
    wait_p99_s: tuple[float, float]
    usd: tuple[float, float]


class LimitRow(msgspec.Struct):
    """A limit that made requests wait or refused them, in how many requests and hours: `tpm of gpt-4o`, `room of
    gpt-4o` (others came first, or no key is usable), or a client's own rule."""

    limit: str
    waited: tuple[int, int]
    refused: tuple[int, int]
    hours: tuple[int, int]


class FullRow(msgspec.Struct):
    """One account's limit: how much of it is used in its fullest minute (or day), 1: all. Null: it is not there."""

    limit: str
    fullest: tuple[float | None, float | None]
    share: tuple[float | None, float | None]


class PlanReport(msgspec.Struct):
    """In pairs the pool as it is comes first, the changed one second. `changes`: as they were asked for; `planned`:
    null without any. `since`, `until`: Unix seconds of the record. `left_out`: entries of the record, by reason."""

    record: str
    since: float
    until: float
    changes: list[str]
    recorded: Figures
    today: Figures
    planned: Figures | None
    clients: list[NameRow]
    models: list[NameRow]
    accounts: dict[str, tuple[float, float]]
    limits: list[LimitRow]
    fullest: list[FullRow]
    assumed: list[str]
    left_out: dict[str, int]


def report(
    record: Record, today: Outcome, planned: Outcome | None, changes: list[str], assumed: Iterable[str]
) -> PlanReport:
    after = today if planned is None else planned
    return PlanReport(
        record.about,
        record.since,
        record.until,
        changes,
        _recorded(record),
        _figures(today),
        None if planned is None else _figures(planned),
        _names(today.by_client, after.by_client, "anonymous"),
        _names(today.by_model, after.by_model, "(no model)"),
        _accounts(today, after),
        _limits(today.bindings, after.bindings),
        _fullest(today, after),
        [*record.assumed, *assumed],
        dict(record.left_out),
    )


def _recorded(record: Record) -> Figures:
    happened = record.happened
    refused = happened.refused.total()
    served = len(record.demand) - refused
    refusals = dict(happened.refused.most_common())
    figures = Figures(len(record.demand), served, refused, usd(happened.pico), refusals)
    if served and (waits_s := happened.waits_s) is not None:
        waits = sorted(waits_s)
        figures.waited = sum(wait > 0 for wait in waits)
        figures.wait_mean_s = sum(waits) / served
        figures.wait_p50_s, figures.wait_p99_s = (waits[max(0, math.ceil(q * served) - 1)] for q in (0.5, 0.99))
        figures.wait_longest_s = waits[-1]
    return figures


def _figures(outcome: Outcome) -> Figures:
    waits = outcome.waits
    return Figures(
        outcome.requests,
        outcome.served,
        outcome.refusals,
        usd(outcome.pico),
        outcome.refused,
        outcome.unpriced,
        waits.waited,
        waits.mean_s,
        waits.p50_s,
        waits.p99_s,
        waits.longest_s,
    )


def _names(before: Mapping[str, Share], after: Mapping[str, Share], nameless: str) -> list[NameRow]:
    """Those first that are refused most, or wait longest. `nameless`: what stands for no name."""
    rows = []
    for name in before.keys() | after.keys():
        pair = [before.get(name), after.get(name)]
        rows.append(
            NameRow(
                name or nameless,
                _two(0 if one is None else one.requests for one in pair),
                _two(0 if one is None else sum(one.refused.values()) for one in pair),
                _two(0.0 if one is None else one.waits.p99_s for one in pair),
                _two(0.0 if one is None else usd(one.pico) for one in pair),
            )
        )
    rows.sort(key=lambda row: (-max(row.refused), -max(row.wait_p99_s), -max(row.requests), row.name))
    return rows[:_MOST_ROWS]


def _accounts(before: Outcome, after: Outcome) -> dict[str, tuple[float, float]]:
    """Dollars, the most expensive first."""
    names = before.pico_by_account.keys() | after.pico_by_account.keys()
    sums = {name: (before.pico_by_account.get(name, 0), after.pico_by_account.get(name, 0)) for name in names}
    ordered = sorted(sums, key=lambda name: (-max(sums[name]), name))
    return {name: (usd(sums[name][0]), usd(sums[name][1])) for name in ordered[:_MOST_ROWS]}


def limit_name(one: Binding) -> str:
    if one.rule:
        return f"{one.rule} of client {one.client or 'anonymous'}"
    return f"{one.dimension or 'room'} of {one.group}"


def _limits(before: Iterable[Binding], after: Iterable[Binding]) -> list[LimitRow]:
    columns = [{limit_name(one): one for one in some} for some in (before, after)]
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        pair = [column.get(name) for column in columns]
        rows.append(
            LimitRow(
                name,
                _two(0 if one is None else one.waited for one in pair),
                _two(0 if one is None else one.refused for one in pair),
                _two(0 if one is None else len(one.hours) for one in pair),
            )
        )
    rows.sort(key=lambda row: (-max(map(sum, zip(row.waited, row.refused, strict=True))), row.limit))
    return rows[:_MOST_ROWS]


def _fullest(before: Outcome, after: Outcome) -> list[FullRow]:
    columns = [{(one.account, one.group, one.dimension): one for one in outcome.fills} for outcome in (before, after)]
    rows = []
    for name in columns[0].keys() | columns[1].keys():
        pair = [column.get(name) for column in columns]
        fullest = _two(None if one is None else one.fullest for one in pair)
        share = _two(None if one is None else one.share for one in pair)
        rows.append(FullRow(".".join(name), fullest, share))
    rows.sort(key=lambda row: (-max(part or 0.0 for part in row.fullest), row.limit))
    return rows[:_MOST_ROWS]


def _two(values: Iterable[T]) -> tuple[T, T]:
    first, second = values
    return first, second
