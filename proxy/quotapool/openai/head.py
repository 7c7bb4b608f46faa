"""The header lines of one message, as its parser found them: bytes, in order, with duplicates.

They stay like this from one parser to the other. Text is made only of the values that are looked up.
"""

from __future__ import annotations

from typing import Final, overload

from quotapool.openai.header_names import KNOWN, HeaderName, learn

Header = tuple[bytes, bytes]  # name and value of one line

_SPACE: Final = 0x20


class Head:
    """Header lines by name, which may be asked for in any case. In text, bytes that are not UTF-8 become surrogates.

    `lines`: all of them. `names`: what is known of the name of each. `first`: the first value of each name in lower
    case, for what is looked up with every request.
    """

    __slots__ = ("_repeated", "first", "lines", "names")

    def __init__(self, fields: list[Header]) -> None:
        """`fields` as httptools gives them: it trims values only on the left (RFC 9112 §5)."""
        lines = fields.copy()
        names: list[HeaderName] = []
        first: dict[str, bytes] = {}
        repeated: list[tuple[str, bytes]] = []
        for at, (raw, value) in enumerate(fields):
            if value and value[-1] <= _SPACE:
                value = value.rstrip(b" \t")  # noqa: PLW2901 - it is the same value
                lines[at] = raw, value
            name = KNOWN.get(raw)
            if name is None:
                name = learn(raw)
            names.append(name)
            low = name.low
            if low in first:
                repeated.append((low, value))
            else:
                first[low] = value
        self.lines = lines
        self.names = names
        self.first = first
        self._repeated = repeated

    def raw(self, name: str) -> bytes | None:
        """The first value."""
        return self.first.get(name.lower())

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value."""
        value = self.first.get(name.lower())
        return default if value is None else value.decode("utf-8", "surrogateescape")

    def getall(self, name: str) -> list[str]:
        """The values of all lines of this name."""
        low = name.lower()
        value = self.first.get(low)
        if value is None:
            return []
        values = [value, *(again for other, again in self._repeated if other == low)]
        return [value.decode("utf-8", "surrogateescape") for value in values]

    def is_repeated(self, name: str) -> bool:
        """Whether more than one line has this name."""
        return name.lower() in [other for other, _ in self._repeated]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: str) -> bool:
        return name.lower() in self.first

    def __len__(self) -> int:
        return len(self.lines)

    def __repr__(self) -> str:
        return f"<Head of {len(self.lines)} lines>"  # their values can be secrets

    def items(self) -> list[tuple[str, str]]:
        """All lines as text."""
        return [(_text(name), _text(value)) for name, value in self.lines]


def _text(part: bytes) -> str:
    return part.decode("utf-8", "surrogateescape")


NO_LINES: Final = Head([])
