"""Server-sent events in a stream that is split anywhere: which are complete, where each ends, and what its data is."""

from __future__ import annotations

import re
from typing import Final

BOUNDARY: Final = re.compile(rb"\n\r?\n|\r\r")
"""The blank line that ends an event."""

_BLANK_LINES: Final = (b"\n\n", b"\n\r\n", b"\r\r")


def take_complete(held: bytearray, piece: bytes) -> bytes:
    """All complete events in what is held and `piece`; the unfinished rest stays in `held`."""
    since = max(0, len(held) - 2)  # the blank line itself may have been split
    held += piece
    end = 0
    for blank in _BLANK_LINES:
        at = held.rfind(blank, since)
        if at >= 0:
            end = max(end, at + len(blank))
    block = bytes(held[:end])
    del held[:end]
    return block


def split_events(block: bytes) -> list[bytes]:
    """Complete events, each with its blank line; joined, they are the block."""
    if block.find(b"\r") < 0:
        if block.find(b"\n\n") == len(block) - 2:
            return [block]
        return [event + b"\n\n" for event in block[:-2].split(b"\n\n")]
    events = []
    start = 0
    for blank in BOUNDARY.finditer(block):
        events.append(block[start : blank.end()])
        start = blank.end()
    if start < len(block):
        events.append(block[start:])
    return events


def payload_of(event: bytes) -> bytes:
    """The event's data with everything else as blanks: an offset here is the same offset in the event.

    Line ends between data lines can only occur where JSON allows blanks, so the JSON keeps its meaning.
    """
    if is_one_line(event):
        return b"     " + event[5:]
    lines = event.splitlines(keepends=True)
    return b"".join([b"     " + line[5:] if line.startswith(b"data:") else b" " * len(line) for line in lines])


def is_one_line(event: bytes) -> bool:
    """`data: ...` and a blank line, as OpenAI writes it."""
    return event.startswith(b"data:") and event.find(b"\n") == len(event) - 2 and event.find(b"\r") < 0
