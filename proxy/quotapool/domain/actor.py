"""Who does something to the pool, as the records of changes name them, and which role their names earn. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal

Role = Literal["viewer", "operator"]

LONGEST_NAME: Final = 128


@dataclass(frozen=True, slots=True)
class Actor:
    """`name`: of a user, or `admin token`. `by`: how it is known. `address`: the IP address of the call, "" if it came
    from the command line."""

    name: str
    role: Role
    by: Literal["token", "link", "oidc", "header", "command"]
    address: str = ""


def role_of(values: Iterable[str], operators: Iterable[str], viewers: Iterable[str]) -> Role | None:
    """The highest role that one of `values` (groups, or a name) earns by the patterns (`*`, `?`, `[…]`; upper and lower
    case count); None: none."""
    given = tuple(values)
    if _any_matches(given, operators):
        return "operator"
    return "viewer" if _any_matches(given, viewers) else None


def _any_matches(values: tuple[str, ...], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns for value in values)


def is_name(text: str) -> bool:
    """Whether this can stand in a record as somebody's name: not empty, short, and nothing that controls a terminal."""
    return 0 < len(text) <= LONGEST_NAME and text.isprintable() and text == text.strip()
