"""Makes what a client asked for of an answer that was recorded for another one."""

from __future__ import annotations

import asyncio
from typing import Final

from quotapool.openai.facts import Canonical
from quotapool.openai.own_members import OwnMembers
from quotapool.openai.replay import EVENT_STREAM, JSON, Form, Kind, Replay

_PORTION: Final = 2**18  # bytes: about 5 ms


class Conversion:
    """`feed` it what was recorded, split anywhere; give the client what it returns, and what `finish` returns.

    `kind` None: of an answer that has one form only, which passes as it is. `content_type`: of what comes out.
    """

    __slots__ = ("_own", "_replay", "content_type")

    def __init__(self, kind: Kind | None, asked: Canonical, form: Form, content_type: str) -> None:
        """`form` and `content_type`: of the recorded answer."""
        self.content_type = content_type
        self._replay: Replay | None = None
        self._own: OwnMembers | None = None
        if kind is not None:
            self.content_type = EVENT_STREAM if asked.streamed else JSON
            self._replay = Replay(kind, form, streamed=asked.streamed, usage=asked.asked_usage)
            if kind == "responses":
                self._own = OwnMembers(asked.own, streamed=asked.streamed)

    def feed(self, piece: bytes) -> bytes:
        part = piece if self._replay is None else self._replay.feed(piece)
        return part if self._own is None or not part else self._own.feed(part)

    def finish(self) -> bytes | None:
        """None: it cannot be made."""
        rest = b"" if self._replay is None else self._replay.finish()
        if rest is None or self._own is None:
            return rest
        return (self._own.feed(rest) if rest else b"") + self._own.finish()

    async def all(self, text: bytes) -> bytes | None:
        """What is made of all of it; None: it cannot be made. Others run in between if it is long."""
        if self._own is None and (self._replay is None or self._replay.passes):
            return text
        parts = []
        for at in range(0, len(text), _PORTION):
            if at:
                await asyncio.sleep(0)
            parts.append(self.feed(text[at : at + _PORTION]))
        rest = self.finish()
        return None if rest is None else b"".join([*parts, rest])
