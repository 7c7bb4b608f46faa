"""A configuration while it is being gathered: plain values, where each was written, and the problems so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from quotapool.settings import mistakes, tree
from quotapool.settings.errors import Option, Place, Problem

# pydantic's error types in terms of YAML.
_WORDS: Final = {
    "missing": "is required",
    "string_type": "must be text; put quotes around it",
    "model_type": "must be a mapping (lines of name: value)",
    "model_attributes_type": "must be a mapping (lines of name: value)",
    "dict_type": "must be a mapping (lines of name: value)",
    "tuple_type": "must be a list (lines of - item)",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "path_type": "must be a path",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "date_from_datetime_parsing": "must be a day, such as 2026-12-31",
    "date_from_datetime_inexact": "must be a day, such as 2026-12-31",
    "date_parsing": "must be a day, such as 2026-12-31",
    "date_type": "must be a day, such as 2026-12-31",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    "less_than": "must be less than {lt}",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} of them",
    "finite_number": "must be a finite number",
    "int_parsing_size": "must be a whole number",
}


def is_free_text(option: Option) -> bool:
    """Whether it is for people to read: any character may be meant."""
    return option[-1] in {"name", "notes"} or "labels" in option


@dataclass
class Draft:
    """`values` is as YAML would give it; `places` has the origin of each path in it, if it has one: of its name, and
    `value_places` of its value; `sources`: of the options that are gathered from several places, how much came from
    each."""

    values: dict[str, Any] = field(default_factory=dict, repr=False)  # may hold secrets
    places: dict[Option, Place] = field(default_factory=dict)
    value_places: dict[Option, Place] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    _refused: set[tuple[Option, Place | None]] = field(default_factory=set)

    def place_of(self, option: Option) -> Place | None:
        """Where the value of `option` was written, or else its name, or else the innermost section around it."""
        for length in range(len(option), -1, -1):
            above = option[:length]
            if place := self.value_places.get(above) or self.places.get(above):
                return place
        return None

    def put(self, option: Option, value: Any, place: Place) -> None:
        """Override one option, creating the sections around it; places below it are forgotten."""
        section = self.values
        for part in option[:-1]:
            if not isinstance(section.get(str(part)), dict):
                section[str(part)] = {}
            section = section[str(part)]
        section[str(option[-1])] = value
        for places in (self.places, self.value_places):
            for known in [known for known in places if known[: len(option)] == option]:
                del places[known]
        self.places[option] = place

    def refuse(
        self,
        option: Option,
        message: str,
        *,
        place: Place | None = None,
        nearest: str | None = None,
        of_line: bool = False,
    ) -> None:
        usual = self.place_of(option)
        self.problems.append(Problem(message, option, place or usual, nearest, of_line))
        self._refused |= {(option, place or usual), (option, usual)}

    def is_refused(self, option: Option, place: Place | None = None) -> bool:
        """Whether a problem of it is known: a missing ${NAME} would not be a valid URL either."""
        return (option, place or self.place_of(option)) in self._refused

    def refuse_name(self, option: Option, model: type[BaseModel], path: Option, place: Place | None = None) -> None:
        """Refuse the name of `option`, which is at `path` in `model`, where there is no such option."""
        message, nearest = mistakes.remark(tree.section(model, path), str(path[-1])), None
        if message is None:
            message, nearest = "unknown option", tree.meant(model, path)
        self.refuse(option, message, place=place or self.places.get(option), nearest=nearest)

    def refuse_invalid(
        self,
        error: ValidationError,
        model: type[BaseModel],
        *,
        above: Option = (),
        place: Place | None = None,
        of_line: bool = False,
    ) -> None:
        """Refuse everything that pydantic found in `model`, which is at the option `above`."""
        details = error.errors(include_url=False, include_input=False)
        misnamed = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
        meant = {(*path[:-1], tree.meant(model, path)) for path in misnamed}
        for detail in details:
            path = detail["loc"]
            if detail["type"] == "default_factory_not_called" or (detail["type"] == "missing" and path in meant):
                continue  # follows from another error of the same entry
            if path and path[-1] == "[key]":  # pydantic's mark for the name of a mapping's entry
                path = path[:-1]
            option = (*above, *path)
            if self.is_refused(option, place):
                continue
            if path in misnamed:
                self.refuse_name(option, model, path, place)
            else:
                self.refuse(option, _in_words(detail), place=place, of_line=of_line)


def problems_of(error: ValidationError, model: type[BaseModel]) -> str:
    """Everything that pydantic found in `model`, in one line, in the words that the configuration's problems have."""
    draft = Draft()
    draft.refuse_invalid(error, model)
    return "; ".join(map(str, draft.problems))


def _in_words(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "value_error":
        return str(context["error"])
    if words := _WORDS.get(detail["type"]):
        return words.format(**context)
    return detail["msg"].replace("Input should", "must", 1)
