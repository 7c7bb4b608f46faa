"""Gathers the pool's keys from the configuration, a keys_file and the environment; problems name the exact place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from quotapool.settings.document import read_text
from quotapool.settings.draft import Draft
from quotapool.settings.environment import Variable, Variables
from quotapool.settings.errors import Option, Place, nearest, shown
from quotapool.settings.key_lines import COLUMNS, Header, column_of, header_of, in_lines, secrets_in, secrets_in_line
from quotapool.settings.model import UpstreamKey, default_key_id
from quotapool.settings.places import sources_of
from quotapool.settings.secret_kinds import is_openai, not_of_openai
from quotapool.settings.tree import meant
from quotapool.settings.values import clean_secret, parse_upstream, sha256_hex

_LINES_SHOWN: Final = 20  # bad ones of a keys_file, one warning each

_BASE_URLS: Final = ("OPENAI_BASE_URL", "OPENAI_API_BASE")  # of SDKs; the second until 2023
_THREE_WAYS: Final = (
    "no upstream keys{}. Provide them in one of three ways: OPENAI_API_KEYS=sk-...,sk-... in the environment; "
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
    problems = len(draft.problems)
    if variable := variables.get("OPENAI_API_KEYS"):
        found += _from_variable(variable, draft)
    ignored = None
    if not found and (variable := variables.get("OPENAI_API_KEY")) and variable.value.strip():
        if ignored := why_a_clients(variables, draft.values):
            draft.warnings.append(f"{variable.place}: is ignored: {ignored}")
        else:
            found += _from_variable(variable, draft)
    none_on_purpose = draft.values.get("keys") == []  # keys will be added at run time
    is_none = not found and not written and not draft.values.get("keys_file") and len(draft.problems) == problems
    if is_none and not none_on_purpose:
        why = f" (OPENAI_API_KEY is ignored: {ignored})" if ignored else ""
        draft.refuse((), _THREE_WAYS.format(why), place=draft.place_of(("keys",)))
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
            misnamed = [name for name in entry if name not in UpstreamKey.model_fields]
            if not any(meant(UpstreamKey, (name,)) in {"secret", "secret_file"} for name in misnamed):
                draft.refuse(option, "needs either secret: ${NAME} or secret_file: PATH")
            for name in misnamed:
                draft.refuse_name((*option, name), UpstreamKey, (name,))
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
    try:
        text = in_lines(text)
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
    elif header := header_of(lines[0][1]):
        yield from _from_table(file, header, lines, draft)
    else:
        for number, line in lines:
            place = Place(file, number)
            try:
                secrets = secrets_in_line(line)
            except ValueError as error:
                draft.refuse((), str(error), place=place, of_line=True)
                continue
            for secret in secrets:
                yield _Found({"secret": secret}, (), place, is_line=True)


def _from_table(file: str, header: Header, lines: list[tuple[int, str]], draft: Draft) -> Iterator[_Found]:
    unknown = [column for column in header.columns if column not in COLUMNS]
    for column in unknown:
        hint = column_of(column) or nearest(column, COLUMNS)
        name = column if hint else f"column {header.columns.index(column) + 1}"  # which may be a secret
        draft.refuse((name,), "unknown column", place=Place(file, lines[0][0]), nearest=hint)
    if unknown:
        return
    for number, line in lines[1:]:
        place = Place(file, number)
        try:
            cells = header.cells(line)
        except ValueError as error:
            draft.refuse((), str(error), place=place, of_line=True)
            continue
        if cells is not None:
            entry = {column: cell for column, cell in zip(header.columns, cells, strict=False) if cell}
            yield _Found(entry, (), place, is_line=True)


def _from_variable(variable: Variable, draft: Draft) -> Iterator[_Found]:
    try:
        text = in_lines(variable.value)
        if header_of(next(iter(text.strip().splitlines()), "")):
            raise ValueError("is a table; write secrets with commas between them, or give keys_file: PATH")
        secrets = secrets_in(text)
    except ValueError as error:
        draft.refuse((), str(error), place=variable.place)
        return
    for number, secret in enumerate(secrets, start=1):
        yield _Found({"secret": secret}, (f"entry {number}",), variable.place)


def why_a_clients(variables: Variables, values: Mapping[str, Any]) -> str | None:
    """Why OPENAI_API_KEY is what a client sends to a proxy and no key of the pool; None if it may be one."""
    secret = clean_secret(variables["OPENAI_API_KEY"].value)
    base = next((found.value for name in _BASE_URLS if (found := variables.get(name)) and found.value.strip()), None)
    upstream = values.get("upstream")
    if secret.startswith("qp-"):
        return "it is a client key of Quotapool"
    if base is not None and _place_of(base) != _place_of(upstream or "https://api.openai.com"):
        return "OPENAI_BASE_URL names another server than `upstream`, so it is a key for that one"
    if is_openai(upstream) and not secret.startswith("sk-"):
        return "it is no key of OpenAI's (sk-...)"
    return None


def _place_of(url: object) -> str | None:
    try:
        return parse_upstream(url)
    except ValueError:
        return None


def _checked(found: _Found, draft: Draft) -> UpstreamKey | None:
    place = None if found.option[:1] == ("keys",) else found.place
    secret = found.entry.get("secret")
    if found.entry.get("upstream") is None and is_openai(draft.values.get("upstream")) and isinstance(secret, str):
        option: Option = (*found.option, "secret")
        if draft.is_refused(option, place):
            return None
        if why := not_of_openai(clean_secret(secret)):
            draft.refuse(option, why, place=place, of_line=found.is_line)
            return None
    try:
        return UpstreamKey.model_validate(found.entry)
    except ValidationError as error:
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
