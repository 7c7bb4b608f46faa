"""Whether a body may name stored objects at all: a search for bytes, since nearly all requests name none.

What is found is decoded and read in `request_ids.py`.
"""

from __future__ import annotations

from typing import Final

from quotapool.openai.ids import MODEL, object_path

_MARKS: Final[dict[str, tuple[bytes, ...]]] = {
    "chat": (b'file_id"', b'"audio"'),
    "completions": (),
    "embeddings": (),
    "moderations": (),
    "responses": (b'_id"', b'_ids"', b'"conversation"', b'"container"', b'"encrypted_content"', b'"id"'),
    "realtime": (b"file_id", b"vector_store_id", b'"container', b'"voice"', b"skill_id", b"thread_id", b"assistant_id"),
}  # fmt: skip
_HIDDEN: Final = (b"\\u00", b"\x00")  # a name spelled with escapes, or in UTF-16
_SOUND: Final = b'"audio":"'
_SOUND_FROM: Final = 512  # bytes of an event within which its sound begins


def may_reference(endpoint: str, body: bytes | bytearray, *, strictly: bool) -> bool:
    """Whether this body needs to be decoded: a search for bytes, since most requests name no objects.

    `strictly`: no id may be missed, so unusual spellings of names count too.
    """
    marks = _MARKS.get(endpoint)
    if marks is None:
        return bool(body)
    for mark in marks:
        if body.find(mark) >= 0:  # `in` takes longer (CPython 3.11 asks first whether the mark is a number)
            return True
    return strictly and bool(marks) and (body.find(_HIDDEN[0]) >= 0 or body.find(_HIDDEN[1]) >= 0)


def involves_objects(
    endpoint: str, method: str, target: str, body: bytes | None, *, model: str, store: bool | None, is_keyed: bool
) -> bool:
    """Whether a request has to do with stored objects at all. `body` None: it streams, or there is none; `store` as in
    the body; `is_keyed`: its client has a key, so no id of another one may pass."""
    if model[:3] == MODEL.prefix:
        return True
    if target == "/v1/chat/completions" and method == "POST":
        return store is True or (body is not None and may_reference("chat", body, strictly=is_keyed))
    if endpoint in {"completions", "embeddings", "moderations"}:
        return False
    if object_path(target) is not None:
        return True
    return body is not None and may_reference(endpoint, body, strictly=True)


def event_may_reference(payload: bytearray) -> bool:
    """`may_reference` for a client's event in a session that is not one of Responses. Nearly all of these are sound,
    which has no quotes and so no names: it is not searched."""
    at = payload.find(_SOUND, 0, _SOUND_FROM)
    if at >= 0 and (end := payload.find(b'"', at + len(_SOUND))) >= 0:
        payload = payload[:at] + payload[end:]
    return may_reference("realtime", payload, strictly=True)
