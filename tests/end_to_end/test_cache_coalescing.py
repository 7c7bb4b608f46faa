"""Identical requests under way share one call upstream: each SDK gets it as it comes, in the form that it asked for."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

import openai
import pytest
from openai import AsyncOpenAI

from tests.fakes.cached import Got, got_by_async, without_usage
from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.fakes.running import reset, running_proxy, running_simulator

CHAT, RESPONSES = "chat.completions.create", "responses.create"
CASES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": (CHAT, {}),
    "chat with several choices": (CHAT, {"n": 2}),
    "chat with log probabilities": (CHAT, {"logprobs": True}),
    "responses": (RESPONSES, {"store": False}),
    "responses with reasoning": (RESPONSES, {"store": False, "reasoning": {"effort": "low", "summary": "auto"}}),
}
USAGE: Final = {"stream": True, "stream_options": {"include_usage": True}}
_serial = itertools.count()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(2, "--answers", "by_call") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    config = pool_config(simulator, cache={"models": ["*"]}, timeouts={"first_byte": 30})
    with running_proxy(tmp_path_factory.mktemp("coalesced"), config) as running:
        yield running


@pytest.fixture(autouse=True)
def healed(simulator: Simulator) -> Iterator[None]:
    reset(simulator)
    yield
    reset(simulator)


def calls(simulator: Simulator) -> int:
    return sum(count for path, count in simulator.stats()["calls"].items() if path.startswith("POST"))


def hold(simulator: Simulator, events: int = 8) -> None:
    """Upstream's next stream stops after so many events, any other answer before its beginning."""
    for key in range(2):
        simulator.fault(key, "hold", events=events)


def release(simulator: Simulator) -> None:
    for key in range(2):
        simulator.heal(key)


def fresh(path: str, **more: Any) -> dict[str, Any]:
    """A request that nobody has made before."""
    words = f"question {next(_serial)}"
    if path == CHAT:
        return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": words}], **more}
    return {"model": "gpt-5.5", "input": words, **more}


def run(proxy: RunningProxy, story: Callable[[AsyncOpenAI], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        async with AsyncOpenAI(base_url=proxy.base_url, api_key="anything", max_retries=0) as client:
            await asyncio.wait_for(story(client), 30)

    asyncio.run(told())


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what, 10)


def under_way(proxy: RunningProxy, count: int) -> Callable[[], bool]:
    return lambda: proxy.total("quotapool_requests_in_flight") == count


@pytest.mark.parametrize("case", CASES)
def test_all_who_ask_the_same_get_one_answer_each_in_its_own_form(case, proxy, simulator):
    path, more = CASES[case]
    body = fresh(path, **more)
    forms: list[dict[str, Any]] = [{}, {"stream": True}, {}, {"stream": True}]
    if path == CHAT:
        forms.append(USAGE)

    async def story(client: AsyncOpenAI) -> None:
        hold(simulator)
        leader = asyncio.create_task(got_by_async(client, path, body | {"stream": True}))
        await until(lambda: calls(simulator) == 1, "the first one has reached upstream")
        followers = [asyncio.create_task(got_by_async(client, path, body | form)) for form in forms]
        await until(under_way(proxy, 1 + len(forms)), "all are under way")
        release(simulator)
        first, *others = await asyncio.gather(leader, *followers)
        assert first.result == "miss"
        assert [other.result for other in others] == ["coalesced"] * len(forms)
        assert {other.source for other in others} == {"cache"}
        for other in others:
            assert without_usage(other.whole) == without_usage(first.whole)
        assert others[1].said == others[3].said == first.said  # event by event
        assert calls(simulator) == 1

    run(proxy, story)


def test_who_comes_late_reads_from_the_beginning_while_the_answer_is_still_coming(proxy, simulator):
    body = fresh(CHAT, stream=True)

    async def story(client: AsyncOpenAI) -> None:
        hold(simulator, events=6)
        leader = await client.chat.completions.create(**body)
        begun = [await anext(leader) for _ in range(6)]
        late = await client.chat.completions.create(**body)
        assert [await anext(late) for _ in range(6)] == begun  # upstream has sent no more than this
        release(simulator)
        assert [chunk async for chunk in late] == [chunk async for chunk in leader]
        assert calls(simulator) == 1

    run(proxy, story)


def test_a_leader_that_leaves_does_not_end_it_for_the_others(proxy, simulator):
    body = fresh(CHAT, stream=True)

    async def story(client: AsyncOpenAI) -> None:
        hold(simulator, events=6)
        leader = await client.chat.completions.create(**body)
        await anext(leader)
        other = asyncio.create_task(got_by_async(client, CHAT, body))
        await until(under_way(proxy, 2), "both are under way")
        await leader.close()
        await asyncio.sleep(0.2)  # its call goes on, so nothing shows that the proxy has noticed
        release(simulator)
        got = await other
        assert (got.result, got.whole["choices"][0]["finish_reason"]) == ("coalesced", "stop")
        assert calls(simulator) == 1
        # And what was recorded is kept, or read to its end
        assert (await got_by_async(client, CHAT, body)).said == got.said
        assert calls(simulator) == 1

    run(proxy, story)


def test_an_error_of_upstreams_is_shared_with_those_waiting_and_kept_for_nobody(proxy, simulator):
    body = fresh(CHAT) | {"model": "no-such-model"}

    async def fails(client: AsyncOpenAI) -> openai.APIStatusError:
        with pytest.raises(openai.NotFoundError) as raised:
            await got_by_async(client, CHAT, body)
        return raised.value

    async def story(client: AsyncOpenAI) -> None:
        errors = await asyncio.gather(*(fails(client) for _ in range(4)))
        assert {error.code for error in errors} == {"model_not_found"}
        asked = calls(simulator)
        assert (await fails(client)).response.headers["x-quotapool-source"] == "upstream"
        assert calls(simulator) > asked

    run(proxy, story)


def test_those_who_ask_something_else_are_not_among_them(proxy, simulator):
    body = fresh(CHAT, stream=True)

    async def story(client: AsyncOpenAI) -> None:
        hold(simulator)
        same = [asyncio.create_task(got_by_async(client, CHAT, body)) for _ in range(2)]
        other = asyncio.create_task(got_by_async(client, CHAT, body | {"seed": 1}))
        await until(under_way(proxy, 3), "all are under way")
        await until(lambda: calls(simulator) == 2, "two have reached upstream")
        release(simulator)
        got: list[Got] = await asyncio.gather(*same, other)
        assert sorted(one.result for one in got[:2]) == ["coalesced", "miss"]
        assert got[2].result == "miss"
        assert got[2].said != got[0].said

    run(proxy, story)
