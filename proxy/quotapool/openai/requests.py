"""What the proxy must know about a request before it sends it: model, stream, cost, and what ties it to an account.

Cost follows OpenAI's rate-limits guide: "the maximum of `max_tokens` and the estimated number of tokens based on the
character count of your request". Our reading of the two halves:

- output: the maximum asked for x `n` (or `best_of`) x number of prompts. OpenAI does not say what it assumes if none is
  given; DEFAULT_OUTPUT is the documented default of /completions, and callers may pass another one.
- characters: Unicode characters of the words the model reads (message content and text parts, tool calls and their
  outputs, instructions, input), and the JSON of tools and of output schemas as it was sent. Base64 and URLs of
  images, audio and files are not words. Four characters are one token, rounded up. A token id is one token.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from quotapool.domain.quantities import Cost
from quotapool.openai.facts import RequestFacts
from quotapool.openai.jsontext import BROKEN, count_of, decode_leniently, set_member
from quotapool.openai.shapes import (
    NONE,
    Body,
    ChatBody,
    CompletionsBody,
    EmbeddingsBody,
    Peek,
    ResponsesBody,
    Speech,
    StreamOptions,
    WithStreamOptions,
)

Kind = Literal["chat", "completions", "responses", "embeddings"]

DEFAULT_OUTPUT: Final = 16  # tokens
CHARACTERS_PER_TOKEN: Final = 4
_MOST: Final = 2**53 - 1  # the largest count that Lua, where budgets live, holds exactly


class InvalidRequest(ValueError):
    """The body cannot be routed or costed. `str(error)` is for the client; `param` names the field that is wrong, "" if
    the body as a whole is not a JSON object."""

    def __init__(self, message: str, param: str = "") -> None:
        super().__init__(message)
        self.param = param


_chat: Final = msgspec.json.Decoder(ChatBody)
_responses: Final = msgspec.json.Decoder(ResponsesBody)
_completions: Final = msgspec.json.Decoder(CompletionsBody)
_embeddings: Final = msgspec.json.Decoder(EmbeddingsBody)
_peek: Final = msgspec.json.Decoder(Peek)
_speech: Final = msgspec.json.Decoder(Speech)
_stream_options: Final = msgspec.json.Decoder(WithStreamOptions)
_include_usage: Final = msgspec.json.Decoder(StreamOptions)

# Members of messages and items whose strings the model reads. What is not here (data, file_data, image_url, url,
# file_url, encrypted_content, result, ids, types) is not words.
_WORDS: Final = frozenset(
    {
        "arguments",
        "code",
        "content",
        "custom",
        "function",
        "function_call",
        "input",
        "name",
        "output",
        "refusal",
        "summary",
        "text",
        "tool_calls",
    }
)


def read_request(kind: Kind, body: bytes, default_output: int = DEFAULT_OUTPUT) -> RequestFacts:
    """The facts of a JSON body for one of the endpoints that are counted in tokens.

    Raises InvalidRequest if the body is not a JSON object, is nested too deeply, or names no model; responses need none
    (OpenAI's specification): their `model` may be "".
    """
    try:
        if kind == "chat":
            return _read_chat(decode_leniently(_chat, body), default_output)
        if kind == "responses":
            return _read_responses(decode_leniently(_responses, body), default_output)
        if kind == "completions":
            return _read_completions(decode_leniently(_completions, body))
        return _read_embeddings(decode_leniently(_embeddings, body))
    except InvalidRequest:
        raise
    except RecursionError:
        raise InvalidRequest("The JSON body is nested too deeply.") from None
    except msgspec.ValidationError:
        raise InvalidRequest("The request body must be a JSON object.") from None
    except ValueError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from None


def peek_model(body: bytes) -> tuple[str, bool, int]:
    """(model, stream, n) of any JSON body; ("", False, 1) if it has none of them. Never raises."""
    try:
        found = decode_leniently(_peek, body)
    except BROKEN:
        return "", False, 1
    return found.model if type(found.model) is str else "", found.stream is True, count_of(found.n) or 1


def speech_characters(body: bytes) -> int:
    """The length of a speech request's text: models like tts-1 are billed by it, and binary answers report no usage."""
    try:
        text = decode_leniently(_speech, body).input
    except BROKEN:
        return 0
    return len(text) if type(text) is str else 0


def inject_include_usage(body: bytes) -> bytes:
    """A streaming chat or completions body that asks for the usage chunk; all other bytes stay as they are.

    The same object is returned if there is nothing to do: usage is asked for already, `stream_options` has a type that
    upstream will refuse, or the body is not a JSON object.
    """
    try:
        options = bytes(_stream_options.decode(body).stream_options) if body.find(b'"stream_options"') >= 0 else b""
        if options in {b"", b"null"}:
            return set_member(body, "stream_options", b'{"include_usage":true}')
        include = _include_usage.decode(options).include_usage
        if include is None or include is False:
            return set_member(body, "stream_options", set_member(options, "include_usage", b"true"))
    except BROKEN:
        return body
    return body


def _read_chat(r: ChatBody, default_output: int) -> RequestFacts:
    characters = _characters(r.messages)
    if r.prediction is not None:
        characters += _characters(r.prediction)
    characters += _length(r.tools) + _length(r.functions) + _length(r.response_format)
    named, choices = max(count_of(r.max_completion_tokens), count_of(r.max_tokens)), count_of(r.n) or 1
    return _facts(r, (named or default_output) * choices, characters, named=named, choices=choices)


def _read_responses(r: ResponsesBody, default_output: int) -> RequestFacts:
    characters = _characters(r.input) + _characters(r.instructions) + _length(r.tools) + _length(r.text)
    prompt = _text(r.prompt.get("id")) if type(r.prompt) is dict else None
    background = r.background is not None and r.background is not False
    stateful = background or r.conversation is not None
    named = count_of(r.max_output_tokens)
    return _facts(
        r,
        named or default_output,
        characters,
        named=named,
        background=background,
        stateful=stateful,
        prompt=prompt or "",
    )


def _read_completions(r: CompletionsBody) -> RequestFacts:
    characters, prompts = _prompts(r.prompt)
    output = count_of(r.max_tokens) or DEFAULT_OUTPUT
    choices = max(count_of(r.n), count_of(r.best_of), 1) * prompts
    return _facts(r, output * choices, characters + _characters(r.suffix), named=output, choices=choices)


def _read_embeddings(r: EmbeddingsBody) -> RequestFacts:
    characters, _ = _prompts(r.input)
    return _facts(r, 0, characters)


def _facts(
    r: Body,
    output: int,
    characters: int,
    *,
    named: int = 0,
    choices: int = 1,
    background: bool = False,
    stateful: bool = False,
    prompt: str = "",
) -> RequestFacts:
    model = prompt if r.model is None else (r.model or prompt)
    if type(model) is not str:
        raise InvalidRequest("Invalid type for 'model': it must be a string.", "model")
    if not model and type(r) is not ResponsesBody:
        raise InvalidRequest("You must provide a model parameter.", "model")
    tokens = max(output, -(-characters // CHARACTERS_PER_TOKEN))
    options = r.stream_options
    return RequestFacts(
        model,
        r.stream is True,
        type(options) is dict and options.get("include_usage") is True,
        Cost(1, min(_MOST, tokens)),
        stateful,
        r.store if type(r.store) is bool else None,
        _text(r.service_tier),
        _text(r.prompt_cache_key),
        prompt,
        characters // CHARACTERS_PER_TOKEN,
        min(_MOST, named * choices),
        choices,
        background,
        type(r) is ResponsesBody and bytes(r.reasoning).find(b'"summary"') >= 0,
    )


def _characters(value: object) -> int:
    """Characters of the words in a message, an item, a part, or lists of them."""
    if type(value) is str:
        return len(value)
    if type(value) is list:
        total = 0
        for element in value:
            total += _characters(element)
        return total
    if type(value) is dict:
        total = 0
        for name, member in value.items():
            if name in _WORDS:
                total += len(member) if type(member) is str else _characters(member)
        return total
    return 0


def _prompts(value: object) -> tuple[int, int]:
    """(characters, prompts) of a text, texts, one prompt's token ids, or several prompts' token ids."""
    if type(value) is not list:
        return _characters(value), 1
    characters = 0
    for element in value:
        if type(element) is str:
            characters += len(element)
        elif type(element) is list:
            characters += CHARACTERS_PER_TOKEN * len(element)
        else:
            characters += CHARACTERS_PER_TOKEN
    one = not value or type(value[0]) is int
    return characters, 1 if one else len(value)


def _length(raw: msgspec.Raw) -> int:
    return 0 if raw is NONE else memoryview(raw).nbytes


def _text(value: object) -> str | None:
    return value if type(value) is str else None
