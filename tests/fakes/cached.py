"""What a client gets from a pool with a cache: an answer, how it came about, and what it says whichever form it has."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from openai import AsyncOpenAI, OpenAI
from openai.lib.streaming.chat import ChatCompletionStreamState

HEADER: Final = "x-quotapool-cache"
# What the SDK adds of its own when it puts a stream together, and what only a whole answer has.
_ADDED: Final = ("parsed", "parsed_arguments", "output_parsed", "annotations")


@dataclass(frozen=True)
class Got:
    """`result`: hit, miss, coalesced or bypass; `said`: the SDK's object, or the list of a stream's events."""

    result: str
    source: str
    age: str | None
    said: Any

    @property
    def whole(self) -> dict[str, Any]:
        """The answer as plain data: of a stream, what the SDK puts together of its events."""
        if not isinstance(self.said, list):
            return stripped(self.said.model_dump(mode="json"))
        kind = self.said[0].object if hasattr(self.said[0], "object") else "response"
        if kind == "chat.completion.chunk":
            state = ChatCompletionStreamState()
            for chunk in self.said:
                state.handle_chunk(chunk)
            return stripped(state.get_final_completion().model_dump(mode="json"))
        return stripped(texts_of(self.said) if kind == "text_completion" else response_of(self.said))


def stripped(value: Any) -> Any:
    """Without what the SDK adds, and without empty members: a chunk leaves out what an answer has as null."""
    if isinstance(value, dict):
        kept = {name: stripped(one) for name, one in value.items() if name not in _ADDED}
        return {name: one for name, one in kept.items() if one is not None}
    return [stripped(one) for one in value] if isinstance(value, list) else value


def without_usage(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "usage"}


def texts_of(chunks: Sequence[Any]) -> dict[str, Any]:
    """A legacy completion: the SDK has nothing that puts its chunks together."""
    choices: dict[int, dict[str, Any]] = {}
    whole = {**chunks[0].model_dump(mode="json"), "usage": chunks[-1].model_dump(mode="json").get("usage")}
    for chunk in chunks:
        for choice in chunk.model_dump(mode="json")["choices"]:
            known = choices.setdefault(choice["index"], {"text": "", "index": choice["index"], "logprobs": None})
            known["text"] += choice["text"]
            known["finish_reason"] = choice["finish_reason"]
            if choice["logprobs"] is not None:
                told = known["logprobs"] = known["logprobs"] or {}
                for name, values in choice["logprobs"].items():
                    told[name] = None if values is None else [*(told.get(name) or ()), *values]
    return {**whole, "choices": [choices[index] for index in sorted(choices)]}


def response_of(events: Sequence[Any]) -> dict[str, Any]:
    """The response that ends a stream, which is also what its events say one by one."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1].response
    done = [event.item.model_dump(mode="json") for event in events if event.type == "response.output_item.done"]
    assert done == [item.model_dump(mode="json") for item in last.output]
    words = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert words == last.output_text
    return dict(last.model_dump(mode="json"))


def got_by_sync(client: OpenAI, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Got:
    """One call of `path`, such as `chat.completions.create`."""
    raw = _raw(client, path)(**body, extra_headers=headers)
    said = raw.parse()
    return _got(raw, list(said) if body.get("stream") else said)


async def got_by_async(
    client: AsyncOpenAI, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Got:
    """The same with the SDK's other client."""
    raw = _raw(client, path)(**body, extra_headers=headers)
    if inspect.isawaitable(raw):
        raw = await raw
    said = raw.parse()
    return _got(raw, [event async for event in said] if body.get("stream") else said)


def _raw(client: Any, path: str) -> Any:
    resource, _, method = path.rpartition(".")
    return getattr(attrgetter(resource)(client).with_raw_response, method)


def _got(raw: Any, said: Any) -> Got:
    headers = raw.headers
    return Got(headers.get(HEADER, ""), headers.get("x-quotapool-source", ""), headers.get("age"), said)
