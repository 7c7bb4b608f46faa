"""The official Python SDK gets equal objects from a miss, a hit and a replay, in whichever form it asks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.fakes.cached import Got, got_by_async, got_by_sync, without_usage
from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.fakes.running import reset, running_proxy, running_simulator

CHAT, COMPLETIONS, RESPONSES = "chat.completions.create", "completions.create", "responses.create"
EMBEDDINGS, MODERATIONS = "embeddings.create", "moderations.create"
PATHS: Final = {
    CHAT: "POST /v1/chat/completions",
    COMPLETIONS: "POST /v1/completions",
    RESPONSES: "POST /v1/responses",
    EMBEDDINGS: "POST /v1/embeddings",
    MODERATIONS: "POST /v1/moderations",
}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
RESPONSES_TOOL = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}
THOUGHT = {"reasoning": {"effort": "high", "summary": "auto"}, "include": ["reasoning.encrypted_content"]}
# What is asked besides the model and a prompt that nobody else sends.
GENERATED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": (CHAT, {}),
    "chat with several choices": (CHAT, {"n": 3}),
    "chat with a tool": (CHAT, {"tools": [CHAT_TOOL]}),
    "chat with log probabilities": (CHAT, {"logprobs": True, "top_logprobs": 2}),
    "chat cut by its limit": (CHAT, {"max_completion_tokens": 4}),
    "completions": (COMPLETIONS, {}),
    "completions with log probabilities": (COMPLETIONS, {"logprobs": 2}),
    "responses": (RESPONSES, {"store": False}),
    "responses with a tool": (RESPONSES, {"store": False, "tools": [RESPONSES_TOOL]}),
    "responses with reasoning": (RESPONSES, {"store": False, **THOUGHT}),
    "responses with log probabilities": (
        RESPONSES,
        {"store": False, "include": ["message.output_text.logprobs"], "top_logprobs": 1},
    ),
}
FORMS: Final = {
    "plain": {},
    "stream": {"stream": True},
    "stream with usage": {"stream": True, "stream_options": {"include_usage": True}},
}
_serial = itertools.count()

Ask = Callable[..., Got]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(2, "--answers", "by_call") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    config = pool_config(simulator, cache={"models": ["*"], "tools": True})
    with running_proxy(tmp_path_factory.mktemp("cached"), config) as running:
        yield running


@pytest.fixture(scope="module", params=["sync", "async"])
def ask(request: pytest.FixtureRequest, proxy: RunningProxy) -> Iterator[Ask]:
    """`ask(path, body, **headers)`, with a client of either kind."""
    options: dict[str, Any] = {"base_url": proxy.base_url, "api_key": "anything", "max_retries": 0}
    if request.param == "sync":
        with OpenAI(**options) as client:
            yield lambda path, body, **headers: got_by_sync(client, path, body, headers)
        return
    with asyncio.Runner() as runner:
        other = AsyncOpenAI(**options)
        yield lambda path, body, **headers: runner.run(got_by_async(other, path, body, headers))
        runner.run(other.close())


@pytest.fixture
def called(simulator: Simulator) -> Callable[[], dict[str, int]]:
    """How often upstream was called since the test began, by path."""
    reset(simulator)
    return lambda: {path: count for path, count in simulator.stats()["calls"].items() if path.startswith("POST")}


def fresh(path: str, **more: Any) -> dict[str, Any]:
    """A request that nobody has made before."""
    words = f"question {next(_serial)}"
    match path:
        case "chat.completions.create":
            return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": words}], **more}
        case "completions.create":
            return {"model": "gpt-3.5-turbo-instruct", "prompt": words, "max_tokens": 20, **more}
        case "responses.create":
            return {"model": "gpt-5.5", "input": words, **more}
        case "embeddings.create":
            return {"model": "text-embedding-3-small", "input": words, **more}
        case _:
            return {"model": "omni-moderation-latest", "input": words, **more}


def forms_of(path: str) -> list[str]:
    return ["plain", "stream"] if path == RESPONSES else list(FORMS)


@pytest.mark.parametrize(
    ("case", "first", "then"),
    [
        (case, first, then)
        for case, (path, _) in GENERATED.items()
        for first, then in itertools.product(forms_of(path), repeat=2)
    ],
)
def test_a_hit_is_the_answer_that_was_kept_in_whichever_form(case, first, then, ask, called):
    path, more = GENERATED[case]
    body = fresh(path, **more)
    miss = ask(path, {**body, **FORMS[first]})
    hit = ask(path, {**body, **FORMS[then]})
    assert (miss.result, miss.source, miss.age) == ("miss", "upstream", None)
    assert hit.source == "cache"
    if hit.result == "hit":
        assert hit.age is not None
        assert int(hit.age) < 60
    else:  # it came before the proxy had seen that nothing follows the stream's last event
        assert (hit.result, hit.age, first != "plain") == ("coalesced", None, True)
    assert called() == {PATHS[path]: 1}
    assert without_usage(hit.whole) == without_usage(miss.whole)
    # Usage is there for who asked for it, and for nobody else
    for got, form in ((miss, first), (hit, then)):
        asked = form != "stream" or path == RESPONSES
        assert ("usage" in got.whole) == asked
    if "usage" in miss.whole and "usage" in hit.whole:
        assert miss.whole["usage"] == hit.whole["usage"]
    if first == then and first != "plain":
        assert hit.said == miss.said  # event by event


@pytest.mark.parametrize("path", [CHAT, RESPONSES, COMPLETIONS])
def test_a_request_that_says_the_same_in_other_words_is_the_same(path, ask, called):
    body = fresh(path, **({"store": False} if path == RESPONSES else {}))
    reordered = dict(reversed(body.items()))
    more = {"user": "somebody"} if path == COMPLETIONS else {"metadata": {"a": "b"}, "service_tier": "default"}
    first, again = ask(path, body), ask(path, {**reordered, **more})
    assert (first.result, again.result) == ("miss", "hit")
    other = ask(path, {**body, "temperature": 0.25})
    assert other.result == "miss"
    assert called() == {PATHS[path]: 2}


def test_moderations_are_kept(ask, called):
    body = fresh(MODERATIONS)
    miss, hit = ask(MODERATIONS, body), ask(MODERATIONS, body)
    assert (miss.result, hit.result) == ("miss", "hit")
    assert miss.said == hit.said
    assert called() == {PATHS[MODERATIONS]: 1}


@pytest.mark.parametrize("encoding", ["default", "float", "base64"])
@pytest.mark.parametrize("dimensions", [None, 64])
def test_embeddings_come_item_by_item_in_the_form_that_is_asked_for(encoding, dimensions, ask, called):
    more: dict[str, Any] = {} if encoding == "default" else {"encoding_format": encoding}
    more |= {} if dimensions is None else {"dimensions": dimensions}
    a, b, c = (fresh(EMBEDDINGS)["input"] for _ in range(3))
    first = ask(EMBEDDINGS, fresh(EMBEDDINGS, **more) | {"input": [a, b]})
    assert first.result == "miss"
    # Of these four only one is new, and one is there twice
    second = ask(EMBEDDINGS, fresh(EMBEDDINGS, **more) | {"input": [b, c, a, b]})
    assert called() == {PATHS[EMBEDDINGS]: 2}
    vectors, known = [item.embedding for item in second.said.data], [item.embedding for item in first.said.data]
    assert [item.index for item in second.said.data] == [0, 1, 2, 3]
    assert [vectors[0], vectors[2], vectors[3]] == [known[1], known[0], known[1]]
    # "question N" has 10 or 11 characters, 3 tokens; only the new one was billed.
    assert (second.said.usage.prompt_tokens, second.said.usage.total_tokens) == (3, 3)
    third = ask(EMBEDDINGS, fresh(EMBEDDINGS, **more) | {"input": c})
    assert (third.result, third.said.data[0].embedding, third.said.usage.total_tokens) == ("hit", vectors[1], 0)
    assert called() == {PATHS[EMBEDDINGS]: 2}


def test_embeddings_equal_those_that_upstream_itself_would_give(ask, called, simulator):
    inputs: list[Any] = [fresh(EMBEDDINGS)["input"] for _ in range(3)]
    ask(EMBEDDINGS, fresh(EMBEDDINGS) | {"input": inputs[1], "encoding_format": "base64"})
    with OpenAI(base_url=f"{simulator.url}/v1", api_key=simulator.secrets[0]) as direct:
        for encoding in ("float", "base64"):
            body: dict[str, Any] = fresh(EMBEDDINGS) | {"input": inputs, "encoding_format": encoding}
            assert [item.embedding for item in ask(EMBEDDINGS, body).said.data] == [
                item.embedding for item in direct.embeddings.create(**body).data
            ]


# ---- what a client may ask of the cache


def test_a_client_may_ask_for_kept_answers_only_and_is_refused_without_a_retry(proxy, simulator, called):
    body = fresh(CHAT)
    with OpenAI(base_url=proxy.base_url, api_key="anything", max_retries=3) as client:
        with pytest.raises(openai.InternalServerError) as refused:
            got_by_sync(client, CHAT, body, {"Cache-Control": "only-if-cached"})
        assert (refused.value.status_code, refused.value.code) == (504, "not_cached")
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert called() == {}
        got_by_sync(client, CHAT, body)
        assert got_by_sync(client, CHAT, body, {"Cache-Control": "only-if-cached"}).result == "hit"

    def logged() -> list[int]:
        statuses = [line["status"] for line in proxy.request_lines()]
        return statuses[statuses.index(504) :] if 504 in statuses else []

    wait_until(lambda: len(logged()) >= 3, "all are in the log", 15)
    assert logged()[:3] == [504, 200, 200]  # the SDK did not try again


def test_a_client_may_ask_for_a_new_answer_which_is_then_the_kept_one(ask, called):
    body = fresh(CHAT)
    first = ask(CHAT, body)
    renewed = ask(CHAT, body, **{"Cache-Control": "no-cache"})
    assert renewed.result == "bypass"
    assert renewed.said.choices[0].message.content != first.said.choices[0].message.content
    assert ask(CHAT, body).said == renewed.said
    assert called() == {PATHS[CHAT]: 2}


def test_what_a_client_wants_kept_nowhere_is_kept_nowhere(ask, called):
    body = fresh(CHAT)
    assert ask(CHAT, body, **{"Cache-Control": "no-store"}).result == "bypass"
    assert ask(CHAT, body).result == "miss"
    assert called() == {PATHS[CHAT]: 2}
