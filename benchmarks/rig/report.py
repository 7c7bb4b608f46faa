"""From a run's samples to figures, and from figures to tables: for the terminal and for Markdown.

A figure is the median over the rounds. Ratios are taken within a round, where the machine was the same for both, and
their median is shown with the least and the greatest.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Sample = dict[str, Any]  # what one round of one target gave, see side_by_side.py


@dataclass(frozen=True, slots=True)
class Figure:
    """Median, least and greatest of the rounds."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return show(self.middle)

    @property
    def spread(self) -> str:
        return f"{show(self.middle)} ({show(self.least)}-{show(self.most)})"


def figure(values: Sequence[float]) -> Figure | None:
    return Figure(statistics.median(values), min(values), max(values)) if values else None


def spread(values: Sequence[float]) -> str:
    """Median, least and greatest as text; just the median where they are shown alike."""
    found = figure(values)
    if found is None:
        return "-"
    return str(found) if show(found.least) == show(found.most) else found.spread


def show(value: float) -> str:
    """Three digits that count."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


class Figures:
    """The samples of a run, asked by target and name."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._rounds: dict[tuple[str, int], Sample] = {(s["target"], s["round"]): s for s in samples}
        self.targets = list(dict.fromkeys(s["target"] for s in samples))

    def of(self, target: str, name: str) -> Figure | None:
        found = (sample.get(name) for (who, _), sample in self._rounds.items() if who == target)
        return figure([value for value in found if value is not None])

    def ratio(self, target: str, name: str, other: str) -> Figure | None:
        """To `other` in the same round."""
        return self._against(target, name, other, lambda mine, its: mine / its if its else None)

    def added(self, target: str, name: str, other: str = "direct") -> Figure | None:
        """Over `other` in the same round."""
        return self._against(target, name, other, lambda mine, its: mine - its)

    def _against(self, target: str, name: str, other: str, how: Any) -> Figure | None:
        values = []
        for (who, turn), sample in self._rounds.items():
            mine, its = sample.get(name), self._rounds.get((other, turn), {}).get(name)
            if who == target and mine is not None and its is not None and (value := how(mine, its)) is not None:
                values.append(value)
        return figure(values)

    def total(self, target: str, name: str) -> int:
        return sum(int(sample.get(name) or 0) for (who, _), sample in self._rounds.items() if who == target)


Table = tuple[str, list[str], list[list[str]]]  # (title, heads, rows)


def tables(figures: Figures, memory: dict[str, dict[str, Any]], notes: dict[str, str], reference: str) -> list[Table]:
    """Everything a run says."""

    def cell(value: Figure | None, *, spread: bool = False, milli: bool = False) -> str:
        if value is None:
            return "-"
        if milli:
            value = Figure(value.middle / 1e3, value.least / 1e3, value.most / 1e3)
        return value.spread if spread else str(value)

    requests, events, latency, held = [], [], [], []
    for name in figures.targets:
        if name != "direct":
            requests.append(
                [
                    name,
                    cell(figures.of(name, "cpu_us"), spread=True),
                    cell(figures.ratio(name, "cpu_us", reference), spread=True),
                    cell(figures.of(name, "worker_us")),
                    cell(figures.of(name, "main_us")),
                    cell(figures.of(name, "store_us")),
                    cell(figures.of(name, "rps")),
                    str(figures.total(name, "errors")),
                ]
            )
            events.append(
                [
                    name,
                    cell(figures.of(name, "event_us"), spread=True),
                    cell(figures.ratio(name, "event_us", reference), spread=True),
                    cell(figures.of(name, "event_store_us")),
                ]
            )
        latency.append(
            [
                name,
                cell(figures.of(name, "p50_us"), milli=True),
                *(
                    cell(figures.added(name, what), milli=True, spread=True)
                    for what in ("p50_us", "p99_us", "first_p50_us")
                ),
            ]
        )
        if name in memory:
            held.append([name, *(_number(memory[name].get(column)) for column in MEMORY)])
    return [
        (
            "CPU µs per JSON request, 32 clients",
            [
                "target",
                "CPU µs",
                f"ratio to {reference}",
                "worker",
                "main process",
                "its store",
                "requests/s",
                "errors",
            ],
            requests,
        ),
        (
            "CPU µs per event of a stream, 32 clients",
            ["target", "CPU µs", f"ratio to {reference}", "its store"],
            events,
        ),
        (
            "One client, ms",
            ["target", "p50", "added p50", "added p99", "added to the first content event, p50"],
            latency,
        ),
        (
            "Memory, MiB resident",
            [
                "target",
                "idle",
                "after load",
                "with streams",
                "streams",
                "KiB/stream",
                "a worker, idle",
                "a worker, with streams",
            ],
            held,
        ),
        ("Targets", ["target", "what it is"], [[name, notes.get(name, "")] for name in figures.targets]),
    ]


ADDED = ("p50_us", "p99_us", "first_p50_us")
MEMORY = ("idle", "after", "held", "streams", "kib_per_stream", "worker_idle", "worker_held")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def plain(table: Table) -> str:
    """For a terminal."""
    title, heads, rows = table
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = [
        "  ".join(
            word.ljust(width) if i == 0 or title == "Targets" else word.rjust(width)
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [heads, *rows]
    ]
    return "\n".join(["", title, *(line.rstrip() for line in lines)])


def markdown(table: Table) -> str:
    title, heads, rows = table
    align = "|---|" + ("---|" if title == "Targets" else "---:|") * (len(heads) - 1)
    lines = [f"| {' | '.join(row)} |" for row in [heads, *rows]]
    return "\n".join([f"**{title}**", "", lines[0], align, *lines[1:], ""])
