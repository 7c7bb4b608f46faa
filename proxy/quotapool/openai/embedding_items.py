"""An embeddings request as its single inputs, and its answer put together from single vectors.

    split         request -> its inputs; of each the canonical text of all that shapes its vector
    reduced       the same request with fewer inputs, all else byte for byte as it came
    AnswerReader  answer -> its elements, one after another, so that a caller can pause between them
    shares        how many of a call's tokens each input was
    element, around    what an answer is put together from

OpenAI's limits (docstrings of its SDKs): 2,048 inputs, 300,000 tokens of all of them together, none empty. A request
beyond them, or of a form that OpenAI does not document, is not split: upstream decides about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from quotapool.domain.quantities import Certainty
from quotapool.openai.jsontext import BROKEN, set_member
from quotapool.openai.usage import read_usage

MOST_ITEMS: Final = 2048
MOST_TOKENS: Final = 300_000

# Members that do not shape a vector: `input` is what is split, `encoding_format` is how vectors are written, `user` is
# for OpenAI's monitoring of abuse. All others stay in the canonical text, whatever they mean.
_NOT_SHAPING: Final = frozenset({"input", "encoding_format", "user"})
_IS_BASE64: Final = {b"": False, b"null": False, b'"float"': False, b'"base64"': True}
_NO_STREAM: Final = frozenset({b"", b"null", b"false"})
_QUOTE: Final = ord('"')
_BRACKET: Final = ord("[")
_BACKSLASH: Final = b"\\"
_BLANKS: Final = re.compile(rb"[ \t\r\n]*")
_DATA: Final = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*\[')
_LONGEST_REST: Final = 2**16  # bytes of an answer before its elements, and behind them

_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any: Final = msgspec.json.Decoder()
_list: Final = msgspec.json.Decoder(list[msgspec.Raw])
_text: Final = msgspec.json.Decoder(str)
_tokens: Final = msgspec.json.Decoder(list[int])
_sorted: Final = msgspec.json.Encoder(order="sorted")


# ---- requests


class Item(msgspec.Struct, frozen=True, gc=False):
    """One input. `raw`: as the client wrote it. `canonical`: the same for inputs that get the same vector. `tokens`:
    how many ids, 0 of a text. `weight`: its part when tokens are shared: its ids, or the bytes of its text."""

    raw: bytes
    canonical: bytes
    tokens: int
    weight: int


class Split(msgspec.Struct, frozen=True, gc=False):
    """A request by its inputs. `raws`: as the client wrote them; `item` reads one."""

    text: bytes
    model: str
    base64: bool  # asked for, else numbers
    beginning: bytes  # of each canonical text: the members that shape a vector
    raws: tuple[bytes, ...]

    def item(self, at: int) -> Item | None:
        """The input at this place; None if OpenAI would not take it."""
        raw = self.raws[at]
        try:
            if raw[0] == _QUOTE:
                text = raw if raw.find(_BACKSLASH) < 0 else msgspec.json.encode(_text.decode(raw))
                size = len(text) - 2
                return Item(raw, self.beginning + text, 0, size) if size else None
            tokens = _tokens.decode(raw)
        except BROKEN:
            return None
        if not tokens or min(tokens) < 0:
            return None
        return Item(raw, self.beginning + msgspec.json.encode(tokens), len(tokens), len(tokens))


def split(text: bytes) -> Split | str:
    """The request by its inputs, or a word why it stays whole: `unreadable` (no JSON object with a model and an input),
    `encoding_format` (unknown), `stream`, `input_form` (not documented), `too_many_items`."""
    try:
        members = _members.decode(text)
        model = _text.decode(members["model"])
        raws = _raws(bytes(members["input"]))
        shaping = {name: _any.decode(raw) for name, raw in members.items() if name not in _NOT_SHAPING}
    except (*BROKEN, KeyError):
        return "unreadable"
    base64 = _IS_BASE64.get(bytes(members.get("encoding_format", b"")))
    if base64 is None:
        return "encoding_format"
    if bytes(members.get("stream", b"")) not in _NO_STREAM:
        return "stream"
    if {raw[0] for raw in raws} not in ({_QUOTE}, {_BRACKET}):
        return "input_form"
    if len(raws) > MOST_ITEMS:
        return "too_many_items"
    # Not JSON as a whole, so that it is never the canonical text of a request.
    return Split(text, model, base64, b"item:" + _sorted.encode(shaping), raws)


def reduced(request: Split, items: Sequence[Item]) -> bytes:
    """The request for these of its inputs alone."""
    return set_member(request.text, "input", b"[" + b",".join([item.raw for item in items]) + b"]")


def _raws(text: bytes) -> tuple[bytes, ...]:
    """The inputs as the client wrote them. A text, or a list of token ids, is a single one."""
    if text[0] != _BRACKET:
        return (text,)
    raws = tuple([bytes(raw) for raw in _list.decode(text)])
    return (text,) if raws and raws[0][0] not in {_QUOTE, _BRACKET} else raws


# ---- answers


class Element(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One element of an answer's `data`. `embedding`: as upstream wrote it."""

    index: int
    embedding: msgspec.Raw
    object: str = "embedding"


class _Rest(msgspec.Struct, gc=False):
    """An answer without its elements."""

    data: list[Any]
    model: str


_element: Final = msgspec.json.Decoder(Element)
_rest: Final = msgspec.json.Decoder(_Rest)


class AnswerReader:
    """Iterate over it to the end, then ask whether it `ended_well`, and for what else the answer says.

    It does not end well if it is no answer to an embeddings request, reports no usage, or has elements with members
    that OpenAI's have not: they would be lost when vectors are put together. Elements have no braces in them, so each
    ends at the next one, and is decoded by itself; what is around them is decoded as an answer without elements.
    """

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.ended_well = False
        self.model = ""
        self.tokens = 0  # that upstream billed for it
        self.head = b""  # up to the bracket that opens `data`, included
        self.tail = b""  # from the bracket that closes it

    def __iter__(self) -> Iterator[Element]:
        answer = self._answer
        opened = _DATA.search(answer, 0, _LONGEST_REST)
        if opened is None:
            return
        self.head = answer[: opened.end()]
        at, follows = opened.end(), b"{"
        while True:
            at = _BLANKS.match(answer, at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if answer[at : at + 1] != follows:
                break
            if follows == b",":
                at, follows = at + 1, b"{"
                continue
            end = answer.find(b"}", at) + 1
            try:
                yield _element.decode(answer[at:end])
            except BROKEN:
                return
            at, follows = end, b","
        if follows == b"," and answer[at : at + 1] == b"]" and len(answer) - at <= _LONGEST_REST:
            self._end(answer[at:])

    def _end(self, tail: bytes) -> None:
        without = self.head + tail
        usage = read_usage(without)
        try:
            rest = _rest.decode(without)
        except BROKEN:
            return
        if rest.data or len(_DATA.findall(without)) != 1 or usage.certainty is not Certainty.EXACT:
            return
        self.tail, self.model, self.tokens, self.ended_well = tail, rest.model, usage.prompt, True


def shares(items: Sequence[Item], total: int) -> list[int]:
    """How many of a call's `total` tokens each of its inputs was: exact for a single one and for token ids, else by the
    length of the texts. Their sum is `total`."""
    weights = [item.weight for item in items]
    whole, until, given = sum(weights), 0, 0
    found = []
    for weight in weights:
        until += weight
        upto = total * until // whole
        found.append(upto - given)
        given = upto
    return found


def element(index: int, embedding: bytes) -> bytes:
    """An element of an answer's `data`."""
    return b'{"object":"embedding","index":%d,"embedding":%b}' % (index, embedding)


def around(model: str) -> tuple[bytes, bytes]:
    """What is before and behind the elements of an answer that upstream was not asked for: it billed nothing."""
    tail = b'],"model":' + msgspec.json.encode(model) + b',"usage":{"prompt_tokens":0,"total_tokens":0}}'
    return b'{"object":"list","data":[', tail
