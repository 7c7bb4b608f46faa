"""Header lines as tests write and read them: text; as the product has them: bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quotapool.openai.head import Head, Header

Named = Mapping[str, str] | Iterable[tuple[str, str]]


def lines(named: Named = ()) -> list[Header]:
    pairs = named.items() if isinstance(named, Mapping) else named
    return [
        (name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")) for name, value in pairs
    ]


def head(named: Named = ()) -> Head:
    return Head(lines(named))


def text(headers: Iterable[Header]) -> list[tuple[str, str]]:
    return Head(list(headers)).items()
