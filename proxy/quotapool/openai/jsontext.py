"""JSON as bytes: decode only what is needed, find and set a top-level member without rewriting the rest.

Two facts make byte scans safe in valid JSON. A quote inside a string is always escaped, so `"name"` with no backslash
before it is never text. And the rest of the document after the start of a top-level member closes exactly one object:
`{` followed by it must be an object again, while a nested member leaves closing brackets over.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, TypeVar

import msgspec

from quotapool.openai.shapes import AnyObject

T = TypeVar("T")

BROKEN: Final = (ValueError, RecursionError)
"""What decoding raises: malformed JSON, bad UTF-8, a type other than the expected one; or too deep nesting."""

_BACKSLASH: Final = ord("\\")
_DEEP: Final = 500  # levels that are certainly read
_BLANKS: Final = b" \t\r\n"
_CANDIDATES: Final = 8  # proofs are linear in the tail: a hostile body must not make them quadratic
_KEY_AND_COLON: Final = re.compile(rb'"[^"]*"\s*:\s*')


_any: Final = msgspec.json.Decoder()
_any_object: Final = msgspec.json.Decoder(AnyObject)
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode_leniently(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """`decoder.decode`, for bodies that OpenAI may accept although msgspec does not.

    Half a surrogate pair (a client cut an emoji in two), NaN, a number beyond a double: upstream decides about these.
    Raises one of BROKEN if the standard library cannot read the body either.
    """
    try:
        return decoder.decode(body)
    except ValueError:
        loose = json.loads(body, parse_float=lambda _: 0.0, parse_constant=lambda _: None)
        return decoder.decode(json.dumps(loose, ensure_ascii=False).encode(errors="replace"))


def object_in(text: bytes | bytearray) -> dict[str, Any] | None:
    """The JSON object; None if the bytes are something else."""
    try:
        document = _any.decode(text)
    except BROKEN:
        return None
    return document if type(document) is dict else None


def is_too_deep(text: bytes) -> bool:
    """Whether these bytes are nested deeper than JSON can be read, here or by a client."""
    if text.count(b"[") + text.count(b"{") < _DEEP:
        return False
    try:
        _any.decode(text)
    except RecursionError:
        return True
    except ValueError:
        pass
    return False


def count_of(value: object) -> int:
    """A decoded number; 0 if it is not a whole one above 0."""
    return value if type(value) is int and value > 0 else 0


def is_object(text: bytes) -> bool:
    try:
        _any_object.decode(text)
    except BROKEN:
        return False
    return True


def locate(obj: bytes, quoted_name: bytes) -> int:
    """Where the last top-level member called `quoted_name` (with its quotes) begins in a JSON object; -1: not found.

    Only the last few occurrences of the name are examined.
    """
    at = len(obj)
    for _ in range(_CANDIDATES):
        at = obj.rfind(quoted_name, 0, at)
        if at <= 0:
            return -1
        if obj[at - 1] != _BACKSLASH and is_object(b"{" + obj[at:]):
            return at
    return -1


def set_member(obj: bytes, name: str, value: bytes) -> bytes:
    """The JSON object with this top-level member set; all other bytes stay as they are.

    If the member exists, its last value is replaced (the one that counts when a name is repeated); otherwise it is
    added before the closing brace. Raises one of BROKEN if `obj` is not a JSON object.
    """
    quoted = b'"' + name.encode() + b'"'
    at = locate(obj, quoted)
    if at >= 0:
        old = _members.decode(b"{" + obj[at:])[name]
        key = _KEY_AND_COLON.match(obj, at)
        start = key.end() if key else at  # the proof of `locate` includes the colon
        return obj[:start] + value + obj[start + memoryview(old).nbytes :]
    members = _members.decode(obj)
    if name in members:  # spelled with escapes, or followed by too many other occurrences of its name
        members[name] = msgspec.Raw(value)
        return msgspec.json.encode(members)
    brace = obj.rindex(b"}")
    comma = b"," if members else b""
    return obj[:brace] + comma + quoted + b":" + value + obj[brace:]


def member_span(obj: bytes, start: int, end: int) -> tuple[int, int]:
    """The member at [start, end) together with the comma and the blanks that must be removed with it."""
    before = start - 1
    while before >= 0 and obj[before] in _BLANKS:
        before -= 1
    if before >= 0 and obj[before : before + 1] == b",":
        return before, end
    after = end
    while after < len(obj) and obj[after] in _BLANKS:
        after += 1
    if obj[after : after + 1] != b",":
        return start, end
    after += 1
    while after < len(obj) and obj[after] in _BLANKS:
        after += 1
    return start, after
