"""An entry as bytes to be sealed: a head that says when it was made and what it is, and the answer's body.

    length of the head (2 bytes, big endian) · head (MessagePack) · body

Both times are seconds of the store's clock. They are sealed with the answer, so nobody who can write to the store can
make it last longer.
"""

from __future__ import annotations

import msgspec

from quotapool.cache.entry import Cost, Entry, Form


class _Head(msgspec.Struct, array_like=True, frozen=True, gc=False):
    made: float
    ends: float
    form: Form
    content_type: str
    model: str
    prompt: int
    completion: int
    pico: int | None


class Dated(msgspec.Struct, frozen=True, gc=False):
    """An entry, and the seconds of the store's clock at which it was made and from which on it is not served."""

    entry: Entry
    made: float
    ends: float


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Head).decode


def to_bytes(dated: Dated) -> bytes:
    """Raises ValueError if the texts of its head are longer than 64 kB."""
    entry, cost = dated.entry, dated.entry.cost
    head = _pack(
        _Head(
            dated.made,
            dated.ends,
            entry.form,
            entry.content_type,
            entry.model,
            cost.prompt,
            cost.completion,
            cost.pico,
        )
    )
    if len(head) > 0xFFFF:
        raise ValueError("the head of an entry is too long")
    return b"%b%b%b" % (len(head).to_bytes(2, "big"), head, entry.body)


def from_bytes(raw: bytes) -> Dated | None:
    """None: it is not what `to_bytes` makes."""
    start = 2 + int.from_bytes(raw[:2], "big")
    try:
        head = _unpack(raw[2:start])
    except msgspec.MsgspecError:
        return None
    cost = Cost(head.prompt, head.completion, head.pico)
    return Dated(Entry(head.form, raw[start:], head.content_type, head.model, cost), head.made, head.ends)
