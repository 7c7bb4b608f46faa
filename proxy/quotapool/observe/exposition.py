"""Prometheus's text format, for what has too many series for the library, which takes microseconds and memory for each.

`escaped`, `head` and `series` make its pieces, `encoded` the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from prometheus_client.utils import floatToGoString

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_AT_ONCE: Final = 2_000  # pieces that are joined before the next: a large page is in memory only once


def escaped(value: str) -> str:
    """A label's value as it stands between quotes."""
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return value


def head(name: str, kind: str, help_text: str) -> str:
    """The two lines above the series of a metric."""
    text = help_text.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def series(name: str, labels: str, value: float) -> str:
    """One line. `labels`: `a="1",b="2"`, the values escaped; "" if there are none."""
    number = floatToGoString(value)  # type: ignore[no-untyped-call]  # it is
    return f"{name}{{{labels}}} {number}\n" if labels else f"{name} {number}\n"


def encoded(pieces: Iterable[str]) -> bytes:
    """The page of these pieces of text."""
    page = bytearray()
    rest: Iterator[str] = iter(pieces)
    while part := "".join(islice(rest, _AT_ONCE)):
        page += part.encode("utf-8", "replace")
    return bytes(page)
