"""The events of a stream that is made of a whole answer, within a bound."""

from __future__ import annotations

from typing import Final

_MOST_TIMES: Final = 32
_MOST_MORE: Final = 2**16  # bytes


class EventBytes:
    """`put` the events, `joined` is the stream. It is at most 64 KiB and 32 times what it is made of: each event of an
    answer repeats ids and names, which are short in answers that anybody wants."""

    __slots__ = ("_events", "_room")

    def __init__(self, length: int) -> None:
        self._events: list[bytes] = []
        self._room = _MOST_TIMES * length + _MOST_MORE

    def put(self, event: bytes) -> None:
        """Raises ValueError beyond the bound."""
        self._room -= len(event)
        if self._room < 0:
            raise ValueError("the stream is too long for its answer")
        self._events.append(event)

    def joined(self) -> bytes:
        return b"".join(self._events)
