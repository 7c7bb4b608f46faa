"""What a request's `Cache-Control` allows and asks of the cache (RFC 9111 §5.2.1).

Obeyed are no-store, no-cache, max-age and only-if-cached; the rest of the directives mean nothing here. A max-age that
cannot be read is taken as 0, as the RFC encourages (§4.2.1); of several the shortest counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from quotapool.openai.head import Head

_NAME: Final = "cache-control"
_MOST: Final = 1024  # characters of all lines; whoever sends more is served without the cache
_LONGEST_S: Final = 2**31  # what a longer time is taken as (§1.2.2)
_DIGITS: Final = 10  # characters that such a time has at most
_DIRECTIVE: Final = re.compile(
    r"""
    ([^\s,;="]+)                                          # its name,
    (?: \s*+ = \s*+ ( "(?:[^"\\]|\\.)*+"?+ | [^\s,;"]*+ ) )?+  # and its value
    | "(?:[^"\\]|\\.)*+"?+                                # a string where none belongs
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class CacheControl:
    """`no_store`: nothing of this request may be kept. `no_cache`: no kept answer may be served. `max_age_s`: none that
    is older; None: any. `only_if_cached`: upstream may not be asked."""

    no_store: bool = False
    no_cache: bool = False
    max_age_s: int | None = None
    only_if_cached: bool = False

    @property
    def looks_up(self) -> bool:
        """Whether a kept answer may be served."""
        return not (self.no_store or self.no_cache or self.max_age_s == 0)

    @property
    def asks(self) -> bool:
        """Whether the client asks for a kept answer, in so many words."""
        return self.only_if_cached or bool(self.max_age_s)


NONE: Final = CacheControl()
"""Of a request that does not say."""
_TOO_LONG: Final = CacheControl(no_store=True, no_cache=True)


def cache_control(headers: Head) -> CacheControl:
    """Of a request's header lines. Takes bounded time."""
    if _NAME not in headers.first:
        return NONE
    text = ", ".join(headers.getall(_NAME))
    if len(text) > _MOST:
        return _TOO_LONG
    no_store = no_cache = only_if_cached = False
    max_age_s: int | None = None
    for found in _DIRECTIVE.finditer(text):
        name = (found[1] or "").lower()
        if name == "no-store":
            no_store = True
        elif name == "no-cache":
            no_cache = True
        elif name == "only-if-cached":
            only_if_cached = True
        elif name == "max-age":
            seconds = _seconds(found[2] or "")
            max_age_s = seconds if max_age_s is None else min(max_age_s, seconds)
    return CacheControl(no_store, no_cache, max_age_s, only_if_cached)


def _seconds(value: str) -> int:
    digits = value.strip('"')
    if not (digits.isascii() and digits.isdigit()):
        return 0
    digits = digits.lstrip("0")
    return _LONGEST_S if len(digits) > _DIGITS else min(_LONGEST_S, int(digits or "0"))
