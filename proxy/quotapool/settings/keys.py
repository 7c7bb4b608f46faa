"""Gathers the pool's keys from the configuration, a keys_file and the environment; problems name the exact place."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from quotapool.settings.document import read_text
from quotapool.settings.draft import Draft
from quotapool.settings.environment import Variable, Variables
from quotapool.settings.errors import Option, Place, nearest, shown
from quotapool.settings.model import UpstreamKey

COLUMNS: Final = ("id", "secret", "account")  # of a keys_file in CSV

_THREE_WAYS: Final = (
    "no upstream keys. Provide them in one of three ways: OPENAI_API_KEYS=sk-...,sk-... in the environment; "
    "`keys:` in the configuration file; or `keys_file:`, a file with one secret per line"
)


@dataclass(frozen=True, slots=True)
class _Found:
    """An entry as written, and where: `option` in the configuration, or only a place elsewhere."""

    entry: dict[str, Any]
    option: Option
    place: Place | None

    def __str__(self) -> str:
        return ": ".join([str(self.place)] * (self.place is not None) + [shown(self.option)] * bool(self.option))


def gather_keys(draft: Draft, variables: Variables) -> None:
    """Replace the draft's `keys` with checked UpstreamKeys from all sources."""
    written = draft.values.get("keys") or []
    if not isinstance(written, list):
        return  # the model will report it
    found = [*_from_config(written, draft), *_from_keys_file(draft)]
    if variable := variables.get("OPENAI_API_KEYS"):
        found += _from_variable(variable)
    if not found and (variable := variables.get("OPENAI_API_KEY")):
        found += _from_variable(variable)
    none_on_purpose = draft.values.get("keys") == []  # keys will be added at run time
    if not found and not written and not draft.values.get("keys_file") and not none_on_purpose:
        draft.refuse((), _THREE_WAYS, place=draft.place_of(("keys",)))
    keys = [(key, one) for one in found if (key := _checked(one, draft))]
    _refuse_duplicates(keys, draft)
    draft.values["keys"] = [key for key, _ in keys]


def _from_config(written: list[Any], draft: Draft) -> Iterator[_Found]:
    for index, entry in enumerate(written):
        option: Option = ("keys", index)
        if not isinstance(entry, dict):
            draft.refuse(option, "must be a mapping with secret: ${NAME} or secret_file: PATH")
            continue
        if (entry.get("secret") is None) == (entry.get("secret_file") is None):
            draft.refuse(option, "needs either secret: ${NAME} or secret_file: PATH")
            continue
        given = {name: value for name, value in entry.items() if value is not None}
        if isinstance(file := given.get("secret_file"), str):
            draft.files.append(Path(file))
            try:
                given["secret"] = read_text(Path(file))
            except ValueError as error:
                draft.refuse((*option, "secret_file"), str(error))
                continue
        yield _Found(given, option, draft.place_of(option))


def _from_keys_file(draft: Draft) -> Iterator[_Found]:
    file = draft.values.get("keys_file")
    if not isinstance(file, str):
        return
    draft.files.append(Path(file))
    try:
        text = read_text(Path(file))
    except ValueError as error:
        draft.refuse(("keys_file",), str(error))
        return
    lines = [  # (number from 1, text)
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        draft.refuse(("keys_file",), "contains no secrets")
    header = [column.strip().lower() for column in next(csv.reader([lines[0][1]]))] if lines else []
    if "secret" in header:
        yield from _from_csv(file, header, lines, draft)
        return
    for number, line in lines:
        place = Place(file, number)
        if "," in line:
            message = "contains a comma; a CSV file must begin with a header such as id,secret,account"
            draft.refuse((), message, place=place)
        else:
            yield _Found({"secret": line}, (), place)


def _from_csv(file: str, header: list[str], lines: list[tuple[int, str]], draft: Draft) -> Iterator[_Found]:
    unknown = [column for column in header if column not in COLUMNS]
    for column in unknown:
        hint = nearest(column, COLUMNS)
        draft.refuse((column or "empty",), "unknown column", place=Place(file, lines[0][0]), nearest=hint)
    if unknown:
        return
    for number, line in lines[1:]:
        cells = [cell.strip() for cell in next(csv.reader([line]))]
        if len(cells) > len(header):
            draft.refuse((), f"has {len(cells)} cells for {len(header)} columns", place=Place(file, number))
            continue
        entry = {column: cell for column, cell in zip(header, cells, strict=False) if cell}
        yield _Found(entry, (), Place(file, number))


def _from_variable(variable: Variable) -> Iterator[_Found]:
    text = re.sub(r"(?i)\bbearer\s+", "", variable.value)
    for number, secret in enumerate(filter(None, re.split(r"[\s,]+", text)), start=1):
        yield _Found({"secret": secret}, (f"entry {number}",), variable.place)


def _checked(found: _Found, draft: Draft) -> UpstreamKey | None:
    try:
        return UpstreamKey.model_validate(found.entry)
    except ValidationError as error:
        place = None if found.option[:1] == ("keys",) else found.place
        draft.refuse_invalid(error, UpstreamKey, above=found.option, place=place)
        return None


def _refuse_duplicates(keys: list[tuple[UpstreamKey, _Found]], draft: Draft) -> None:
    ids: dict[str, _Found] = {}
    secrets: dict[str, _Found] = {}
    for key, found in keys:
        if first := secrets.get(secret := key.secret.get_secret_value()):
            draft.refuse(found.option, f"has the same secret as {first}", place=found.place)
        elif first := ids.get(key.id):
            draft.refuse(found.option, f"has the same id as {first}", place=found.place)
        secrets.setdefault(secret, found)
        ids.setdefault(key.id, found)
