"""Columns that fit a terminal: what is narrower than its content is cut, and what matters least leaves first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size

GAP: Final = 2
_CUT: Final = "…"


@dataclass(frozen=True, slots=True)
class Column:
    """`least`: cells below which it is not cut any further; `most`: that it takes at most; of columns that do not fit,
    those of the lowest `rank` leave first."""

    title: str
    least: int
    most: int
    rank: int = 9
    right: bool = False


def widths(columns: Sequence[Column], contents: Sequence[int], width: int) -> list[int]:
    """The cells of each column in a line of `width`; 0: it is left out. `contents`: of the widest cell of each, 0: it
    has none."""
    wanted = [
        min(max(content, cell_len(column.title)), column.most)
        for column, content in zip(columns, contents, strict=True)
    ]
    least = [min(wish, column.least) for wish, column in zip(wanted, columns, strict=True)]
    kept = list(range(len(columns)))
    for n, content in reversed(list(enumerate(contents))):  # nothing is lost with an empty column
        if not content and n and sum(wanted[k] for k in kept) + GAP * (len(kept) - 1) > width:
            kept.remove(n)
    while len(kept) > 1 and sum(least[n] for n in kept) + GAP * (len(kept) - 1) > width:
        kept.remove(min(kept, key=lambda n: (columns[n].rank, -n)))
    found = [wanted[n] if n in kept else 0 for n in range(len(columns))]
    excess = sum(found) + GAP * (len(kept) - 1) - width
    while excess > 0 and (wide := [n for n in kept if found[n] > least[n]]):
        found[max(wide, key=lambda n: found[n] - least[n])] -= 1
        excess -= 1
    return [min(one, max(width, 1)) for one in found]


def cut(text: str, width: int) -> str:
    """`text` in at most `width` cells."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + _CUT if width > 1 else set_cell_size(text, width)


def cell(text: str, width: int, *, right: bool = False) -> str:
    """`text` in exactly `width` cells."""
    shown = cut(text, width)
    space = " " * (width - cell_len(shown))
    return space + shown if right else shown + space


def printable(text: str) -> str:
    """Without what would control the terminal: clients choose names of models, upstream its reasons."""
    return text if text.isprintable() else "".join(filter(str.isprintable, text))
