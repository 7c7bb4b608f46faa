"""The pictures of docs/performance.md, as hand-written SVG: bars with the least and the greatest of the rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from .report import Figure, Figures

WIDTH, NAMES, RIGHT, TOP, STEP = 800, 130, 150, 44, 24
INK, FAINT, GRID, OURS, OTHERS = "#1f2933", "#616e7c", "#e4e7eb", "#2680c2", "#9aa5b1"
REFERENCES = {"direct", "nginx", "aiohttp", "rolter", "litellm"}


def write(figures: Figures, directory: Path) -> list[Path]:
    """cpu-per-request.svg, cpu-per-event.svg, added-latency.svg; those for which there are figures."""
    directory.mkdir(parents=True, exist_ok=True)
    proxies = [name for name in figures.targets if name != "direct"]
    pictures = {
        "cpu-per-request": ("CPU µs per JSON request", [(name, figures.of(name, "cpu_us")) for name in proxies]),
        "cpu-per-event": ("CPU µs per event of a stream", [(name, figures.of(name, "event_us")) for name in proxies]),
        "added-latency": ("Added latency at one client, p50, µs", [(n, figures.added(n, "p50_us")) for n in proxies]),
    }
    written = []
    for file, (title, found) in pictures.items():
        if rows := [(name, value) for name, value in found if value is not None]:
            written.append(directory / f"{file}.svg")
            written[-1].write_text(bars(title, rows), encoding="utf-8")
    return written


def bars(title: str, rows: Sequence[tuple[str, Figure]]) -> str:
    height = TOP + STEP * len(rows) + 16
    most = max(value.most for _, value in rows) or 1.0

    def x(value: float) -> float:
        return NAMES + max(0.0, value) / most * (WIDTH - NAMES - RIGHT)

    def parts() -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="12"><title>{escape(title)}</title>'
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        )
        yield text(16, 22, f"{title}: median, least and greatest of the rounds", INK, bold=True)
        for place, (name, value) in enumerate(rows):
            middle = TOP + STEP * place + STEP / 2
            colour = OTHERS if name in REFERENCES else OURS
            yield f'<path d="M{NAMES} {middle + STEP / 2:.1f}H{WIDTH - 20}" stroke="{GRID}"/>'
            yield text(NAMES - 10, middle + 4, name, INK, anchor="end")
            yield (
                f'<rect x="{NAMES}" y="{middle - 7:.1f}" width="{x(value.middle) - NAMES:.1f}" height="14" rx="2" '
                f'fill="{colour}" fill-opacity="0.8"/>'
            )
            yield f'<path d="M{x(value.least):.1f} {middle:.1f}H{x(value.most):.1f}" stroke="{INK}"/>'
            yield text(WIDTH - 20, middle + 4, value.spread, anchor="end")
        yield "</svg>\n"

    return "\n".join(parts())


def text(x: float, y: float, words: str, colour: str = FAINT, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
