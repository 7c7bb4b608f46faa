"""Whatever upstream names as a limit, what was written holds, and nothing else is moved: a model of both, any steps.

The model knows the written limits and which group each model is in. It is compared with what reached upstream, on a
real store, in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fakes.edge import Client, Sent, chat_body, error
from tests.fakes.house import PLENTY, House, open_house
from tests.fakes.valkey import forget_all
from tests.fakes.virtual_time import VirtualTime

MODELS = ("alpha", "beta", "gamma", "delta", "epsilon")
WRITTEN = {"alpha": 3, "beta": 5, "mine": 4, "shared": 6}  # requests a minute of each account
MINE = ("delta", "epsilon")
NAMES = (*MODELS, *WRITTEN, "new", "alpha-long-context", "gamma-long-context", "ALPHA", "o/ld:x", "x" * 100)
models, names = st.sampled_from(MODELS), st.sampled_from(NAMES)
steps = st.one_of(
    st.tuples(st.just("requests_are_sent"), models, st.integers(1, 8)),
    st.tuples(st.just("upstream_refuses_one_for_a_limit_that_it_names"), models, names, st.integers(1, 30)),
    st.tuples(st.just("time_passes"), st.floats(0.1, 90)),
)


class Timed(list[Sent]):
    """What upstream saw, when, and the group that the model was in then."""

    def __init__(self, clock: VirtualTime, group_of: Callable[[str], str]) -> None:
        super().__init__()
        self.clock, self.times = clock, list[float]()
        self.model, self.group_of, self.groups = "", group_of, list[str]()

    def append(self, sent: Sent) -> None:
        self.times.append(self.clock.monotonic())
        self.groups.append(self.group_of(self.model))  # what one attempt taught counts for the next
        super().append(sent)


class LearnedGroups:
    def __init__(self, store: str, folder: Path) -> None:
        forget_all(store)
        self.clock = VirtualTime()
        self.closing = contextlib.ExitStack()
        runner = self.closing.enter_context(asyncio.Runner())
        self.run = runner.run
        self.closing.enter_context(self.clock.installed(runner.get_loop()))
        self.parts = contextlib.AsyncExitStack()
        self.closing.callback(lambda: self.run(self.parts.aclose()))
        with pytest.MonkeyPatch.context() as patch:  # the same steps choose the same accounts
            patch.setattr(random, "Random", partial(random.Random, 0))
            self.house = self.run(self.open(store, folder))
        self.groups = {model: "mine" if model in MINE else model for model in MODELS}
        self.sent: Timed = Timed(self.clock, self.house.roster.group_of)
        self.house.upstream.sent = self.sent
        self.seen: list[tuple[float, str, str, str]] = []  # (when, account, model, group it was in) of each attempt

    async def open(self, store: str, folder: Path) -> House:
        path = folder / "virtual.sock"
        path.unlink(missing_ok=True)
        relay = await asyncio.start_unix_server(
            lambda *ends: self.clock.relay(store.removeprefix("unix://"), *ends), path
        )
        self.parts.callback(relay.close)
        limits: dict[str, Any] = {"default": PLENTY, "models": {name: {"rpm": rpm} for name, rpm in WRITTEN.items()}}
        options = {"limits": limits, "groups": {"mine": [*MINE]}, "queue": {"max_wait": 0}}
        return await self.parts.enter_async_context(open_house(f"unix://{path}", {"a": 1, "b": 1}, **options))

    def ask(self, model: str) -> None:
        self.sent.model = model
        self.run(self.answered(Client(chat_body(model))))
        for sent, at, group in list(zip(self.sent, self.sent.times, self.sent.groups, strict=True))[len(self.seen) :]:
            assert json.loads(sent.body)["model"] == model
            self.seen.append((at, self.house.account_of(sent.key), model, group))

    async def answered(self, client: Client) -> None:
        """It has its answer, and the store and this process know the same."""
        await self.house.ask(client)
        if (refreshing := self.house.sync._refreshing) is not None:
            await refreshing

    # ---- what can happen

    def requests_are_sent(self, model: str, times: int) -> None:
        for _ in range(times):
            self.ask(model)

    def upstream_refuses_one_for_a_limit_that_it_names(self, model: str, name: str, seconds: int) -> None:
        said = (
            f"Rate limit reached for {model} (for limit {name}) on requests per min: Limit 9. Try again in {seconds}s."
        )
        self.house.upstream.next(error(429, "rate_limit_exceeded", said, "requests", retry_after=str(seconds)))
        before = len(self.sent)
        self.ask(model)
        self.house.upstream._next.clear()
        if len(self.sent) > before and model not in MINE and "long-context" not in name:
            self.groups[model] = self.house.settings.group_of(name)

    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    # ---- what always holds

    def only_the_refused_model_is_moved(self) -> None:
        assert {model: self.house.roster.group_of(model) for model in MODELS} == self.groups

    def no_account_is_sent_more_than_was_written(self) -> None:
        burst_s = self.house.settings.burst_for("a")
        for name, rpm in WRITTEN.items():
            # A model that left its own group counts by itself, and so do the models that stayed in that group.
            for account, part in ((account, part) for account in "ab" for part in (0, 1)):
                times = [at for at, whose, *names in self.seen if whose == account and names[part] == name]
                for first, began in enumerate(times):
                    for count, ended in enumerate(times[first:], 1):
                        allowed = rpm * (burst_s + ended - began) / 60
                        assert count <= allowed + 0.01, f"{name}: {count} within {ended - began:.1f} s on {account}"


@example(  # what the other account has used of alpha's limit counts too
    steps=[
        ("requests_are_sent", "alpha", 3),
        ("upstream_refuses_one_for_a_limit_that_it_names", "alpha", "beta", 1),
        ("requests_are_sent", "alpha", 6),
    ]
)
@example(  # from one account to the next, a model leaves its group
    steps=[
        ("requests_are_sent", "alpha", 1),
        ("time_passes", 2.0),
        ("requests_are_sent", "alpha", 1),
        ("upstream_refuses_one_for_a_limit_that_it_names", "beta", "alpha", 1),
        ("time_passes", 40.0),
        ("requests_are_sent", "alpha", 4),
        ("time_passes", 2.0),
        ("requests_are_sent", "alpha", 1),
        ("upstream_refuses_one_for_a_limit_that_it_names", "beta", "beta", 1),
    ]
)
@given(steps=st.lists(steps, min_size=10, max_size=20))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_name_from_upstream_loosens_what_was_written_or_moves_what_it_does_not_concern(
    shared_valkey, tmp_path, steps
):
    world = LearnedGroups(shared_valkey, tmp_path)
    with world.closing:
        for name, *arguments in steps:
            getattr(world, name)(*arguments)
            world.only_the_refused_model_is_moved()
            world.no_account_is_sent_more_than_was_written()
