"""Every option in force with its value and where it comes from, as rows for the admin API and `quotapool config`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from quotapool.domain.redact import mask
from quotapool.settings import Settings
from quotapool.settings.errors import Option, shown
from quotapool.shapes.work import Configuration, OptionRow

HIDDEN: Final = "********"
DEFAULT: Final = "default"
STORE: Final = "store"
_MOST_ENTRIES: Final = 50  # of a mapping or a list of sections: more are summed up
_LONGEST: Final = 1_000  # characters of a value
_SUMMED_UP: Final = frozenset({"keys", "clients"})
_COLUMN: Final = re.compile(r"(:\d+):\d+$")  # of a file, which also has a line
_LOGIN: Final = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_PLAIN_URL: Final = re.compile(
    r"(?P<scheme>[a-z+]+)://(?P<login>[^/?#@\s]*@)?(?P<place>[\w.,:\[\]/-]*)(?P<query>\?[^?@\s]*)?", re.ASCII
)
_KINDS_OF_URL: Final = frozenset({"redis", "https", "http"})  # names of options: of an alert's URL the path is secret


def configuration(merged: Settings, configured: Settings, after_restart: Sequence[str]) -> Configuration:
    """`configured`: as it was loaded; `merged`: with what the store adds; `after_restart`: options whose new value
    waits for a restart."""
    return Configuration(
        configured.origin.loaded_at,
        list(option_rows(merged, configured)),
        list(configured.warnings),
        list(after_restart),
    )


def option_rows(merged: Settings, configured: Settings) -> Iterator[OptionRow]:
    """Each option that has a value of its own; thousands of keys, clients or accounts are one row."""
    rows = _Rows(configured.origin.places, frozenset(configured.accounts))
    for name in Settings.model_fields:
        if name in _SUMMED_UP:
            yield _summed_up(name, getattr(merged, name), getattr(configured, name), configured.origin.places)
        else:
            yield from rows.of((name,), merged if name == "accounts" else configured, name)


def _summed_up(name: str, merged: Sequence[Any], configured: Sequence[Any], places: Mapping[str, str]) -> OptionRow:
    sources = [source] if (source := places.get(name)) and configured else []
    if more := len(merged) - len(configured):
        sources.append(f"{STORE}: {more:,}")
    return OptionRow(name, f"{len(merged):,} {name}", ", ".join(sources) or DEFAULT, f"0 {name}")


class _Rows:
    """Walks through sections. `places`: as `Origin` has them; `written`: accounts that the configuration has."""

    def __init__(self, places: Mapping[str, str], written: frozenset[str]) -> None:
        self._places = places
        self._written = written

    def of(self, option: Option, section: BaseModel, name: str) -> Iterator[OptionRow]:
        """The rows of one field of a section."""
        value, field = getattr(section, name), type(section).model_fields[name]
        given = name in section.model_fields_set
        if isinstance(value, BaseModel):
            for inner in type(value).model_fields:
                yield from self.of((*option, inner), value, inner)
        elif isinstance(value, dict) and any(isinstance(item, BaseModel) for item in value.values()):
            yield from self._entries(option, name, list(value.items()))
        elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
            yield from self._entries(option, name, list(enumerate(value)))
        else:
            yield OptionRow(shown(option), text_of(name, value), self._source(option, given=given), _default(field))

    def _entries(self, option: Option, name: str, entries: list[tuple[Any, Any]]) -> Iterator[OptionRow]:
        """Of each entry what was given for it."""
        if len(entries) > _MOST_ENTRIES:
            source = self._source(option, given=True)
            yield OptionRow(shown(option), f"{len(entries):,} {name}", source, f"0 {name}")
            return
        for key, entry in entries:
            if not isinstance(entry, BaseModel):
                source = self._source((*option, key), given=True)
                yield OptionRow(shown((*option, key)), text_of(str(key), entry), source, None)
                continue
            for inner in sorted(entry.model_fields_set, key=list(type(entry).model_fields).index):
                yield from self.of((*option, key, inner), entry, inner)

    def _source(self, option: Option, *, given: bool) -> str:
        """Where it, or the innermost section around it, was written."""
        if option[0] == "accounts" and len(option) > 1 and option[1] not in self._written:
            return STORE
        for length in range(len(option), 0, -1):
            place = self._places.get(shown(option[:length]))
            if place is not None and (given or length == len(option)):
                return _COLUMN.sub(r"\1", place)
        return DEFAULT


def text_of(name: str, value: Any) -> str:
    """A value as text, without secrets. `name`: of the option."""
    if isinstance(value, SecretStr):
        return _url(value.get_secret_value()) if name in _KINDS_OF_URL else HIDDEN
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, str | Path):
        return _clean(str(value))
    if isinstance(value, tuple) and not value:
        return ""
    if isinstance(value, tuple) and all(isinstance(item, str | int | float) for item in value):
        return _clean(", ".join(f"{item:.12g}" if isinstance(item, float) else str(item) for item in value))
    if isinstance(value, dict | tuple):
        return _clean(msgspec.json.encode(to_jsonable_python(value)).decode()) if value else ""
    return _clean(str(value))


def _clean(text: str) -> str:
    hidden = mask(_LOGIN.sub(HIDDEN, text))
    return hidden if len(hidden) <= _LONGEST else f"{hidden[:_LONGEST]}…"


def _url(text: str) -> str:
    """A URL without its login and its query, which may hold passwords. Any that is written in an odd way is hidden."""
    found = _PLAIN_URL.fullmatch(text)
    if found is None:
        return HIDDEN
    login, query = found["login"] and f"{HIDDEN}@", found["query"] and f"?{HIDDEN}"
    return f"{found['scheme']}://{login or ''}{found['place']}{query or ''}"


def _default(field: FieldInfo) -> str | None:
    """As text; None if there is none, or it depends on the machine."""
    if field.default is not PydanticUndefined:
        return text_of("", field.default)
    return None
