"""The simulated model's answers: always the same for the same prompt, with token counts that can be checked by hand.

One piece is one token: a word of text, or up to four characters of JSON (tool arguments, structured output).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from quotapool.simulator.parsed_request import COMPLETIONS, EMBEDDINGS, RESPONSES, ParsedRequest, read_prompt

WORDS: Final = (
    "the", "pool", "shares", "its", "load", "and", "every", "key", "keeps", "a", "budget", "that", "time", "fills",
    "up", "again",
)  # fmt: skip
REFUSAL: Final = ("I'm", " sorry", ",", " but", " I", " cannot", " help", " with", " that", ".")
REASONING_TOKENS: Final = 8  # spent before the first visible token by a request that asks for effort
CACHE_FROM_TOKENS: Final = 1024  # OpenAI caches prompts from 1,024 tokens on ...
CACHE_STEP_TOKENS: Final = 128  # ... in steps of 128


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice: text, or the arguments of one call of `function`. `cut`: the output limit ended it; `filtered`: the
    content filter did. `refuses`: the text says why there is no answer."""

    pieces: tuple[str, ...]
    function: str | None
    reasoning: int
    cut: bool
    filtered: bool = False
    refuses: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        return self.reasoning + len(self.pieces)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens billed. `cached` is part of `prompt`, `reasoning` part of `completion`."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


def usage_of(parsed: ParsedRequest, answers: tuple[Answer, ...]) -> Usage:
    prompt = parsed.prompt.tokens
    if parsed.shape is EMBEDDINGS:  # each input has tokens of its own
        prompt = sum(read_prompt(item).tokens for item in embedded_items(parsed))
    cached = prompt - prompt % CACHE_STEP_TOKENS if prompt >= CACHE_FROM_TOKENS else 0
    completion = sum(answer.tokens for answer in answers)
    return Usage(prompt, completion, cached, sum(answer.reasoning for answer in answers))


def compose(parsed: ParsedRequest, length: int, digest: int, outcome: str = "") -> tuple[Answer, ...]:
    """The `n` choices of an answer; `length` is in tokens, for text that no limit cuts shorter. Its words follow from
    `digest`. `outcome`: "refusal" or "content_filter" instead of an answer, or after the half of one."""
    refuses = outcome == "refusal" and parsed.shape is not COMPLETIONS  # which has no place for one
    filtered = outcome == "content_filter"
    function = None if refuses or filtered else called_function(parsed)
    schema = output_schema(parsed)
    reasoning = REASONING_TOKENS if parsed.wants_reasoning else 0
    answers = []
    for index in range(parsed.n):
        if refuses:
            pieces = list(REFUSAL)
        elif function is not None:
            pieces = json_pieces(sample(function[1], function[1]))
        elif schema is not None:
            pieces = json_pieces(sample(schema, schema))
        else:
            pieces = words(digest + index, length)
        if filtered:
            pieces = pieces[: len(pieces) // 2]
        limit = len(pieces) + reasoning if parsed.max_output is None else parsed.max_output
        thought = min(reasoning, limit)
        kept = tuple(pieces[: limit - thought])
        cut = len(kept) < len(pieces)
        answers.append(
            Answer(
                kept, function[0] if function else None, thought, cut, filtered=filtered and not cut, refuses=refuses
            )
        )
    return tuple(answers)


def embedded_items(parsed: ParsedRequest) -> list[Any]:
    """The inputs of an embeddings request: a text, texts, one array of tokens, arrays of tokens."""
    items = parsed.body["input"]
    return items if isinstance(items, list) and not all(isinstance(item, int) for item in items) else [items]


def words(digest: int, length: int) -> list[str]:
    """`length` words with the prompt's checksum, so that mixed-up answers are noticed."""
    pieces = ["Simulated", " answer", f" {digest & 0xFFFFFFFF:08x}:"]
    pieces += [" " + WORDS[(digest + step) % len(WORDS)] for step in range(length - len(pieces))]
    return pieces[:length]


def json_pieces(value: Any) -> list[str]:
    text = msgspec.json.encode(value).decode()
    return [text[start : start + 4] for start in range(0, len(text), 4)]


def called_function(parsed: ParsedRequest) -> tuple[str, dict[str, Any]] | None:
    """The tool that the model calls: the chosen or the first one; none if not allowed, or after a tool's result."""
    tools = parsed.body.get("tools")
    choice = parsed.body.get("tool_choice")
    if not isinstance(tools, list) or choice == "none" or answers_a_tool(parsed):
        return None
    # Chat nests {"type": "function", "function": {...}}, responses are flat.
    offered = [
        tool.get("function", tool) for tool in tools if isinstance(tool, dict) and tool.get("type") == "function"
    ]
    wanted = choice.get("function", choice).get("name") if isinstance(choice, dict) else None
    for tool in offered:
        if isinstance(tool.get("name"), str) and wanted in {None, tool["name"]}:
            return tool["name"], tool.get("parameters") or {}
    return None


def answers_a_tool(parsed: ParsedRequest) -> bool:
    messages = parsed.body.get("input" if parsed.shape is RESPONSES else "messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and (last.get("role") == "tool" or last.get("type") == "function_call_output")


def output_schema(parsed: ParsedRequest) -> dict[str, Any] | None:
    """The JSON schema the answer must follow, {} for any JSON object, None for text."""
    if parsed.shape is RESPONSES:
        text = parsed.body.get("text")
        wanted = text.get("format") if isinstance(text, dict) else None
    else:
        wanted = parsed.body.get("response_format")
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_schema":
        schema = wanted.get("json_schema", wanted).get("schema")
        return schema if isinstance(schema, dict) else {}
    return {} if wanted.get("type") == "json_object" else None


def sample(schema: Any, root: dict[str, Any], depth: int = 0) -> Any:
    """The simplest value a JSON schema allows; `$ref` is looked up in `root`."""
    if not isinstance(schema, dict) or depth > 16:
        return None
    if "$ref" in schema:
        found: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            found = found.get(part) if isinstance(found, dict) else None
        return sample(found, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    for first in ("enum", "anyOf", "oneOf"):
        if schema.get(first):
            return schema[first][0] if first == "enum" else sample(schema[first][0], root, depth + 1)
    kind = schema.get("type", "object")
    match kind[0] if isinstance(kind, list) else kind:
        case "string":
            return "simulated"
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "array":
            return []
        case "null":
            return None
    properties: dict[str, Any] = schema.get("properties") or {}
    required = schema.get("required") or properties
    return {name: sample(properties[name], root, depth + 1) for name in required if name in properties}
