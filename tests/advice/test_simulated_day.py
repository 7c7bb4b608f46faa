"""A day with planted waste: each kind is found, with an estimate near what was planted; a day without shows nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from quotapool.advice.findings import Finding, findings, week_of
from quotapool.advice.notes import BATCH, Notes

from tests.advice.days import CARDS, DAY_S, EMBEDDINGS, Call, answered, chat, every, live, notes_on, request, unique

HOUR_S = 3600.0
NEAR = 0.1
PREFIX = "You are a careful agent. " * 960  # 24,000 characters
TAIL = 6_000


@pytest.fixture
async def workers(valkey_url, virtual_time) -> AsyncIterator[list[Notes]]:
    pair = [notes_on(valkey_url), notes_on(valkey_url)]
    yield pair
    for worker in pair:
        await worker._store._store.close()


async def found_by(worker: Notes) -> dict[tuple[str, str], Finding]:
    """By kind and client; of a second one of the same, the test fails."""
    now = time.time()
    today = datetime.fromtimestamp(now, UTC).date()
    days = await worker._store.days(today - timedelta(6), today)
    found = findings(week_of(days, now), CARDS, cached_for_s=HOUR_S)
    by_name = {(one.kind, one.client): one for one in found}
    assert len(by_name) == len(found)
    return by_name


# ---- programs


def repeating() -> Iterator[Call]:
    """40 questions in turn, one every 20 s: each comes again after 800 s."""
    for n, at in enumerate(every(20)):
        yield Call(at, chat(f"frequent question {n % 40}"), answered("faq", "model-a", 1000, 200), place=n)


def generous(allowed: int = 4096) -> Iterator[Call]:
    for n, at in enumerate(every(30, 3)):
        yield Call(at, chat(unique(), "model-b", allowed), answered("search", "model-b", 100, 210), place=n)


def writing() -> Iterator[Call]:
    """Its maximum is what it needs."""
    for n, at in enumerate(every(30, 7)):
        record = answered("writer", "model-b", 100, 9000 + n % 800)
        yield Call(at, chat(unique(), "model-b", 9850), record, place=n)


def beginning_alike(**more: str) -> Iterator[Call]:
    """24,000 characters the same, 6,000 of its own: 7,500 tokens, none from the cache."""
    for n, at in enumerate(every(60, 11)):
        words = PREFIX + (unique() + " ") * 1000
        yield Call(at, chat(words[: len(PREFIX) + TAIL], **more), answered("agent", "model-a", 7500, 50), place=n)


def embedding_one_by_one(in_a_second: int = 60) -> Iterator[Call]:
    for n, at in enumerate(every(600, 13)):
        for part in range(in_a_second):
            one = request(EMBEDDINGS, {"model": "embedder", "input": unique()})
            yield Call(at + part / in_a_second * 0.9, one, answered("indexer", "embedder", 8, 0), place=n)


def embedding_many() -> Iterator[Call]:
    for n, at in enumerate(every(60, 17)):
        ten = request(EMBEDDINGS, {"model": "embedder", "input": [unique() for _ in range(10)]})
        yield Call(at, ten, answered("library", "embedder", 80, 0), place=n)


def waiting(priority: int) -> Iterator[Call]:
    for n, at in enumerate(every(40, 19)):
        yield Call(at, chat(unique()), answered("nightly", "model-a", 800, 400), priority, place=n)


def old_fashioned(model: str) -> Iterator[Call]:
    for n, at in enumerate(every(90, 23)):
        yield Call(at, chat(unique(), model), answered("legacy", model, 500, 100), place=n)


# ---- the days


async def test_each_planted_kind_is_found_with_what_was_planted(workers):
    await live(
        workers,
        repeating(),
        generous(),
        writing(),
        beginning_alike(),
        embedding_one_by_one(),
        embedding_many(),
        waiting(BATCH),
        old_fashioned("model-a-2024-05-13"),
    )
    found = await found_by(workers[0])
    assert set(found) == {
        ("repeats", "faq"),
        ("maximum", "search"),
        ("cache_key", "agent"),
        ("single_embeddings", "indexer"),
        ("can_wait", "nightly"),
        ("snapshot", "legacy"),
    }

    # A question is asked 108 times: an answer is kept for an hour, so four askings after it are hits, the fifth not.
    # Of 108 that is 22 misses and 86 hits, of 40 questions. One costs 1000 x 2.5 + 200 x 10 microdollars.
    repeats = found["repeats", "faq"]
    assert repeats.facts["repeats"] == pytest.approx(86 * 40, rel=NEAR)
    assert repeats.usd_month == pytest.approx(30 * 86 * 40 * 0.0045, rel=NEAR)
    # model-a: 4,320 x 1,200 tokens of it, 1,440 x 7,550 of the agent, 2,160 x 1,200 of the nightly work
    of_the_model = 4320 * 1200 + 1440 * 7550 + 2160 * 1200
    assert repeats.tpm == pytest.approx(86 * 40 * 1200 / (of_the_model - 86 * 40 * 1200), rel=NEAR)

    # 2,880 requests reserve 4,096 and would reserve 256; the other client reserves 9,850 each time.
    maximum = found["maximum", "search"]
    assert (maximum.facts["allowed"], maximum.facts["used"], maximum.facts["maximum"]) == (4096, 210, 256)
    assert maximum.tpm == pytest.approx((4096 + 9850) / (256 + 9850) - 1, rel=NEAR)  # 38 %
    assert "search allows answers of 4,096 tokens and uses 210: a maximum of 256 gives the pool 38%" in maximum.advice

    # All but the first have four fifths of 7,500 tokens in common, which would cost 2.25 microdollars less each.
    key = found["cache_key", "agent"]
    assert key.usd_month == pytest.approx(30 * 1439 * 6000 * 2.25e-6, rel=NEAR)

    # 144 times 60 requests could be 144. The model had 8,640 + 1,440.
    single = found["single_embeddings", "indexer"]
    assert single.facts["in_bursts"] - single.facts["bursts"] == pytest.approx(144 * 59, rel=NEAR)
    assert single.rpm == pytest.approx(144 * 59 / (144 + 1440), rel=NEAR)
    assert single.usd_month is None

    # 2,160 x (800 x 2.5 + 400 x 10 microdollars), for half of it
    assert found["can_wait", "nightly"].usd_month == pytest.approx(30 * 2160 * 0.006 / 2, rel=NEAR)

    # 960 x (500 x 5 + 100 x 20 microdollars), for half of it
    assert found["snapshot", "legacy"].usd_month == pytest.approx(30 * 960 * 0.0045 / 2, rel=NEAR)


async def test_a_day_without_waste_shows_nothing(workers):
    def asking_all_kinds() -> Iterator[Call]:
        for n, at in enumerate(every(20)):
            yield Call(at, chat(unique()), answered("faq", "model-a", 1000, 200), place=n)

    await live(
        workers,
        asking_all_kinds(),
        generous(256),
        writing(),
        beginning_alike(prompt_cache_key="agent-1"),
        embedding_one_by_one(5),
        embedding_many(),
        waiting(0),
        old_fashioned("model-a"),
    )
    assert await found_by(workers[0]) == {}


async def test_prompts_that_come_from_the_cache_already_are_no_waste(workers):
    def cached_by_upstream() -> Iterator[Call]:
        for call in beginning_alike():
            call.record = answered("agent", "model-a", 7500, 50, cached=5_888)
            yield call

    await live(workers, cached_by_upstream())
    assert await found_by(workers[0]) == {}


async def test_what_comes_again_after_the_cache_has_forgotten_it_is_no_repeat(workers):
    def seldom() -> Iterator[Call]:
        for n, at in enumerate(every(20)):
            yield Call(at, chat(f"question {n % 200} of 200"), answered("faq", "model-a", 1000, 200), place=n)

    await live(workers, seldom())  # each comes again after 4,000 s, and the cache keeps an answer for 3,600
    assert await found_by(workers[0]) == {}


def test_the_day_is_a_day():
    assert len(list(every(20))) == DAY_S / 20
