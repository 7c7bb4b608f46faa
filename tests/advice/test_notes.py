"""What a worker notes, what of it is sent, and what the store makes of it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from quotapool.advice.digests import DIGEST_BYTES, Digests
from quotapool.advice.note_store import MOST_NAMES, NoteStore
from quotapool.advice.notes import BATCH, LARGEST, Notes
from quotapool.advice.sums import Sums
from quotapool.domain.quantities import Certainty, Usage
from quotapool.settings import Settings
from quotapool.store.store import Store

from tests.advice.days import CHAT, EMBEDDINGS, KEY, answered, chat, notes_on, request
from tests.fakes.canaries import CLIENT
from tests.fakes.connect import connect
from tests.fakes.valkey import running_valkey

CANARY = CLIENT["a prompt"]
DIGESTS = Digests(KEY, "default")


@pytest.fixture
async def store(valkey_url):
    connection = connect(valkey_url)
    yield connection
    await connection.close()


@pytest.fixture
async def notes(valkey_url):
    made = notes_on(valkey_url)
    yield made
    await made._store._store.close()


async def sums_of(notes: Notes) -> dict[tuple[str, str], Sums]:
    """Of today, after all is sent."""
    await notes.close()
    today = datetime.fromtimestamp(time.time(), UTC).date()
    days = await notes._store.days(today, today)
    return days[0].sums if days else {}


def note(notes: Notes, asked, record, priority: int = 0, target: str = CHAT) -> None:
    notes.note(asked, record, target, priority)


def digest(n: int) -> bytes:
    return DIGESTS.digest("client:app", "chat", b"%d" % n)


async def asked(store: Store, *digests: bytes, kept_s: float = 3600) -> bytes:
    at = datetime.fromtimestamp(time.time(), UTC)
    return await NoteStore(store, "default").add(b"".join(digests), {}, at, kept_s=kept_s, days_kept_s=86_400)


# ---- what is noted


async def test_a_request_is_summed_up_under_its_client_and_model(notes):
    note(notes, chat("a", max_tokens=1000), answered("app", "model-a", 100, 20, cached=40))
    note(notes, chat("b"), answered("app", "model-a", 10, 2))
    row = (await sums_of(notes))["app", "model-a"]
    assert (row.requests, row.prompt, row.cached, row.completion) == (2, 110, 40, 22)
    assert row.reserved == 1000 + 16  # without a maximum 16 are assumed
    assert (row.limited, row.allowed, row.limited_reserved, row.written) == (1, 1000, 1000, 20)
    # 60 x 2.5, 40 x 0.25, 20 x 10; 10 x 2.5, 2 x 10 microdollars
    assert row.pico == 360_000_000 + 45_000_000


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": 429}, "it was refused"),
        ({"status": 0}, "it has no answer"),
        ({"cut": True}, "it was cut"),
        ({"attempts": []}, "nothing was asked of upstream"),
    ],
)
async def test_what_was_not_answered_is_not_noted(notes, change, why):
    record = answered("app", "model-a", 100, 20)
    for name, value in change.items():
        setattr(record, name, value)
    note(notes, chat("a"), record)
    assert await sums_of(notes) == {}, why


async def test_nor_is_what_upstream_did_not_count(notes):
    record = answered("app", "model-a", 100, 20)
    record.attempts[0].usage = Usage(Certainty.AT_LEAST, 100, 20)
    note(notes, chat("a"), record)
    assert await sums_of(notes) == {}


async def test_nothing_is_noted_unless_it_is_enabled(valkey_url):
    notes = notes_on(valkey_url, advice={"enabled": False})
    note(notes, chat("a"), answered("app", "model-a", 100, 20))
    assert await sums_of(notes) == {}
    assert await notes._store._store.client.dbsize() == 0
    notes.configure(Settings.model_validate({"advice": {"enabled": True}}), KEY)
    note(notes, chat("a"), answered("app", "model-a", 100, 20))
    assert len(await sums_of(notes)) == 1
    await notes._store._store.close()


async def test_only_the_standard_price_of_those_who_can_wait_counts(notes):
    note(notes, chat("a"), answered("app", "model-a", 100, 20), BATCH)
    note(notes, chat("b"), answered("app", "model-a", 100, 20), priority=0)
    flex = answered("app", "model-a", 100, 20)
    flex.attempts[0].tier = "flex"
    note(notes, chat("c"), flex, BATCH)
    assert (await sums_of(notes))["app", "model-a"].patient == 1


# ---- repeats


async def test_the_second_of_two_equal_requests_is_a_repeat_however_it_is_spelled(notes):
    note(notes, chat("a", temperature=0.5), answered("app", "model-a", 100, 20))
    turned = request(
        CHAT, {"stream": True, "temperature": 0.5, "messages": [{"content": "a", "role": "user"}], "model": "model-a"}
    )
    note(notes, turned, answered("app", "model-a", 100, 20))
    row = (await sums_of(notes))["app", "model-a"]
    assert (row.requests, row.repeats, row.repeated_tokens, row.repeated_pico) == (2, 1, 120, 450_000_000)


@pytest.mark.parametrize(
    "body",
    [
        {"temperature": 1.5},  # the cache's limit is 1
        {"store": True},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},  # whether it was called is not known
    ],
)
async def test_what_the_cache_would_not_keep_is_no_repeat(notes, body):
    for _ in range(2):
        note(notes, chat("a", **body), answered("app", "model-a", 100, 20))
    assert (await sums_of(notes))["app", "model-a"].repeats == 0


async def test_what_the_cache_has_dealt_with_is_no_repeat(notes):
    for word in ("miss", "bypass"):
        note(notes, chat("a"), answered("app", "model-a", 100, 20, cache=word))
    assert (await sums_of(notes))["app", "model-a"].repeats == 0


@pytest.mark.parametrize(("scope", "repeats"), [("client", 0), ("team", 1), ("pool", 2)])
async def test_who_shares_an_answer_is_as_the_cache_says(valkey_url, scope, repeats):
    notes = notes_on(valkey_url, cache={"scope": scope})
    notes._team_of = lambda client: {"one": "red", "two": "red"}.get(client, "")
    for client in ("one", "two", "three"):
        note(notes, chat("a"), answered(client, "model-a", 100, 20))
    assert sum(row.repeats for row in (await sums_of(notes)).values()) == repeats
    await notes._store._store.close()


async def test_without_a_master_key_everything_else_is_noted(valkey_url):
    store = connect(valkey_url)
    notes = Notes(NoteStore(store, "default"), Settings.model_validate({"advice": {"enabled": True}}), b"")
    for _ in range(2):
        note(notes, chat("a"), answered("app", "model-a", 100, 20))
    row = (await sums_of(notes))["app", "model-a"]
    assert (row.requests, row.repeats) == (2, 0)
    assert not await store.client.exists("qp:{default:advice}:asked")
    await store.close()


async def test_two_keys_give_two_digests_and_so_do_two_pools_scopes_and_endpoints():
    given = {
        Digests(key, pool).digest(scope, endpoint, b"text")
        for key in (KEY, b"l" * 32)
        for pool in ("default", "other")
        for scope in ("client:a", "client:ab")
        for endpoint in ("chat", "embeddings")
    }
    assert len(given) == 16
    assert {len(one) for one in given} == {DIGEST_BYTES}
    assert DIGESTS.digest("ab", "c", b"") != DIGESTS.digest("a", "bc", b"")


# ---- the store's table of answers


@pytest.mark.usefixtures("virtual_time")
async def test_an_answer_lasts_from_when_it_was_made_not_from_when_it_was_last_used(store):
    assert await asked(store, digest(1)) == b"0"
    for _ in range(3):
        await asyncio.sleep(1000)
        assert await asked(store, digest(1)) == b"1"
    await asyncio.sleep(1000)  # 4,000 s after it was made
    assert await asked(store, digest(1)) == b"0"
    assert await asked(store, digest(1), digest(2), digest(1)) == b"101"


async def test_after_a_step_of_the_clock_nothing_is_a_hit_that_would_not_be_one(store, virtual_time):
    assert await asked(store, digest(1)) == b"0"
    virtual_time.set_store_clock(-7200)
    assert await asked(store, digest(1)) == b"0"  # of the future
    assert await asked(store, digest(1)) == b"1"
    virtual_time.set_store_clock(+7200)
    assert await asked(store, digest(1)) == b"0"


async def test_of_a_hundred_thousand_answers_nearly_all_are_known_in_two_mebibytes(store):
    every = [digest(n) for n in range(100_000)]
    for start in range(0, len(every), 5000):
        assert await asked(store, *every[start : start + 5000]) == b"0" * 5000
    known = 0
    for start in range(0, len(every), 5000):
        known += (await asked(store, *every[start : start + 5000])).count(b"1")
    # Places have room for 8, and get 3 on average: by Poisson's law one in 260 gets more. Of such a place each asking
    # takes the room of the next, so all of it may be misses.
    assert known > 0.97 * len(every)
    assert await store.client.strlen("qp:{default:advice}:asked") <= 2**21
    # And what the server adds to a string that grows.
    assert await store.client.memory_usage("qp:{default:advice}:asked") <= 2**21 + 2**20


async def test_a_full_place_forgets_its_oldest(store):
    of_one_place = [b"\0\0\0\0%b" % n.to_bytes(4, "big") for n in range(1, 10)]
    assert await asked(store, *of_one_place[:8]) == b"0" * 8
    assert await asked(store, *of_one_place[:8]) == b"1" * 8
    assert await asked(store, of_one_place[8]) == b"0"
    assert (await asked(store, *of_one_place[1:9])).count(b"1") >= 7


# ---- bounds and failures


async def test_a_day_has_a_bounded_number_of_names(store):
    notes = NoteStore(store, "default")
    now = datetime.now(UTC)
    for start in range(0, MOST_NAMES + 100, 20):
        sums = {("app", f"model-{n}"): Sums(requests=1) for n in range(start, start + 20)}
        await notes.add(b"", sums, now, kept_s=1, days_kept_s=86_400)
    await notes.add(b"", {("app", "model-0"): Sums(requests=5)}, now, kept_s=1, days_kept_s=86_400)
    (day,) = await notes.days(now.date(), now.date())
    assert len(day.sums) == MOST_NAMES
    assert day.sums["app", "model-0"].requests == 6
    assert day.since == pytest.approx(now.timestamp(), abs=60)


async def test_a_day_is_forgotten_when_no_advice_asks_for_it_any_more(store):
    notes, now = NoteStore(store, "default"), datetime.now(UTC)
    await notes.add(b"", {("app", "m"): Sums(requests=1)}, now, kept_s=1, days_kept_s=8 * 86_400)
    ttl = await store.client.ttl(f"qp:{{default:advice}}:day:{now.date().isoformat()}")
    assert 8 * 86_400 < ttl <= 9 * 86_400
    assert await notes.days(now.date() - timedelta(8), now.date() - timedelta(1)) == []


async def test_sums_of_another_version_are_left_alone(store):
    notes, now = NoteStore(store, "default"), datetime.now(UTC)
    key = f"qp:{{default:advice}}:day:{now.date().isoformat()}"
    await store.client.hset(key, "old\0model", b"\x93\x01\x02\x03")
    await notes.add(b"", {("app", "m"): Sums(requests=1)}, now, kept_s=1, days_kept_s=86_400)
    (day,) = await notes.days(now.date(), now.date())
    assert set(day.sums) == {("app", "m")}


async def test_a_store_that_is_away_costs_what_was_on_its_way_and_nothing_else(tmp_path):
    with running_valkey(tmp_path) as url:
        notes = notes_on(url)
    for n in range(30):  # rows of two calls
        note(notes, chat("a"), answered(f"app-{n}", "model-a", 100, 20))
    assert not await notes.flush()
    assert len(notes._sums) == 10
    with running_valkey(tmp_path) as again:
        assert again == url
        assert len(await sums_of(notes)) == 10
        await notes._store._store.close()


async def test_what_waits_for_a_store_is_bounded(tmp_path):
    with running_valkey(tmp_path) as url:
        notes = notes_on(url)
    one = chat("a")
    for n in range(30_000):
        note(notes, one, answered(f"app-{n}", "model-a", 100, 20))
    assert len(notes._sums) == 1000
    assert len(notes._asked) <= 20_000
    await notes._store._store.close()


async def test_of_a_large_body_only_sums_are_noted(notes):
    words = "x" * LARGEST
    for _ in range(2):
        note(notes, chat(words), answered("app", "model-a", 70_000, 20))
    row = (await sums_of(notes))["app", "model-a"]
    assert (row.requests, row.repeats, row.alike) == (2, 0, 0)


# ---- nothing of content


async def test_nothing_that_was_said_reaches_the_store(notes):
    store = notes._store._store.client
    for n in range(3):
        words = (CANARY + " and so on ") * 2000
        note(notes, chat(words + str(n)), answered("app", "model-a", 5000, 20))
        note(notes, chat(CANARY), answered("app", "model-a", 50, 20))
        single = request(EMBEDDINGS, {"model": "embedder", "input": CANARY})
        note(notes, single, answered("app", "embedder", 8, 0), target=EMBEDDINGS)
    sums = await sums_of(notes)
    assert sums["app", "model-a"].alike == 2
    assert sums["app", "model-a"].repeats == 2
    dumped = b""
    for key in await store.keys("*"):
        raw = (
            await store.get(key)
            if await store.type(key) == b"string"
            else b"".join(part for pair in (await store.hgetall(key)).items() for part in pair)
        )
        dumped += key + raw
    assert b"app\0model-a" in dumped
    assert CANARY.encode() not in dumped
    assert CANARY.encode()[:8] not in dumped
