"""The members of a response that repeat its request, and shape nothing: each client gets its own, whoever asked first.

A response states `metadata`, `user` and the like as they were sent (openai-openapi 2.3.0, `Response`). Without this, a
client would read the labels and the end user of another one, whose request was answered first. A member that upstream's
answer does not have is not added. `service_tier` stays: it says how the answer was made.
"""

from __future__ import annotations

from typing import Final

import msgspec

from quotapool.openai.event_blocks import split_events, take_complete
from quotapool.openai.jsontext import BROKEN

OWN: Final[dict[str, bytes]] = {
    "metadata": b"{}",
    "user": b"null",
    "safety_identifier": b"null",
    "prompt_cache_key": b"null",
    "prompt_cache_retention": b"null",
}
"""Each with what a response says if its request has none."""

_MOST_HELD: Final = 16 * 2**20  # bytes of an unfinished event, which then passes; what is kept has at most 8 MiB
_RESPONSE: Final = b'"response"'

_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class OwnMembers:
    """Puts a request's own members into the answer to an equal one. `feed` it the answer as it comes, split anywhere;
    `finish` at its end. Takes time linear in the answer. What cannot be read stays as it is.

    `own`: a JSON object of those that the request has (`Canonical.own`). `streamed`: the answer is events.
    """

    def __init__(self, own: bytes, *, streamed: bool) -> None:
        """Raises one of BROKEN if `own` is not a JSON object."""
        given = _members.decode(own) if own else {}
        self._own = {name: given.get(name, msgspec.Raw(default)) for name, default in OWN.items()}
        self._streamed = streamed
        self._held = bytearray()

    def feed(self, piece: bytes) -> bytes:
        """What the client gets now: of a JSON answer nothing, of events those that are complete."""
        held = self._held
        if not self._streamed:
            held += piece
            return b""
        if not held and piece.endswith(b"\n\n") and piece.find(_RESPONSE) < 0:
            return piece
        block = take_complete(held, piece)
        if block.find(_RESPONSE) >= 0:
            block = b"".join(map(self._event, split_events(block)))
        return block + self._rest() if len(held) > _MOST_HELD else block

    def finish(self) -> bytes:
        """The rest: of a JSON answer, all of it."""
        return self._rest()

    def _rest(self) -> bytes:
        rest = bytes(self._held)
        self._held.clear()
        return self._event(rest) if self._streamed else self._set(rest)

    def _event(self, event: bytes) -> bytes:
        """`response.created`, `response.completed` and the like hold the response."""
        if event.find(_RESPONSE) < 0:
            return event
        lines = event.splitlines(keepends=True)
        data = [at for at, line in enumerate(lines) if line.startswith(b"data:")]
        if len(data) != 1:  # OpenAI writes one
            return event
        line = lines[data[0]]
        try:
            members = _members.decode(line[5:].strip())
        except BROKEN:
            return event
        response = bytes(members.get("response", b""))
        changed = self._set(response)
        if changed is response:
            return event
        members["response"] = msgspec.Raw(changed)
        lines[data[0]] = b"data: " + msgspec.json.encode(members) + line[len(line.rstrip(b"\r\n")) :]
        return b"".join(lines)

    def _set(self, response: bytes) -> bytes:
        """A response's JSON with the request's own members; the same object if it has them."""
        try:
            members = _members.decode(response)
        except BROKEN:
            return response
        differs = False
        for name, value in self._own.items():
            old = members.get(name)
            if old is not None and bytes(old) != bytes(value):
                members[name] = value
                differs = True
        return msgspec.json.encode(members) if differs else response
