"""Reads secrets from what people paste: lines, lists, NAME=value, JSON, tables. A table's header never becomes a key.

What is beyond doubt is accepted; the rest raises ValueError with the way to write it, which never shows the text. Pure.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from typing import Final

from quotapool.settings.mistakes import WORDS, plain
from quotapool.settings.values import clean_secret

COLUMNS: Final = ("id", "secret", "account")
_DELIMITERS: Final = {",": "a comma", ";": "a semicolon", "|": "a vertical bar", "\t": "a tab"}
_BETWEEN: Final = re.compile(r"[\s,;|]+")
_COPIED: Final = re.compile(r"(?i)\b(?:bearer|export)\s+")
_COMMENT: Final = re.compile(r"\s+#.*")
_ASSIGNED: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>[^=\s].*)", re.DOTALL)
_OF_A_KEY: Final = re.compile(r"(?i)\w*OPENAI\w*|(?:API_?)?KEYS?_?\d*|SECRET_?\d*")
_BEGINNING: Final = "sk-"
_RULE: Final = re.compile(r"[-=+|:\s]+")  # below the header of a Markdown table


@dataclass(frozen=True, slots=True)
class Header:
    """The names of a table's columns, in lower case, and what is between its cells."""

    columns: tuple[str, ...]
    delimiter: str

    def cells(self, line: str) -> list[str] | None:
        """One line's; None for a line that has none, as below the header of a Markdown table. Raises ValueError."""
        if self.delimiter == "|":
            if _RULE.fullmatch(line):
                return None
            line = line.strip().strip("|")
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], delimiter=self.delimiter, strict=True), [])]
        except csv.Error:
            raise ValueError("has an unclosed quote") from None
        if len(cells) > len(self.columns):
            raise ValueError(f"has {len(cells)} cells for {len(self.columns)} columns")
        return cells


def header_of(line: str) -> Header | None:
    """The header of a table, if this is one: a cell says that the secrets are in its column, or all name columns."""
    if _BEGINNING in line.lower():
        return None
    delimiter = next((one for one in _DELIMITERS if one in line), ",")
    names = [plain(cell.strip().strip("'\"")) for cell in line.strip().strip("|").split(delimiter)]
    columns = [column_of(name) for name in names]
    return Header(tuple(names), delimiter) if "secret" in columns or all(columns) else None


def column_of(name: str) -> str | None:
    """Our column for this one's name: `api_key` is our `secret`."""
    name = plain(name)
    found = name if name in COLUMNS else WORDS["UpstreamKey"].get(name)
    return found if found in COLUMNS else None


def in_lines(text: str) -> str:
    """The text with a JSON list of texts as lines of it. Raises ValueError for other JSON."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list) and all(isinstance(one, str) for one in found):
        return "\n".join(one.replace("\n", " ") for one in found)
    raise ValueError('is neither one secret a line nor a JSON list of them, as in ["sk-...", "sk-..."]')


def secrets_in_line(line: str) -> list[str]:
    """The secrets of one line of a file that has no header: one, or several if all begin with sk-."""
    line = _COMMENT.sub("", line.removeprefix("- ")).strip()
    secrets = secrets_in(line)
    if len(secrets) > 1 and not all(secret.startswith(_BEGINNING) for secret in secrets):
        if found := next((name for one, name in _DELIMITERS.items() if one in line), None):
            raise ValueError(f"contains {found}; a table must begin with a header such as id,secret,account")
        return [line]
    return secrets


def secrets_in(text: str) -> list[str]:
    """All secrets of a text, whatever is between them; `NAME=value` counts as the value if it is a key of OpenAI's."""
    text = _COPIED.sub("", text)
    found = _ASSIGNED.fullmatch(text.strip())
    if found and " = " in text:
        text = f"{found['name']}={found['value']}"
    return [_value(piece) for piece in _BETWEEN.split(text) if clean_secret(piece)]


def _value(piece: str) -> str:
    found = _ASSIGNED.fullmatch(clean_secret(piece))
    if found is None:
        return clean_secret(piece)
    value = clean_secret(found["value"])
    if value.startswith(_BEGINNING) and _OF_A_KEY.fullmatch(found["name"]):
        return value
    raise ValueError("is NAME=value; write the secret alone, without the name")
