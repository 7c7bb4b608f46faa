"""Where in a request's body its prompt begins, and whether it asks for one embedding."""

from __future__ import annotations

from typing import Final

import msgspec

from quotapool.openai.endpoints import Estimate
from quotapool.openai.jsontext import BROKEN, decode_leniently
from quotapool.openai.shapes import NONE

_BLANKS: Final = b" \t\r\n"
_DIGITS: Final = b"-0123456789"


class _Chat(msgspec.Struct, gc=False):
    tools: msgspec.Raw = NONE
    functions: msgspec.Raw = NONE
    response_format: msgspec.Raw = NONE
    messages: msgspec.Raw = NONE


class _Responses(msgspec.Struct, gc=False):
    tools: msgspec.Raw = NONE
    text: msgspec.Raw = NONE
    instructions: msgspec.Raw = NONE
    input: msgspec.Raw = NONE


class _Completions(msgspec.Struct, gc=False):
    prompt: msgspec.Raw = NONE


class _Embeddings(msgspec.Struct, gc=False):
    input: msgspec.Raw = NONE


_chat: Final = msgspec.json.Decoder(_Chat)
_responses: Final = msgspec.json.Decoder(_Responses)
_completions: Final = msgspec.json.Decoder(_Completions)
_embeddings: Final = msgspec.json.Decoder(_Embeddings)
_list: Final = msgspec.json.Decoder(list[msgspec.Raw])


def prompt_text(kind: Estimate, body: bytes) -> bytes:
    """The JSON of what the model reads, in the order in which it reads it, wherever the body has it: OpenAI's cache is
    of beginnings (prompt caching guide: tools and an output schema come before the messages). b"": there is none, or
    the body cannot be read."""
    try:
        if kind == "chat":
            chat = decode_leniently(_chat, body)
            return b"".join((chat.tools, chat.functions, chat.response_format, chat.messages))
        if kind == "responses":
            responses = decode_leniently(_responses, body)
            return b"".join((responses.tools, responses.text, responses.instructions, responses.input))
        if kind == "completions":
            return bytes(decode_leniently(_completions, body).prompt)
    except BROKEN:
        pass
    return b""


def is_single_input(body: bytes) -> bool:
    """Whether a request for embeddings has one input: a text or a prompt's token ids, or a list of one of them."""
    try:
        given = bytes(decode_leniently(_embeddings, body).input)
        if given[:1] != b"[":
            return given[:1] == b'"'
        first = given[1:].lstrip(_BLANKS)[:1]
        return (first != b"" and first in _DIGITS) or len(_list.decode(given)) == 1
    except BROKEN:
        return False
