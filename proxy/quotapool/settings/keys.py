"""Gathers the pool's keys from the configuration, a keys_file and the environment; problems name the exact place."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from quotapool.settings.document import read_text
from quotapool.settings.draft import Draft
from quotapool.settings.environment import Variable, Variables
from quotapool.settings.errors import Option, Place, nearest, shown
from quotapool.settings.model import UpstreamKey, default_key_id
from quotapool.settings.places import sources_of
from quotapool.settings.values import sha256_hex

_LINES_SHOWN: Final = 20  # bad ones of a keys_file, one warning each
COLUMNS: Final = ("id", "secret", "account")  # of a keys_file in CSV

_THREE_WAYS: Final = (
    "no upstream keys. Provide them in one of three ways: OPENAI_API_KEYS=sk-...,sk-... in the environment; "
    "`keys:` in the configuration file; or `keys_file:`, a file with one secret per line"
)


@dataclass(frozen=True, slots=True)
class _Found:
    """An entry as written, and where: `option` in the configuration, or only a place elsewhere; `is_line`: in a
    keys_file."""

    entry: dict[str, Any]
    option: Option
    place: Place | None
    is_line: bool = False

    def __str__(self) -> str:
        return ": ".join([str(self.place)] * (self.place is not None) + [shown(self.option)] * bool(self.option))


_Key = tuple[UpstreamKey, _Found]


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
    keys = _with_own_ids(_without_duplicates(keys, draft))
    if draft.values.get("bad_key_lines") != "refuse" and any(one.is_line for _, one in keys):
        _leave_out_bad_lines(draft)
    draft.values["keys"] = [key for key, _ in keys]
    draft.sources["keys"] = sources_of(one.place for _, one in keys)


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
            draft.refuse((), message, place=place, of_line=True)
        else:
            yield _Found({"secret": line}, (), place, is_line=True)


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
            draft.refuse(
                (), f"has {len(cells)} cells for {len(header)} columns", place=Place(file, number), of_line=True
            )
            continue
        entry = {column: cell for column, cell in zip(header, cells, strict=False) if cell}
        yield _Found(entry, (), Place(file, number), is_line=True)


def _from_variable(variable: Variable) -> Iterator[_Found]:
    text = re.sub(r"(?i)\bbearer\s+", "", variable.value)
    for number, secret in enumerate(filter(None, re.split(r"[\s,]+", text)), start=1):
        yield _Found({"secret": secret}, (f"entry {number}",), variable.place)


def _checked(found: _Found, draft: Draft) -> UpstreamKey | None:
    try:
        return UpstreamKey.model_validate(found.entry)
    except ValidationError as error:
        place = None if found.option[:1] == ("keys",) else found.place
        draft.refuse_invalid(error, UpstreamKey, above=found.option, place=place, of_line=found.is_line)
        return None


def _without_duplicates(keys: list[_Key], draft: Draft) -> list[_Key]:
    """Refuse a secret or a written id that an earlier key has; the keys that are left."""
    ids: dict[str, _Found] = {}
    secrets: dict[str, _Found] = {}
    kept: list[_Key] = []
    for key, found in keys:
        if first := secrets.get(secret := key.secret.get_secret_value()):
            draft.refuse(found.option, f"has the same secret as {first}", place=found.place, of_line=found.is_line)
        elif "id" in found.entry and (first := ids.get(key.id)):
            draft.refuse(found.option, f"has the same id as {first}", place=found.place, of_line=found.is_line)
        else:
            kept.append((key, found))
        secrets.setdefault(secret, found)
        if "id" in found.entry:
            ids.setdefault(key.id, found)
    return kept


def _with_own_ids(keys: list[_Key]) -> list[_Key]:
    """Lengthen default ids that are another key's too. Which ones does not depend on the order of the keys, so that all
    replicas agree: a written id stays, and of default ones that of the smallest hash."""
    written = {key.id for key, found in keys if "id" in found.entry}
    same: defaultdict[str, list[int]] = defaultdict(list)
    for index, (key, found) in enumerate(keys):
        if "id" not in found.entry:
            same[key.id].append(index)
    taken = written | same.keys()
    changed = dict(enumerate(keys))
    for name, indexes in same.items():
        indexes.sort(key=lambda index: sha256_hex(keys[index][0].secret.get_secret_value()))
        for index in indexes if name in written else indexes[1:]:
            key, found = keys[index]
            longer = default_key_id(key.secret.get_secret_value(), taken.__contains__)
            taken.add(longer)
            changed[index] = UpstreamKey.model_validate({**found.entry, "id": longer}), found
    return list(changed.values())


def _leave_out_bad_lines(draft: Draft) -> None:
    """Of thousands of lines one may be bad: it becomes a warning, and the others serve."""
    bad = [problem for problem in draft.problems if problem.of_line]
    draft.problems = [problem for problem in draft.problems if not problem.of_line]
    draft.warnings += [f"{problem}; this line is left out" for problem in bad[:_LINES_SHOWN]]
    if len(bad) > _LINES_SHOWN:
        draft.warnings.append(f"{draft.values['keys_file']}: {len(bad) - _LINES_SHOWN} more lines are left out")
