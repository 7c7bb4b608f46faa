"""Reads a file of keys to import, one secret a line or CSV: each line becomes an entry, or the reason why not."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from quotapool.operators.keys import KeyEntry
from quotapool.settings.errors import nearest

COLUMNS: Final = ("secret", "id", "account", "tier", "weight", "grant_usd", "granted_on", "expires_on")
_MOST_BYTES: Final = 4096  # of one line


class BadFile(Exception):
    """The file as a whole is not understood."""


@dataclass(frozen=True, slots=True)
class Line:
    """`entry` None: `problem` has the reason, which never shows the content of the line."""

    number: int
    entry: KeyEntry | None
    problem: str = ""


def read(lines: Iterable[str]) -> Iterator[Line]:
    """A Line for each that is neither empty nor a comment. Raises BadFile for a wrong header."""
    header: list[str] | None = None
    first = True
    for number, raw in enumerate(lines, start=1):
        text = raw.removeprefix("\ufeff").strip()
        if not text or text.startswith("#"):
            continue
        if first:
            first = False
            header = _header(text)
            if header is not None:
                continue
        yield _line(number, text, header)


def _header(text: str) -> list[str] | None:
    names = [cell.strip().lower() for cell in next(csv.reader([text]), [])]
    if "secret" not in names:
        return None
    for name in names:
        if name not in COLUMNS:
            hint = nearest(name, COLUMNS)
            raise BadFile(
                f"the first line names an unknown column{f'; did you mean {hint}?' if hint else ''} "
                f"Columns: {', '.join(COLUMNS)}"
            )
    if len(set(names)) < len(names):
        raise BadFile("the first line names a column twice")
    return names


def _line(number: int, text: str, header: list[str] | None) -> Line:
    if len(text) > _MOST_BYTES:
        return Line(number, None, f"is longer than {_MOST_BYTES} characters")
    if header is None:
        if "," in text:
            return Line(number, None, "has a comma; a CSV file begins with a line such as secret,id,account")
        return Line(number, KeyEntry(text))
    try:
        cells = [cell.strip() for cell in next(csv.reader([text], strict=True))]
    except csv.Error:
        return Line(number, None, "has an unclosed quote")
    if len(cells) > len(header):
        return Line(number, None, f"has {len(cells)} cells for {len(header)} columns")
    values = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
    if "secret" not in values:
        return Line(number, None, "has no secret")
    try:
        settings = _account_settings(values)
    except ValueError as error:
        return Line(number, None, str(error))
    return Line(number, KeyEntry(values["secret"], values.get("id"), values.get("account"), settings))


def _account_settings(values: dict[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if "tier" in values:
        settings["tier"] = values["tier"]
    if "weight" in values:
        settings["weight"] = _number("weight", values["weight"])
    dates = {name: values[name] for name in ("granted_on", "expires_on") if name in values}
    if "grant_usd" in values:
        settings["grants"] = [{"usd": _number("grant_usd", values["grant_usd"]), **dates}]
    elif dates:
        raise ValueError("has the dates of a grant and no grant_usd")
    return settings


def _number(name: str, text: str) -> float:
    try:
        value = float(text.removeprefix("$"))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number greater than 0")
    return value
