"""A configuration while it is being gathered: plain values, where each was written, and the problems so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from quotapool.settings import tree
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
}


@dataclass
class Draft:
    """`values` is as YAML would give it; `places` has the origin of each path in it, if it has one; `sources`: of the
    options that are gathered from several places, how much came from each."""

    values: dict[str, Any] = field(default_factory=dict, repr=False)  # may hold secrets
    places: dict[Option, Place] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    _refused: set[tuple[Option, Place | None]] = field(default_factory=set)

    def place_of(self, option: Option) -> Place | None:
        """Where `option` was written, or else the innermost section around it."""
        for length in range(len(option), -1, -1):
            if place := self.places.get(option[:length]):
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
        for known in [known for known in self.places if known[: len(option)] == option]:
            del self.places[known]
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
        place = place or self.place_of(option)
        self.problems.append(Problem(message, option, place, nearest, of_line))
        self._refused.add((option, place))

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
        for detail in error.errors(include_url=False, include_input=False):
            path = detail["loc"]
            if detail["type"] == "default_factory_not_called":
                continue  # follows from another error of the same entry
            if detail["type"] == "extra_forbidden":
                message, nearest = "unknown option", tree.meant(model, path)
            else:
                message, nearest = _in_words(detail), None
            if path and path[-1] == "[key]":  # pydantic's mark for the name of a mapping's entry
                path = path[:-1]
            option = (*above, *path)
            if (
                option,
                place or self.place_of(option),
            ) not in self._refused:  # a missing ${NAME} would not be a valid URL either
                self.refuse(option, message, place=place, nearest=nearest, of_line=of_line)


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
