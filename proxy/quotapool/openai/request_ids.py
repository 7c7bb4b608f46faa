"""The ids of stored objects that a JSON body or a session's event names. Where they may stand: `FIELDS` in `ids.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from quotapool.openai.ids import (
    AUDIO,
    CONTAINER,
    ENCRYPTED,
    FIELDS,
    FILE,
    ITEM,
    LONGEST_ID,
    OFTEN_WORDS,
    PROMPT,
    USERS_OWN,
    Kind,
    Reference,
    encrypted_id,
    named,
)
from quotapool.openai.jsontext import BROKEN

_MOST_COPIES: Final = 4  # the last encrypted or copied items of a request are enough to show where it belongs

MOST_NAMED: Final = 4096  # ids in one request


class _Pairs(list[tuple[str, Any]]):
    """An object with all its members: if a name is repeated, it is not known which one upstream reads."""

    __slots__ = ()


def references_in(body: bytes, *, strictly: bool = False) -> list[Reference]:
    """The ids that a JSON body names, each once; [] if it is not JSON. Raises ValueError if there are too many.

    `strictly`: raises ValueError if it may be JSON but cannot be read here, since upstream might be able to.
    """
    try:
        walked = list(islice(_walk_body(json.loads(body, object_pairs_hook=_Pairs)), MOST_NAMED + 1))
    except BROKEN as broken:
        if strictly and (b"{" in body or b"\x00" in body):
            raise ValueError("not valid JSON, or nested too deeply") from broken
        return []
    if len(walked) > MOST_NAMED:
        raise ValueError(f"it names more than {MOST_NAMED} objects")
    found: dict[tuple[str, str], Reference] = {}
    copies: list[Reference] = []
    for reference in walked:
        if len(reference.id) > LONGEST_ID:
            continue
        known = found.get((reference.kind.name, reference.id))
        if known is not None and not known.hint:
            continue
        if reference.kind is ENCRYPTED or reference.is_copy:
            copies.append(reference)
        else:
            found[reference.kind.name, reference.id] = reference
    return [*found.values(), *(one for one in copies[-_MOST_COPIES:] if (one.kind.name, one.id) not in found)]


def _walk_body(body: object) -> Iterator[Reference]:
    """A body or an event: its items by their ids, then all that is named at any depth."""
    if type(body) is _Pairs:
        for name, member in body:
            if name in {"input", "items"} and type(member) is list:
                yield from (one for item in member if type(item) is _Pairs for one in _item(item))
    yield from _walk(body)


_NO_CONTENT: Final = frozenset({"id", "type", "status", "role", "object"})
_READ_BY_ID: Final = frozenset({"reasoning", "image_generation_call"})  # even if the client repeats what it saw of them


def _item(item: _Pairs) -> Iterator[Reference]:
    """An item of a conversation. With its id alone, or without a type, it stands for a stored one; with its content it
    is a copy, which upstream reads wherever it is sent, unless its content is hidden from the client."""
    ids = [member for name, member in item if name == "id" and type(member) is str and member]
    if not ids:
        return
    kinds = {member for name, member in item if name == "type" and type(member) is str}
    has = {name for name, member in item if name not in _NO_CONTENT and member not in (None, "", [], {})}
    is_copy = "content" in has if kinds <= {"message"} else bool(has)
    if not is_copy or "item_reference" in kinds:
        yield from (Reference(ITEM, one, "input") for one in ids)
    else:
        private = not kinds.isdisjoint(_READ_BY_ID) and "encrypted_content" not in has
        yield from (Reference(ITEM, one, "input", hint=True, private=private) for one in ids)


def _walk(value: object) -> Iterator[Reference]:
    if type(value) is list:
        for element in value:
            yield from _walk(element)
    elif type(value) is _Pairs:
        asked: _Asked | None = None  # most objects need no second look; a repeated name must not cause one each time
        for name, member in value:
            if name in _ASK:
                asked = asked or _Asked(value)
            if type(member) is str:
                if name == "id" and asked is not None:
                    yield from _id_of_its_type(asked.types, member)
                elif name == "encrypted_content" and member:
                    yield Reference(ENCRYPTED, encrypted_id(member), "input", hint=True)
                elif name == "container_id" and member:
                    # In a tool: where it is to work. In an item or an annotation: history.
                    is_tools = asked is not None and "container_reference" in asked.types
                    yield Reference(CONTAINER, member, name, hint=not is_tools)
                elif (kind := FIELDS.get(name)) is not None:
                    yield from _in_field(kind, name, member)
            elif name in USERS_OWN or (asked is not None and asked.is_row):
                continue
            elif name == "output" and asked is not None and asked.is_called:
                yield from _walk_output(member)
            elif name == "variables" and type(member) is _Pairs:  # the names are the user's, the values may be files
                yield from (found for _, inner in member if type(inner) is not str for found in _walk(inner))
            elif (kind := FIELDS.get(name)) is not None:
                yield from _in_field(kind, name, member)
            else:
                if type(member) is _Pairs and name in _BY_OBJECT:
                    yield from _identified(_BY_OBJECT[name], name, member)
                yield from _walk(member)


_ROW: Final = frozenset({"item", "sample"})
_BY_OBJECT: Final = {"audio": AUDIO, "prompt": PROMPT}
_ASK: Final = _ROW | {"id", "container_id", "output"}


class _Asked:
    """What an object's other members tell about one of `_ASK`."""

    __slots__ = ("is_called", "is_row", "types")

    def __init__(self, value: _Pairs) -> None:
        names = {name for name, _ in value}
        self.types = [member for name, member in value if name == "type"]
        self.is_row = names <= _ROW  # of an eval's data
        self.is_called = "call_id" in names  # an item about a function's call


def _id_of_its_type(types: list[Any], member: str) -> Iterator[Reference]:
    if "item_reference" in types:
        yield Reference(ITEM, member, "input")
    elif "file_id" in types:
        yield from _in_field(FILE, "id", member)


def _walk_output(output: object) -> Iterator[Reference]:
    """What a function returned: parts of content, which have a type, may name files; all else is the user's own."""
    for part in output if type(output) is list else [output]:
        if type(part) is _Pairs and any(name == "type" for name, _ in part):
            yield from _walk(part)


def _in_field(kind: Kind, name: str, member: object) -> Iterator[Reference]:
    if type(member) is str:
        if (found := named(kind, member, name)) is not None:
            yield found
    elif type(member) is list:
        for element in member:
            yield from _in_field(kind, name, element)
    elif type(member) is _Pairs:
        if kind in OFTEN_WORDS:
            yield from _identified(kind, name, member)
        yield from _walk(member)


def _identified(kind: Kind, name: str, member: _Pairs) -> Iterator[Reference]:
    """An object that is given as {"id": ...}."""
    for key, inner in member:
        if key != "id" or type(inner) is not str:
            continue
        if kind is PROMPT:  # made in the dashboard, so the first successful answer is how we learn of it
            yield Reference(PROMPT, inner, name, hint=True)
        elif (found := named(kind, inner, name)) is not None:
            yield found
