"""Requests in queues, as they are counted for operators: by what they wait for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

OTHER: Final = "other"
MOST: Final = 50
"""Rows of one list."""


class Waiting(msgspec.Struct, array_like=True):
    """`waiting` requests that wait for the same. `dimension`: of the pool's budgets, "": not known; `rule`: of the
    client, "": they wait for the pool. `longest_s`: how long the first of them has waited."""

    model: str
    dimension: str
    client: str
    rule: str
    waiting: int
    longest_s: float


def added_up(rows: Iterable[Waiting]) -> list[Waiting]:
    """One row for each thing to wait for, those with most requests first. What is beyond `MOST` rows is in a last one,
    whose model and client are `other`."""
    found: dict[tuple[str, str, str, str], Waiting] = {}
    for row in rows:
        _add(found, (row.model, row.dimension, row.client, row.rule), row)
    ordered = sorted(found.values(), key=lambda row: (-row.waiting, row.model, row.client, row.dimension, row.rule))
    if len(ordered) <= MOST:
        return ordered
    rest: dict[tuple[str, str, str, str], Waiting] = {}
    for row in ordered[MOST - 1 :]:
        _add(rest, (OTHER, "", OTHER, ""), row)
    return [*ordered[: MOST - 1], *rest.values()]


def _add(found: dict[tuple[str, str, str, str], Waiting], name: tuple[str, str, str, str], row: Waiting) -> None:
    known = found.get(name)
    if known is None:
        found[name] = Waiting(*name, row.waiting, row.longest_s)
    else:
        known.waiting += row.waiting
        known.longest_s = max(known.longest_s, row.longest_s)
