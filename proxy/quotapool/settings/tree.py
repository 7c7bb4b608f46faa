"""The tree of all options, derived from the models: what is at a path, and what may be below it."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from quotapool.settings.errors import Option, nearest
from quotapool.settings.mistakes import in_other_words


def bare(annotation: Any) -> Any:
    """The annotation without `Annotated[...]` and `| None`."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin is Union or origin is UnionType:
            annotation = next(part for part in get_args(annotation) if part is not NoneType)
        else:
            return annotation


def is_nullable(annotation: Any) -> bool:
    return NoneType in get_args(annotation)


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def at(root: Any, option: Option) -> Any:
    """The annotation at `option` below the model `root`; None if there is no such option."""
    here = root
    for part in option:
        here = bare(here)
        if is_model(here):
            field = here.model_fields.get(part)
            here = field.annotation if field else None
        elif get_origin(here) is tuple:
            here = get_args(here)[0]
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        else:
            return None
    return here


def walk(model: type[BaseModel], above: Option = ()) -> Iterator[tuple[Option, Any]]:
    """Every option with a fixed name, sections before their contents."""
    for name, field in model.model_fields.items():
        yield (*above, name), field.annotation
        inner = bare(field.annotation)
        if is_model(inner):
            yield from walk(inner, (*above, name))


def section(root: type[BaseModel], option: Option) -> type[BaseModel] | None:
    """The model that `option` would be a field of."""
    parent = bare(at(root, option[:-1]))
    return parent if is_model(parent) else None


def meant(root: type[BaseModel], option: Option) -> str | None:
    """The real option closest to `option`, which does not exist: what other products' word for it means here, a
    sibling, else one of the same name elsewhere."""
    name = str(option[-1])
    if parent := section(root, option):
        if word := in_other_words(parent, name):
            return word
        if sibling := nearest(name, parent.model_fields):
            return sibling
    return next((".".join(map(str, path)) for path, _ in walk(root) if path[-1] == name), None)
