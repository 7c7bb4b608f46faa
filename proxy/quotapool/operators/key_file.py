"""Reads a file of keys to import, one secret a line or CSV: each line becomes an entry, or the reason why not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from quotapool.operators.keys import KeyEntry
from quotapool.settings.errors import nearest
from quotapool.settings.key_lines import Header, column_of, header_of, secrets_in_line

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
    header: Header | None = None
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
        yield from _lines(number, text, header)


def _header(text: str) -> Header | None:
    if text.startswith(("[", "{")):
        raise BadFile("is JSON; write one secret a line, or a table whose first line is such as secret,id,account")
    header = header_of(text)
    if header is None:
        return None
    for name in header.columns:
        if name not in COLUMNS:
            hint = column_of(name) or nearest(name, COLUMNS)
            raise BadFile(
                f"the first line names an unknown column{f'; did you mean {hint}?' if hint else ''} "
                f"Columns: {', '.join(COLUMNS)}"
            )
    if len(set(header.columns)) < len(header.columns):
        raise BadFile("the first line names a column twice")
    return header


def _lines(number: int, text: str, header: Header | None) -> Iterator[Line]:
    if len(text) > _MOST_BYTES:
        yield Line(number, None, f"is longer than {_MOST_BYTES} characters")
        return
    try:
        if header is None:
            yield from [Line(number, KeyEntry(secret)) for secret in secrets_in_line(text)]
        elif (cells := header.cells(text)) is not None:
            yield _row(number, {name: cell for name, cell in zip(header.columns, cells, strict=False) if cell})
    except ValueError as error:
        yield Line(number, None, str(error))


def _row(number: int, values: dict[str, str]) -> Line:
    if "secret" not in values:
        return Line(number, None, "has no secret")
    settings = _account_settings(values)
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
