"""The environment: a .env file, QUOTAPOOL_... overrides, and ${NAME} in the configuration file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_origin

import yaml
from dotenv.parser import parse_stream

from quotapool.settings import tree
from quotapool.settings.document import read_text
from quotapool.settings.draft import Draft, is_free_text
from quotapool.settings.errors import Option, Place, Problem, nearest
from quotapool.settings.mistakes import in_other_words
from quotapool.settings.model import Settings

PREFIX: Final = "QUOTAPOOL_"
CONFIG: Final = "QUOTAPOOL_CONFIG"  # names the file itself, so it is not an option in it

_PLACEHOLDER: Final = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}")
# How other programs write it: $NAME, $(NAME), $env:NAME, %NAME%, {{ NAME }}, os.environ/NAME, env:NAME.
_OTHER_WAY: Final = re.compile(
    r"\$[A-Z_][A-Z0-9_]*|\$\(\w+\)|\$env:\w+|%\w+%|\$?\{\{.*\}\}|os\.environ(?:/|\.|\[)\S+|(?:env|ENV)[:/.]\w+"
)
_WITH_DEFAULT: Final = re.compile(r"\$\{[A-Za-z_]\w*:?[-=?+]")
_NO_DEFAULT: Final = "has a default within ${ }, which is not supported; write ${NAME}, and set the variable"
_NOT_A_NAME: Final = "contains ${ without a valid ${NAME}, which has only letters, digits and _"
# Kubernetes puts these into every pod of a namespace that has a Service named quotapool, or quotapool-something.
_SERVICE_LINK: Final = re.compile(r"QUOTAPOOL_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")
_SERVICE_LINK_URL: Final = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable and where it was set."""

    value: str = field(repr=False)  # may be a secret
    place: Place


Variables = dict[str, Variable]


def read_variables(env: Mapping[str, str], env_file: Path | None, draft: Draft) -> Variables:
    """The .env file's variables, overridden by the real environment. `$` in a .env file is an ordinary character."""
    variables: Variables = {}
    if env_file is not None:
        draft.files.append(env_file)
        variables = _read_env_file(env_file, draft)
    for name, value in env.items():
        variables[name] = Variable(value, Place(f"environment variable {name}"))
    return variables


def _read_env_file(path: Path, draft: Draft) -> Variables:
    try:
        text = read_text(path)
    except ValueError as error:
        draft.problems.append(Problem(str(error), place=Place(str(path))))
        return {}
    variables: Variables = {}
    for binding in parse_stream(io.StringIO(text)):
        leading = binding.original.string[: -len(binding.original.string.lstrip()) or None]
        place = Place(str(path), binding.original.line + leading.count("\n"))
        if binding.error or (binding.key is not None and binding.value is None):
            draft.problems.append(Problem("must be NAME=value", place=place))
        elif binding.key is not None and binding.value is not None:
            variables[binding.key] = Variable(binding.value, place)
    return variables


def fill_in(draft: Draft, variables: Variables) -> set[str]:
    """Replace every ${NAME} in the draft's texts; returns the names that were used."""
    used = {name for text in _texts(draft.values) for name in _PLACEHOLDER.findall(text)}
    draft.values = {name: _filled(value, (name,), draft, variables) for name, value in draft.values.items()}
    return used


def _texts(value: Any) -> Iterator[str]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, str):
        yield value
    for item in items:
        yield from _texts(item)


def _filled(value: Any, option: Option, draft: Draft, variables: Variables) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, (*option, name), draft, variables) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, (*option, index), draft, variables) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    if _OTHER_WAY.fullmatch(value.strip()) and not is_free_text(option):
        draft.refuse(option, "is the text itself, not a variable's value; for that write ${NAME}")
    if "${" not in value:
        return value
    missing = [name for name in _PLACEHOLDER.findall(value) if name not in variables]
    for name in missing:
        hint = nearest(name, variables)
        draft.refuse(option, f"the environment variable {name} is not set", nearest=hint)
    if "${" in _PLACEHOLDER.sub("", value):
        draft.refuse(option, _NO_DEFAULT if _WITH_DEFAULT.search(value) else _NOT_A_NAME)
    return _PLACEHOLDER.sub(lambda found: variables[found["name"]].value if not missing else "-", value)


def apply_overrides(draft: Draft, variables: Variables, used: AbstractSet[str]) -> None:
    """QUOTAPOOL_QUEUE__MAX_WAIT=5s sets queue.max_wait. Lists and mappings are YAML; empty means not set.

    `used` are the names of variables that the file itself refers to: they may have any name.
    """
    options = {PREFIX + "__".join(map(str, path)).upper(): path for path, _ in tree.walk(Settings)}
    for name, variable in variables.items():
        if not name.startswith(PREFIX) or name == CONFIG or not variable.value.strip():
            continue
        if name in options:
            _override(draft, options[name], variable)
        elif name not in used and not _from_kubernetes(name, variable.value):
            hint = _meant(name, options)
            source = f"{variable.place}: " if name not in str(variable.place) else ""
            problem = Problem("unknown option", place=Place(f"{source}environment variable {name}"), nearest=hint)
            draft.problems.append(problem)


def _meant(name: str, options: Mapping[str, Option]) -> str | None:
    """QUOTAPOOL_PORT means QUOTAPOOL_LISTEN."""
    word = in_other_words(Settings, name.removeprefix(PREFIX)) or ""
    variable = PREFIX + word.partition(":")[0].replace(".", "__").upper()
    return variable if variable in options else nearest(name, options)


def _from_kubernetes(name: str, value: str) -> bool:
    link = _SERVICE_LINK.fullmatch(name)
    return link is not None and ("SERVICE_" in name or "_PORT_" in name or bool(_SERVICE_LINK_URL.match(value)))


def _override(draft: Draft, option: Option, variable: Variable) -> None:
    annotation = tree.at(Settings, option)
    kind = tree.bare(annotation)
    value: Any = variable.value.strip()
    if tree.is_nullable(annotation) and value.lower() in {"null", "none"}:
        value = None
    elif get_origin(kind) is tuple and not value.startswith("["):
        value = [item.strip() for item in value.split(",") if item.strip()]
    elif get_origin(kind) in {tuple, dict} or tree.is_model(kind):
        try:
            value = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):
            draft.refuse(option, "must be a YAML list or mapping on one line", place=variable.place)
            return
    draft.put(option, value, variable.place)
