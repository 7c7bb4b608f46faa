"""Whether an answer to a request may be kept at all, and the text that is equal for all requests with the same answer.

That text is the request's JSON with sorted members and one spelling of strings and numbers, without blanks and without
what does not shape the answer: `left_out.py` says what that is, and why. A member that is not known here stays in.

Never kept is what depends on more than the request's text: stored objects, hosted tools and remote content, which may
have changed since. So is what might be read in two ways: a member that is given twice, or with a type that OpenAI does
not document. Sources: OpenAI's specification, and the types of its Python SDK 3.54.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from quotapool.openai.endpoints import Endpoint
from quotapool.openai.facts import Canonical
from quotapool.openai.ids import FIELDS
from quotapool.openai.jsontext import BROKEN, count_of
from quotapool.openai.left_out import LEFT_OUT, NULL_IS_DEFAULT
from quotapool.openai.own_members import OWN

ENDPOINT: Final = "endpoint"
QUERY: Final = "query"
BODY: Final = "body"
LARGE: Final = "large"
MALFORMED: Final = "malformed"
REPEATED: Final = "repeated_member"
STORED: Final = "stored_objects"
BACKGROUND: Final = "background"
PREWARM: Final = "prewarm"
HOSTED: Final = "tools_hosted"
AUDIO: Final = "audio"
REMOTE: Final = "remote_content"

NEVER: Final[dict[str, str]] = {
    ENDPOINT: "answers of this endpoint are not kept",
    QUERY: "the path has a query",
    BODY: "a GET has a body",
    LARGE: "the body is longer than 4 MiB",
    MALFORMED: "the body is not JSON, or a member has a type that OpenAI does not document",
    REPEATED: "a member is given twice, and it is not certain which one upstream reads",
    STORED: "it stores its answer, or names stored objects: files, responses, conversations, items, prompts",
    BACKGROUND: "its answer is fetched later",
    PREWARM: "it is made for what it does upstream, not for its answer",
    HOSTED: "tools run at OpenAI or at third parties: what they find changes",
    AUDIO: "it asks for audio, which names a stored object",
    REMOTE: "it names an image or a file by its URL: what is there may change, and signed URLs differ each time",
}
"""Why a request's answer is never kept: the words of `canonical`, and what each means."""

MOST: Final = 4 * 2**20  # bytes; longer bodies take more than 10 ms here, and are hardly ever sent twice


_STREAM_OPTIONS: Final = frozenset({"include_usage", "include_obfuscation"})
_CHAT_TOOLS: Final = frozenset({"function", "custom"})  # chat has no hosted ones but by `web_search_options`
_SEARCH_MODEL: Final = ("gpt-", "-search-")  # these models (gpt-4o-search-preview) search the web unasked
_CLIENTS_TOOLS: Final = frozenset({"function", "custom", "namespace", "local_shell", "apply_patch"})
"""Tools that the client runs itself. A `shell` is one of them if its environment is local."""
_WHOLE_ITEMS: Final = frozenset(
    {"function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "local_shell_call",
     "local_shell_call_output", "shell_call", "shell_call_output", "apply_patch_call", "apply_patch_call_output"}
)  # fmt: skip
"""Items that upstream reads from the request, like messages. Others stand for stored ones, or are hosted tools'."""
_HIDDEN_ITEMS: Final = frozenset(
    {"reasoning", "compaction"}
)  # read from the request if their encrypted content is there
_GET: Final = frozenset({"models", "models/{id}"})

_Check = Callable[[dict[str, Any]], str]


class _Rules:
    """What holds for the bodies of one endpoint."""

    def __init__(self, path: str, check: _Check, choices: Callable[[dict[str, Any]], int], *, generates: bool) -> None:
        self.target = f"/v1/{path}"
        self.left_out = frozenset(row.member for row in LEFT_OUT if path in row.endpoints.split())
        self.nullable = frozenset(NULL_IS_DEFAULT[path].split())
        self.check = check
        self.choices = choices
        self.generates = generates  # text, token by token
        self.repeats = path == "responses"  # in its answer, members of the request


def canonical(endpoint: Endpoint, method: str, target: str, text: bytes) -> Canonical | str:
    """What the answer to a request depends on; a word of NEVER if it is never kept.

    `target` as the client sent it, `text` the body without its encoding. Takes time linear in the text.
    """
    path = endpoint.path
    rules = _RULES.get(path)
    if rules is None or method != "POST":
        return _read_only(path, method, target, text)
    if target != rules.target:
        return QUERY if "?" in target else ENDPOINT
    if len(text) > MOST:
        return LARGE
    try:
        return _of_body(rules, text)
    except BROKEN:
        return MALFORMED


def _read_only(path: str, method: str, target: str, text: bytes) -> Canonical | str:
    if method != "GET" or path not in _GET:
        return ENDPOINT
    if "?" in target:
        return QUERY
    return BODY if text else Canonical(target.encode("utf-8", "surrogateescape"))


def _of_body(rules: _Rules, text: bytes) -> Canonical | str:
    """Raises one of BROKEN."""
    body = _body.decode(text)
    choices = rules.choices(body)
    if choices < 1:
        return MALFORMED
    streamed = asked_usage = keeps_options = False
    temperature = 0.0
    if rules.generates:
        stream = body.get("stream")
        if stream is not None:
            if type(stream) is not bool:
                return MALFORMED
            streamed = stream
        options = body.get("stream_options")
        if options is not None:
            if not streamed or type(options) is not dict:
                return MALFORMED
            include = options.get("include_usage")
            if include is not None and type(include) is not bool:
                return MALFORMED
            asked_usage = include is True and not rules.repeats
            keeps_options = not options.keys() <= _STREAM_OPTIONS
        asked = body.get("temperature")
        temperature = 1.0 if asked is None else _number(asked)
        if temperature < 0:
            return MALFORMED
    never = rules.check(body)
    if never:
        return never
    left_out, nullable = rules.left_out, rules.nullable
    left = {name: value for name, value in body.items() if name in left_out or (value is None and name in nullable)}
    if keeps_options:
        del left["stream_options"]
    for name in left:
        del body[name]
    shaping = _encoder.encode(body)
    rest = _encoder.encode(left) if left else b""
    if _repeats_a_member(text, shaping, rest):
        return REPEATED
    never = _elsewhere(shaping)
    if never:
        return never
    own = b""
    if rules.repeats and left:
        repeated = {name: value for name, value in left.items() if name in OWN and value is not None}
        own = _encoder.encode(repeated) if repeated else b""
    return Canonical(shaping, temperature, streamed, asked_usage, choices, own)


# ---- one spelling

_MOST_CERTAIN: Final = 16  # characters of a literal in which a double holds every digit: 15 of them, and the point
_LONGEST_WHOLE: Final = 40  # digits of a whole number that is written out


def _one_spelling(literal: str) -> int | float | msgspec.Raw:
    """A number with a fraction or an exponent, by its exact value: 1.0 and 10e-1 are 1.

    With at most 15 digits every decimal has a double of its own (IEEE 754); longer ones are kept as digits and an
    exponent, since a double would make different ones equal.
    """
    if len(literal) <= _MOST_CERTAIN and "e" not in literal and "E" not in literal:
        value = float(literal)
        return int(value) if value.is_integer() else value
    mantissa, _, power = literal.lower().partition("e")
    sign = "-" if mantissa[0] == "-" else ""
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    padded = (whole + fraction).lstrip("0")
    digits = padded.rstrip("0")
    if not digits:
        return 0
    exponent = int(power or "0") - len(fraction) + len(padded) - len(digits)
    if exponent >= 0 and len(digits) + exponent <= _LONGEST_WHOLE:
        return int(f"{sign}{digits}{'0' * exponent}")
    if len(digits) < _MOST_CERTAIN and abs(exponent) < _LONGEST_WHOLE:
        return float(f"{sign}{digits}e{exponent}")
    return msgspec.Raw(f"{sign}{digits}e{exponent}".encode())


_body: Final = msgspec.json.Decoder(dict[str, Any], float_hook=_one_spelling)
_ESCAPE: Final = re.compile(rb"\\(?:(u003[aA])|.)", re.DOTALL)  # group 1: a colon
_encoder: Final = msgspec.json.Encoder(order="deterministic")


def _number(value: object) -> float:
    """A decoded number; -1 if it is none."""
    if type(value) is float or type(value) is int:
        return float(value)
    return float(bytes(value)) if isinstance(value, msgspec.Raw) else -1.0


def _repeats_a_member(text: bytes, shaping: bytes, rest: bytes) -> bool:
    """Whether `text` has more members than were decoded of it: of a name that is given twice, the first is lost.

    Each member has a colon, and the colons in strings are still there, those spelled as an escape as themselves.
    """
    colons = text.count(b":")
    if text.find(b"\\") >= 0 and text.find(b"\\u003") >= 0:
        colons += sum(1 for escape in _ESCAPE.finditer(text) if escape[1])
    return colons != shaping.count(b":") + rest.count(b":")


# ---- what lies elsewhere
#
# In the canonical text a name has one spelling, and a quote within a string is escaped: these bytes are members,
# wherever they stand. In a tool's schema, such a name has an object for a value.


def _elsewhere(text: bytes) -> str:
    """Whether parts of content name files, or lie behind a URL."""
    if text.find(b'"file_id":"') >= 0:
        return STORED
    if text.find(b'_url":') < 0:
        return ""
    if text.find(b'"file_url":"') >= 0:
        return REMOTE
    for mark in (b'"url":"', b'"image_url":"'):
        if text.count(mark) != text.count(mark + b"data:"):
            return REMOTE
    return ""


# ---- by endpoint


def _never_chat(body: dict[str, Any]) -> str:
    store = body.get("store")
    if store is not None and store is not False:
        return STORED if store is True else MALFORMED
    modalities = body.get("modalities")
    if body.get("audio") is not None or (type(modalities) is list and "audio" in modalities):
        return AUDIO
    if body.get("web_search_options") is not None:
        return HOSTED
    model = body.get("model")
    if type(model) is not str:
        return MALFORMED
    if model.startswith(_SEARCH_MODEL[0]) and _SEARCH_MODEL[1] in model:
        return HOSTED
    messages = body.get("messages")
    if type(messages) is not list:
        return MALFORMED
    for message in messages:
        if type(message) is not dict:
            return MALFORMED
        if message.get("audio") is not None:  # an answer of audio, by its id
            return STORED
    tools = body.get("tools")
    return "" if tools is None else _never_tools(tools, _CHAT_TOOLS)


def _never_without_a_model(body: dict[str, Any]) -> str:
    return "" if type(body.get("model")) is str else MALFORMED


def _never_responses(body: dict[str, Any]) -> str:
    if body.get("store") is not False:  # stored by default
        return STORED
    background = body.get("background")
    if background is not None and background is not False:
        return BACKGROUND
    for name, value in body.items():
        if value is not None and (name in FIELDS or name == "prompt"):
            return STORED
    if type(body.get("model")) is not str:
        return MALFORMED
    caching = body.get("prompt_cache_options")
    if type(caching) is dict:
        if caching.get("comparison_response_id") is not None:
            return STORED
        if caching.get("prewarm"):
            return PREWARM
    if body.get("generate") is False:
        return PREWARM
    tools = body.get("tools")
    never = "" if tools is None else _never_tools(tools, _CLIENTS_TOOLS)
    items = body.get("input")
    if never or type(items) is str:
        return never
    if type(items) is not list:
        return MALFORMED
    for item in items:
        if type(item) is not dict:
            return MALFORMED
        never = _never_item(item)
        if never:
            return never
    return ""


def _never_item(item: dict[str, Any]) -> str:
    kind = item.get("type")
    if kind is None or kind == "message":
        return "" if item.get("content") is not None else STORED  # with its id alone it stands for a stored one
    if type(kind) is not str:
        return MALFORMED
    if kind in _WHOLE_ITEMS:
        return ""
    if kind in _HIDDEN_ITEMS:
        return "" if item.get("encrypted_content") or item.get("id") is None else STORED
    return STORED if kind == "item_reference" else HOSTED


def _never_tools(tools: object, own: frozenset[str]) -> str:
    if type(tools) is not list:
        return MALFORMED
    for tool in tools:
        if type(tool) is not dict:
            return MALFORMED
        kind = tool.get("type")
        if type(kind) is str and kind in own:
            continue
        environment = tool.get("environment") if kind == "shell" and own is _CLIENTS_TOOLS else None
        if type(environment) is not dict or environment.get("type") != "local":
            return HOSTED
    return ""


def _never_moderations(body: dict[str, Any]) -> str:
    model = body.get("model")
    return "" if model is None or type(model) is str else MALFORMED


def _one(_: dict[str, Any]) -> int:
    return 1


def _n(body: dict[str, Any]) -> int:
    """Answers to each prompt; 0: not a whole number above 0."""
    n = body.get("n")
    return 1 if n is None else count_of(n)


def _n_by_prompt(body: dict[str, Any]) -> int:
    prompt = body.get("prompt")
    return _n(body) * (1 if prompt is None else _inputs_in(prompt))


def _inputs(body: dict[str, Any]) -> int:
    return _inputs_in(body.get("input"))


def _inputs_in(value: object) -> int:
    """Texts, or lists of token ids; one list of token ids is one. 0: neither."""
    if type(value) is str:
        return 1
    if type(value) is not list or not value:
        return 0
    return 1 if type(value[0]) is int else len(value)


_RULES: Final[dict[str, _Rules]] = {
    "chat/completions": _Rules("chat/completions", _never_chat, _n, generates=True),
    "completions": _Rules("completions", _never_without_a_model, _n_by_prompt, generates=True),
    "responses": _Rules("responses", _never_responses, _one, generates=True),
    "embeddings": _Rules("embeddings", _never_without_a_model, _inputs, generates=False),
    "moderations": _Rules("moderations", _never_moderations, _one, generates=False),
}
