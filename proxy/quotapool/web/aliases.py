"""What a path means that is none of the API's: clients that were made for another proxy may go on with its paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from quotapool.request.me import PREFIX

OWN_PATHS: Final = ("/v1/", PREFIX)  # these are looked up as they are


class Aliases:
    """`path_aliases` of the configuration, at least one: the longest that fits counts."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        longest_first = sorted(aliases, key=lambda path: (-path.count("/"), "*" in path, -len(path), path))
        self._real = [aliases[path].removesuffix("/") for path in longest_first]
        parts = (re.escape(path.removesuffix("/")).replace(r"\*", "[^/?#]+") for path in longest_first)
        self._pattern = re.compile("|".join(f"({part})(?=[/?#]|\\Z)" for part in parts))

    def real(self, target: str) -> str:
        """The target (path, optional query) that this one stands for; the same if no alias fits. What comes of it is
        looked up like any other, with the same checks."""
        match = self._pattern.match(target)
        if match is None or match.lastindex is None:
            return target
        return self._real[match.lastindex - 1] + target[match.end() :]
