"""The pictures of docs/budgets.md, as hand-written SVG: the two predictions beside the truth, and what each case used.

The first two come from a run in virtual time, the last from the table that stands in docs/budgets.md.

    python benchmarks/plot_budgets.py      # writes docs/img/*.svg, the same ones each time
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from budgets_in_virtual_time import Case, World  # the neighbour, wherever this is started from

DOCS = Path(__file__).parent.parent / "docs"
ACCOUNT = "0"
TOKENS = 1  # the place of TPM among a bucket's dimensions
SECONDS = 180
WIDTH, LEFT, RIGHT, TOP = 800, 60, 20, 44
INK, FAINT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
TRUTH, KEPT, CORRECTED = "#9aa5b1", "#d64545", "#2680c2"


@dataclass(frozen=True, slots=True)
class Line:
    """A labelled curve: points of (seconds, tokens)."""

    label: str
    colour: str
    width: float
    points: Sequence[tuple[float, float]]


class Watched(World):
    """The first account's levels, four times a second; the buckets are full at first, as they are after a night."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        for account in self.upstream.values():
            for bucket in account.buckets:
                bucket.level = float(bucket.limit)
        self.truth: list[tuple[float, float]] = []
        self.kept: list[tuple[float, float]] = []
        self.corrected: list[tuple[float, float]] = []
        self.at(0.0, "sample")

    def on_sample(self) -> None:
        ours, theirs = self.ours[ACCOUNT], self.upstream[ACCOUNT].buckets[TOKENS]
        ours.refill(self.now, self.written)
        theirs.refill(self.now)
        self.truth.append((self.now, theirs.level))
        if ours.learned[TOKENS] > 0:  # before, it is a guess
            self.kept.append((self.now, ours.kept[TOKENS] or 0.0))
            self.corrected.append((self.now, ours.corrected[TOKENS] or 0.0))
        self.at(0.25, "sample")


def document(width: int, height: int, title: str, parts: Iterator[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
    )
    return "\n".join((head, text(LEFT, 20, title, INK, bold=True), *parts, "</svg>\n"))


def text(x: float, y: float, words: str, colour: str = FAINT, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'


def curves(title: str, lines: Sequence[Line], low: float, high: float) -> str:
    """Levels over time."""
    height, bottom = 300, 30

    def x(seconds: float) -> float:
        return LEFT + seconds / SECONDS * (WIDTH - LEFT - RIGHT)

    def y(level: float) -> float:
        return TOP + (high - level) / (high - low) * (height - TOP - bottom)

    def parts() -> Iterator[str]:
        for level in range(int(low), int(high) + 1, 10_000):
            yield f'<path d="M{LEFT} {y(level):.1f}H{WIDTH - RIGHT}" stroke="{FAINT if level == 0 else GRID}"/>'
            yield text(LEFT - 8, y(level) + 4, f"{level // 1000} k" if level else "0", anchor="end")
        for seconds in range(0, SECONDS + 1, 30):
            yield text(x(seconds), height - 10, f"{seconds} s", anchor="middle")
        for line in lines:
            places = " ".join(f"{x(at):.1f},{y(min(high, max(low, level))):.1f}" for at, level in line.points)
            yield (
                f'<polyline points="{places}" fill="none" stroke="{line.colour}" stroke-width="{line.width}" '
                'stroke-linejoin="round"/>'
            )
        place = WIDTH - RIGHT
        for line in reversed(lines):
            place -= 7 * len(line.label) + 36
            yield f'<path d="M{place} 34h20" stroke="{line.colour}" stroke-width="{line.width}"/>'
            yield text(place + 26, 38, line.label)

    return document(WIDTH, height, title, parts())


def predictions(charging: str) -> str:
    world = Watched(Case(charging, "tpm", seconds=SECONDS))
    world.run()
    lines = [
        Line("upstream's level", TRUTH, 5, world.truth),
        Line("kept", KEPT, 1.5, world.kept),
        Line("corrected", CORRECTED, 1.5, world.corrected),
    ]
    how = "keeps the estimate charged" if charging == "keep" else "corrects the estimate to the usage"
    return curves(f"Tokens left in one account; upstream {how}", lines, -10_000, 40_000)


def table_rows(document: str) -> list[tuple[str, float, float]]:
    """(case, load and charging; share used; share refused) from the table in docs/budgets.md, seeds averaged."""
    found: dict[str, list[tuple[float, float]]] = {}
    row = re.compile(
        r"^\| ([^|]+) \| (\w+) \| (\w+) \| \d+ \| [\d,]+ \| ([\d.]+)% \| \d+ \| ([\d.]+)% \|", re.MULTILINE
    )
    for case, load, charging, used, refused in row.findall(document):
        if "95 %" not in case:  # what was not offered cannot be used
            found.setdefault(f"{case}: {load}, {charging}", []).append((float(used), float(refused)))
    return [
        (name, sum(used for used, _ in runs) / len(runs), sum(refused for _, refused in runs) / len(runs))
        for name, runs in found.items()
    ]


def bars(rows: Sequence[tuple[str, float, float]]) -> str:
    """What each case used, from 95 % on, and what upstream refused."""
    step, names, low = 22, 340, 95.0
    height = TOP + step * len(rows) + 34

    def x(share: float) -> float:
        return names + (min(101.0, max(low, share)) - low) / (101 - low) * (WIDTH - names - 110)

    def parts() -> Iterator[str]:
        for share in range(int(low), 102):
            colour = KEPT if share == 98 else GRID
            yield f'<path d="M{x(share):.1f} {TOP - 6}V{height - 28}" stroke="{colour}"/>'
            yield text(x(share), height - 12, f"{share} %", anchor="middle")
        yield text(WIDTH - RIGHT, TOP - 12, "refused upstream", anchor="end")
        for place, (name, used, refused) in enumerate(rows):
            middle = TOP + step * place + step / 2
            yield text(names - 10, middle + 4, name, INK, anchor="end")
            yield (
                f'<rect x="{names}" y="{middle - 6:.1f}" width="{x(used) - names:.1f}" height="12" rx="2" '
                f'fill="{CORRECTED}" fill-opacity="0.75"/>'
            )
            yield text(WIDTH - RIGHT, middle + 4, f"{refused:.3f} %", INK, anchor="end")

    return document(WIDTH, height, "Used of the budget, at most possible = 100 %; promised: 98 %", parts())


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--into", type=Path, default=DOCS / "img", help="a folder")
    into = asked.parse_args().into
    into.mkdir(exist_ok=True)
    for charging in ("keep", "correct"):
        (into / f"predictions-{charging}.svg").write_text(predictions(charging), encoding="utf-8")
    rows = table_rows((DOCS / "budgets.md").read_text(encoding="utf-8"))
    (into / "budgets-used.svg").write_text(bars(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
