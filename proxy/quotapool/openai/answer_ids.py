"""The ids that an answer of OpenAI makes known: of created objects, of listed ones, and of those they point to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from quotapool.openai.ids import (
    AUDIO,
    CONTAINER,
    CONVERSATION,
    ENCRYPTED,
    FIELDS,
    FILE,
    ITEM,
    MODEL,
    PROMPT,
    RESPONSE,
    Kind,
    encrypted_id,
    kind_of,
)
from quotapool.openai.jsontext import BROKEN, decode_leniently


class _Answer(msgspec.Struct, gc=False):
    id: Any = None
    output_file_id: Any = None
    error_file_id: Any = None
    result_files: Any = None
    fine_tuned_model: Any = None
    thread_id: Any = None
    file: Any = None
    prompt: Any = None  # the stored prompt that a response was made with
    output: Any = None
    data: Any = None
    response: Any = None  # of a stream's last event
    item: Any = None  # of an event
    choices: Any = None  # of a chat


_answer: Final = msgspec.json.Decoder(_Answer)


def made_by(body: bytes, place: Kind) -> list[tuple[Kind, str]]:
    """The ids in an answer about objects of the kind `place`: its own, a list's, and those that they point to."""
    try:
        answer = decode_leniently(_answer, body)
    except BROKEN:
        return []
    return list(dict.fromkeys(_made(msgspec.structs.asdict(answer), place)))


_POINTERS: Final = ("output_file_id", "error_file_id", "thread_id", "fine_tuned_model")


def _made(answer: dict[str, Any], place: Kind) -> Iterator[tuple[Kind, str]]:
    own = answer.get("id")
    if type(own) is str:
        yield kind_of(own) or (ITEM if place in {RESPONSE, CONVERSATION} else place), own
    for name in _POINTERS:
        pointed = answer.get(name)
        if type(pointed) is str and pointed:
            yield FIELDS.get(name, MODEL), pointed
    for element in _dicts(answer.get("result_files")) if type(answer.get("result_files")) is list else ():
        if type(element.get("id")) is str:
            yield FILE, element["id"]
    for pointed in _strings(answer.get("result_files")):
        yield FILE, pointed
    for name in ("file", "response", "item"):
        inner = answer.get(name)
        if type(inner) is dict:
            yield from _made(inner, FILE if name == "file" else place)
        if name == "item" and type(inner) is dict:
            yield from _in_item(inner)
    prompt = answer.get("prompt")
    if type(prompt) is dict and type(prompt.get("id")) is str and place is RESPONSE:
        yield PROMPT, prompt["id"]
    for item in _dicts(answer.get("output")):
        yield from _in_item(item)
    for choice in _dicts(answer.get("choices")):
        for text in (choice.get("message"), choice.get("delta")):  # whole, or in a stream
            audio = text.get("audio") if type(text) is dict else None
            if type(audio) is dict and type(audio.get("id")) is str:
                yield AUDIO, audio["id"]
    for element in _dicts(answer.get("data")):
        yield from _made(element, place)
        yield from _in_item(element)


def _in_item(item: dict[str, Any]) -> Iterator[tuple[Kind, str]]:
    """An output item: its own id, its encrypted content, the container it worked in."""
    if type(item.get("id")) is str and kind_of(item["id"]) is None:
        yield ITEM, item["id"]
    if type(item.get("encrypted_content")) is str and item["encrypted_content"]:
        yield ENCRYPTED, encrypted_id(item["encrypted_content"])
    if type(item.get("container_id")) is str:
        yield CONTAINER, item["container_id"]
    for part in _dicts(item.get("content")):
        for note in _dicts(part.get("annotations")):
            if type(note.get("container_id")) is str:
                yield CONTAINER, note["container_id"]


def _dicts(value: object) -> Iterable[dict[str, Any]]:
    return [element for element in value if type(element) is dict] if type(value) is list else ()


def _strings(value: object) -> Iterable[str]:
    return [element for element in value if type(element) is str] if type(value) is list else ()
