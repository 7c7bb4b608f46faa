"""A thousand clients ask the same at once, of two replicas with two workers each: upstream is asked once."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pytest

from tests.fakes.crowd import Answer, Crowd
from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.fakes.running import reset, running_replicas, running_simulator
from tests.scenarios.kills import ports_of

pytestmark = pytest.mark.alone

CLIENTS: Final = 1_000
PLAIN: Final[dict[str, Any]] = {}
STREAM: Final = {"stream": True}
_serial = itertools.count()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(1, "--answers", "by_call", "--rpm", "0", "--tpm", "0") as running:
        yield running


@pytest.fixture(autouse=True)
def healed(simulator: Simulator) -> Iterator[None]:
    reset(simulator)
    yield
    reset(simulator)


@pytest.fixture(scope="module")
def replicas(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningProxy]]:
    config = pool_config(
        simulator,
        master_key="${POOL_MASTER_KEY}",
        workers=2,
        cache={"models": ["*"]},
        timeouts={"first_byte": 120},
    )
    env = {"POOL_MASTER_KEY": "0123456789abcdef" * 2}
    with running_replicas(tmp_path_factory.mktemp("stampede"), config, env=env) as (proxies, _):
        yield proxies


def body_of(**more: Any) -> dict[str, Any]:
    """Something that nobody has asked before."""
    messages = [{"role": "user", "content": f"question {next(_serial)}"}]
    return {"model": "gpt-4o-mini", "messages": messages, **more}


def calls(simulator: Simulator) -> int:
    return int(sum(count for path, count in simulator.stats()["calls"].items() if path.startswith("POST")))


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what, 60)


def under_way(replicas: Sequence[RunningProxy]) -> int:
    return int(sum(proxy.total("quotapool_requests_in_flight") for proxy in replicas))


def by_worker(replicas: Sequence[RunningProxy]) -> dict[int, int]:
    """How many clients are connected to each worker, by its process id."""
    return {pid: len(ports_of(proxy, pid)) for proxy in replicas for pid in proxy.worker_pids()}


def said(answer: Answer) -> dict[str, Any]:
    """A whole answer without what its form brings: its id, its words, and how it ended."""
    assert answer.status == 200, answer
    if answer.body.startswith(b"{"):
        told = json.loads(answer.body)
        (choice,) = told["choices"]
        return {"id": told["id"], "words": choice["message"]["content"], "end": choice["finish_reason"]}
    *events, done = [event.removeprefix(b"data: ") for event in answer.body.strip().split(b"\n\n")]
    assert done == b"[DONE]"
    chunks = [json.loads(event) for event in events]
    words = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    (one,) = {chunk["id"] for chunk in chunks}
    return {"id": one, "words": words, "end": chunks[-1]["choices"][0]["finish_reason"]}


def expect_one_answer(answers: Sequence[Answer]) -> None:
    """All are whole and say the same, in as many spellings as there are forms."""
    first = said(answers[0])
    assert first["words"].strip()
    assert first["end"] == "stop"
    assert [answer for answer in answers if said(answer) != first] == []


@pytest.mark.parametrize("forms", [(PLAIN,), (STREAM,), (PLAIN, STREAM)], ids=["plain", "streams", "both"])
def test_a_thousand_who_ask_the_same_make_one_call(forms, simulator, replicas):
    body = body_of()

    async def story() -> list[Answer]:
        simulator.fault(0, "hold", events=3)
        async with Crowd() as crowd:
            asked = [crowd.ask(replicas[n % 2].base_url, body | forms[n // 2 % len(forms)]) for n in range(CLIENTS)]
            await until(lambda: under_way(replicas) == CLIENTS, "all are under way")
            assert all(by_worker(replicas).values()), "each worker has some"
            simulator.heal(0)
            return await asyncio.gather(*asked)

    answers = asyncio.run(story())
    assert len(answers) == CLIENTS
    assert calls(simulator) == 1
    expect_one_answer(answers)
    results = Counter(answer.result for answer in answers)
    assert results["miss"] == 1
    assert set(results) == {"miss", "coalesced", "hit"}
    assert {answer.tries for answer in answers} == {1}


def killed(
    simulator: Simulator, replicas: Sequence[RunningProxy], body: dict[str, Any], events: int
) -> tuple[int, list[Answer]]:
    """How many clients were connected to the leading worker when it was killed, and what all got.

    Upstream's answer stops after so many events, of both calls, until the second one has been made.
    """

    async def story() -> tuple[int, list[Answer]]:
        simulator.fault(0, "hold", events=events)
        async with Crowd() as crowd:
            asked = [crowd.ask(replicas[0].base_url, body)]
            await until(lambda: calls(simulator) == 1, "the first one has reached upstream")
            (pid,) = (pid for pid, clients in by_worker(replicas).items() if clients)
            asked += [crowd.ask(replicas[n % 2].base_url, body) for n in range(1, CLIENTS)]
            await until(lambda: under_way(replicas) == CLIENTS, "all are under way")
            os.kill(pid, signal.SIGSTOP)  # so that what it holds does not change between the look and the kill
            held = by_worker(replicas)[pid]
            os.kill(pid, signal.SIGKILL)
            back = CLIENTS - (held if events else 0)
            await until(lambda: calls(simulator) >= 2 and under_way(replicas) == back, "another leads")
            simulator.heal(0)
            return held, await asyncio.gather(*asked)

    try:
        return asyncio.run(story())
    finally:
        wait_until(lambda: all(len(proxy.worker_pids()) == 2 for proxy in replicas), "a new worker")


@pytest.mark.parametrize("form", [PLAIN, STREAM], ids=["plain", "streams"])
def test_when_the_leading_worker_is_killed_another_one_asks_and_no_client_sees_an_error(form, simulator, replicas):
    held, answers = killed(simulator, replicas, body_of(**form), events=0)
    assert calls(simulator) == 2
    expect_one_answer(answers)
    assert Counter(answer.tries for answer in answers) == {1: CLIENTS - held, 2: held}
    assert 0 < held < CLIENTS


def test_of_streams_that_have_begun_only_those_of_the_killed_worker_break_off(simulator, replicas):
    held, answers = killed(simulator, replicas, body_of(**STREAM), events=3)
    assert calls(simulator) == 2
    whole = [answer for answer in answers if answer.status]
    expect_one_answer(whole)
    assert [answer.detail for answer in answers if not answer.status] == ["cut"] * held
    assert len(whole) == CLIENTS - held
