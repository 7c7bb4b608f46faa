"""`path_aliases`: paths of another proxy under which clients still call, and what each begins with here."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

_MOST: Final = 100
_ALIAS: Final = re.compile(r"/|(?:/(?:\*|[A-Za-z0-9_.~-]+))+")
_OURS: Final = re.compile(r"/(?:v1|quotapool)(?:/|\Z)", re.IGNORECASE)
_REAL: Final = re.compile(r"/|/v1(?:/[A-Za-z0-9_.~-]+)*")


def _check(aliases: dict[str, str]) -> dict[str, str]:
    """Without the slash at the end of either side. Raises ValueError."""
    if len(aliases) > _MOST:
        raise ValueError(f"there are more than {_MOST}")
    found: dict[str, str] = {}
    for alias, real in aliases.items():
        beginning, end = (path.rstrip("/") or "/" for path in (alias, real))
        if not _ALIAS.fullmatch(beginning):
            raise ValueError("a path begins with /, and * stands for one whole part of it, as in /proxy/*")
        if {".", ".."} & {*beginning.split("/"), *end.split("/")}:
            raise ValueError("parts that are only dots have no place in a path")
        if _OURS.match(beginning):
            raise ValueError("paths under /v1 and /quotapool are the proxy's own and need no alias")
        if not _REAL.fullmatch(end):
            raise ValueError("what an alias stands for is / or begins with /v1")
        found[beginning] = end
    return found


PathAliases = Annotated[dict[str, str], AfterValidator(_check)]
