"""Problems of a configuration, each reported once and clearly: where, which option, why, what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Option = tuple[str | int, ...]  # ("keys", 2, "account") is shown as keys[2].account

_SHOWN_AT_MOST: Final = 50
_PLAIN_NAME: Final = re.compile(r"[\w-]{1,64}( \d+)?")
_LIKE_A_SECRET: Final = re.compile(
    r"(?i)\W*(bearer\W+)?((sk|sess|xai|pplx|nvapi|csk|qp)-|(gsk|hf|r8|ghp|whsec)_|aiza|akia)|.{65,}", re.DOTALL
)


def shown(option: Option) -> str:
    """`keys[2].account`, `limits.models["gpt-4o*"].rpm`. A name that could be a misplaced secret is masked."""
    text = ""
    for part in option:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _LIKE_A_SECRET.match(part):
            text += f'["{_mask(part)}"]'
        elif _PLAIN_NAME.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f'["{_visible(part)}"]'
    return text


def _visible(name: str) -> str:
    """With an escape for each character that is not seen, or that a terminal would obey."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)


def _mask(name: str) -> str:
    return "sk-…" if "sk-" in name[:12].lower() else "…"


def nearest(name: str, real: Iterable[str]) -> str | None:
    """The real name that was most likely meant by `name`."""
    matches = difflib.get_close_matches(name, list(real), n=1, cutoff=0.6)
    return matches[0] if matches else None


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written: a file with a line and a column (from 1), or the name of another source."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.source, self.line, self.column) if part is not None)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct. Never contains a value from the configuration, since it might be a secret."""

    message: str
    option: Option = ()
    place: Place | None = None
    nearest: str | None = None
    of_line: bool = False  # only about one line of a keys_file

    def __str__(self) -> str:
        where = [str(self.place)] if self.place else []
        if self.option:
            where.append(shown(self.option))
        hint = f"; did you mean '{self.nearest}'?" if self.nearest else ""
        return ": ".join([*where, self.message + hint])


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has all that were found; `str()` is one line for each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[:_SHOWN_AT_MOST]]
        if hidden := len(self.problems) - len(lines):
            lines.append(f"... and {hidden} more")
        super().__init__("\n".join(lines))
