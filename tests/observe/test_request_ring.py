"""The last requests, kept in the store for all replicas: how many, in which order, and without a store."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import AskedFor, AttemptRecord, RequestRecord, Saved
from quotapool.domain.trace import Trace
from quotapool.domain.waited_for import RuleAtLimit, WaitedFor
from quotapool.observe.kept_request import KeptAttempt, KeptRequest, KeptSaved
from quotapool.observe.redaction import Redactor
from quotapool.observe.request_ring import RequestRing
from quotapool.observe.request_store import KEPT_S, MOST_IN_CHUNK, RequestStore, is_before

from tests.fakes.connect import connect
from tests.fakes.valkey import start_valkey, stop_valkey


class Workers:
    """Rings that share a store."""

    def __init__(self, url: str) -> None:
        self.connection = connect(url)
        self.store = RequestStore(self.connection, "test")
        self.lost = 0

    def ring(self, most: int = 10_000) -> RequestRing:
        return RequestRing(self.store, most, word=Redactor().word, dropped=self.drop)

    def drop(self, requests: int) -> None:
        self.lost += requests


@pytest.fixture
async def workers(valkey_url):
    made = Workers(valkey_url)
    yield made
    await made.connection.close()


def a_record(name: str = "qp_1", **changed) -> RequestRecord:
    record = RequestRecord(name, 100.0, "POST", client="team-a", endpoint="chat", model="gpt-4o", status=200)
    record.ended = 100.5
    for field, value in changed.items():
        setattr(record, field, value)
    return record


def keep(ring: RequestRing, name: str, **changed) -> None:
    record = a_record(name, **changed)
    ring.keep(record, record.total_s, record.overhead_s)


async def names(workers: Workers, limit: int = 100_000) -> list[str]:
    return [request.id for request in await workers.store.latest(limit)]


async def test_a_request_is_kept_with_all_that_explains_it(workers):
    ring = workers.ring()
    rule = RuleAtLimit("c/team-a", "rpm", 60.0, 60.0, 0.0, 1.0, 0.5)
    record = a_record(
        streamed=True,
        source="upstream",
        attempts=[
            AttemptRecord("alpha", "acme", 0.0, "wait", "rate_limit_exceeded", 429, "req_1", 0.05),
            AttemptRecord(
                *("beta", "umbrella", 0.1, "ok", "", 200, "req_2", 0.25),
                usage=Usage(Certainty.EXACT, 221, 27, 128),
            ),
        ],
        waited_for=WaitedFor("gpt-4o", "", "", "", 0.5, (rule,)),
        queued_s=0.1,
        upstream_s=0.3,
        first_byte=100.25,
        pico=1_915_000_000,
    )
    before = time.time()
    ring.keep(record, record.total_s, record.overhead_s)
    assert await ring.flush()
    (kept,) = await workers.store.latest(10)
    assert before - 0.5 <= kept.at <= time.time() - 0.5
    assert kept.attempts == (
        KeptAttempt("alpha", "acme", "wait", "rate_limit_exceeded", 429, 0, 50_000, "req_1"),
        KeptAttempt("beta", "umbrella", "ok", "", 200, 100_000, 250_000, "req_2"),
    )
    assert kept.waited_for == record.waited_for
    assert (kept.client, kept.endpoint, kept.model, kept.status, kept.source) == (
        *("team-a", "chat", "gpt-4o", 200, "upstream"),
    )
    assert (kept.streamed, kept.cut, kept.code, kept.rules) == (True, False, "", ())
    assert (kept.queued_us, kept.first_byte_us, kept.total_us) == (100_000, 250_000, 500_000)
    assert kept.overhead_us == pytest.approx(100_000, abs=1)
    assert (kept.prompt, kept.cached, kept.completion, kept.certainty, kept.pico) == (
        *(221, 128, 27, "exact", 1_915_000_000),
    )
    assert await workers.store.find("qp_1") == kept
    assert await workers.store.find("qp_2") is None


async def test_nothing_that_looks_like_a_secret_is_kept(workers):
    ring, secret = workers.ring(), "sk-proj-0123456789abcdefghijklmnopqrstuv"
    keep(ring, "qp_1", model=secret, waited_for=WaitedFor(secret, "tpm"))
    keep(ring, "qp_2", attempts=[AttemptRecord("k", "a", 0.0, "ok", upstream_request_id=secret)])
    await ring.flush()
    for _, fields in await workers.connection.client.xrange("qp:{test:requests}:ring"):
        assert b"0123456789abc" not in fields[b"r"]
    assert len(await names(workers)) == 2


async def test_what_a_request_asked_for_is_kept_and_an_older_versions_request_has_none(workers):
    ring, secret = workers.ring(), "sk-proj-0123456789abcdefghijklmnopqrstuv"
    keep(ring, "qp_1", asked_for=AskedFor("gpt-4o", 900, 2, -1, 5.0, "acme"))
    keep(ring, "qp_2", asked_for=AskedFor(secret, 900))
    keep(ring, "qp_3")
    await ring.flush()
    kept = {request.id: request for request in await workers.store.latest(10)}
    assert kept["qp_1"].asked_for == AskedFor("gpt-4o", 900, 2, -1, 5.0, "acme")
    assert "0123456789abc" not in kept["qp_2"].asked_for.group
    assert kept["qp_3"].asked_for is None
    older = msgspec.to_builtins(kept["qp_1"])[:-2]  # without the last fields
    assert msgspec.convert(older, KeptRequest).asked_for is None


async def test_the_trace_of_a_request_is_kept_where_its_spans_are_and_else_takes_no_byte(workers):
    ring = workers.ring()
    keep(ring, "qp_1", trace=Trace(0x0AF7651916CD43DD8448EB211C80319C, 1, 0, 1, "", 0, goes_on=False))
    keep(ring, "qp_2")
    await ring.flush()
    kept = {request.id: request.trace_id for request in await workers.store.latest(10)}
    assert kept == {"qp_1": "0af7651916cd43dd8448eb211c80319c", "qp_2": ""}
    ((_, fields),) = await workers.connection.client.xrange("qp:{test:requests}:ring")
    traced, plain = msgspec.msgpack.decode(fields[b"r"])
    assert len(traced) == len(plain) + 1


async def test_the_last_ones_stay_and_less_than_a_chunk_besides(workers):
    ring = workers.ring(2_000)
    for n in range(7_321):
        keep(ring, f"qp_{n}")
        if n % 1_111 == 0:
            await ring.flush()
    await ring.flush()
    kept = await workers.store.latest(100_000)
    assert 2_000 <= len(kept) < 2_000 + MOST_IN_CHUNK
    assert {request.id for request in kept} >= {f"qp_{n}" for n in range(7_321 - 2_000, 7_321)}
    assert KEPT_S - 60 < await workers.connection.client.ttl("qp:{test:requests}:ring") <= KEPT_S


async def test_slow_traffic_in_small_chunks_is_bounded_alike(workers):
    ring = workers.ring(100)
    for n in range(350):
        keep(ring, f"qp_{n}")
        await ring.flush()
    assert sorted(await names(workers)) == sorted(f"qp_{n}" for n in range(250, 350))
    assert (await workers.store.find("qp_260")) is not None


async def test_two_workers_are_read_in_the_order_in_which_requests_ended(workers, monkeypatch):
    one, other = workers.ring(), workers.ring()
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    for n in range(40):
        now += 0.05
        keep(one if n % 2 else other, f"qp_{n}")
        if n % 10 == 9:  # every half second
            await other.flush()
            await one.flush()
    assert await names(workers) == [f"qp_{n}" for n in reversed(range(40))]
    assert await names(workers, 7) == [f"qp_{n}" for n in reversed(range(33, 40))]


async def test_those_that_match_are_found_however_far_back(workers):
    ring = workers.ring()
    for n in range(3_000):
        keep(ring, f"qp_{n}", client="rare" if n in {5, 2_000} else "team-a")
    await ring.flush()
    found = await workers.store.latest(50, lambda request: request.client == "rare")
    assert {request.id for request in found} == {"qp_5", "qp_2000"}


async def test_who_follows_sees_each_new_one_once(workers):
    ring = workers.ring()
    keep(ring, "qp_old")
    await ring.flush()
    seen, place = await workers.store.since("")
    assert seen == []
    for n in range(3):
        keep(ring, f"qp_{n}")
        await ring.flush()
        seen, place = await workers.store.since(place)
        assert [request.id for request in seen] == [f"qp_{n}"]
    assert await workers.store.since(place) == ([], place)


async def test_who_follows_goes_on_with_the_first_of_a_store_that_was_emptied(workers):
    ring = workers.ring()
    for n in range(3):
        keep(ring, f"qp_{n}")
        await ring.flush()
    _, place = await workers.store.since("")
    await workers.connection.client.flushall()
    seen, begun = await workers.store.since(place)
    assert (seen, is_before(begun, place)) == ([], True)
    ring = workers.ring()
    keep(ring, "qp_new")
    await ring.flush()
    for where in (place, begun):  # whether or not somebody looked in between
        seen, after = await workers.store.since(where)
        assert [request.id for request in seen] == ["qp_new"]
        assert await workers.store.since(after) == ([], after)


async def test_who_follows_an_empty_ring_sees_the_first(workers):
    _, place = await workers.store.since("")
    ring = workers.ring()
    keep(ring, "qp_1")
    await ring.flush()
    seen, _ = await workers.store.since(place)
    assert [request.id for request in seen] == ["qp_1"]


async def test_another_process_goes_on_where_one_ended(workers):
    for n in range(3):
        ring = workers.ring()
        keep(ring, f"qp_{n}")
        await ring.close()
    assert sorted(await names(workers)) == ["qp_0", "qp_1", "qp_2"]
    assert workers.lost == 0


async def test_a_chunk_whose_answer_was_lost_is_not_added_twice(workers):
    chunk = b"\x90"
    assert await workers.store.add(chunk, 1, sender="a", number=1, most=10)
    assert not await workers.store.add(chunk, 1, sender="a", number=1, most=10)
    assert await workers.store.add(chunk, 1, sender="a", number=2, most=10)
    assert await workers.connection.client.xlen("qp:{test:requests}:ring") == 2


async def test_none_are_kept_if_none_are_wanted(workers):
    ring = workers.ring(0)
    keep(ring, "qp_1")
    await ring.flush()
    assert await workers.connection.client.keys("qp:{test:requests}:*") == []


async def test_while_the_store_is_away_they_wait_and_the_oldest_are_dropped_and_counted(tmp_path):
    process, url = start_valkey(tmp_path)
    workers = Workers(url)
    ring = workers.ring()
    keep(ring, "qp_first")
    assert await ring.flush()
    stop_valkey(process)
    attempts = [AttemptRecord("a-key-with-a-long-name", "acme", 0.0, "wait", "rate_limit_exceeded", 429)] * 20
    for n in range(10_000):  # some 800 bytes each: 8 MB
        keep(ring, f"qp_{n}", attempts=attempts)
        if n % 4_000 == 0:
            assert not await ring.flush()
            await asyncio.sleep(0)
    assert 1_000 < workers.lost < 9_000
    process, url = start_valkey(tmp_path)
    assert await ring.flush()
    kept = await names(workers)
    assert len(kept) == 10_000 - workers.lost
    assert "qp_9999" in kept
    await workers.connection.close()
    stop_valkey(process)


async def test_a_stop_without_a_store_counts_what_is_lost(tmp_path, virtual_time):
    workers = Workers(f"unix://{tmp_path}/nothing.sock")
    ring = workers.ring()
    for n in range(3):
        keep(ring, f"qp_{n}")
    await ring.close()
    assert workers.lost == 3
    await workers.connection.close()


async def test_what_the_cache_did_and_saved_is_kept(workers):
    ring = workers.ring()
    keep(ring, "qp_1", source="cache", cache="hit", saved=Saved(1, 221, 27, 1_915_000_000))
    keep(ring, "qp_2", cache="miss", kept="tools", ended=100.6)
    keep(ring, "qp_3", cache="coalesced", saved=Saved(1, 5, 0, None), ended=100.7)
    keep(ring, "qp_4", ended=100.8)
    assert await ring.flush()
    found = {request.id: request for request in await workers.store.latest(10)}
    hit, miss, unpriced, plain = (found[f"qp_{n}"] for n in range(1, 5))
    assert (hit.source, hit.cache, hit.kept, hit.saved) == ("cache", "hit", "", KeptSaved(1, 221, 27, 1_915_000_000))
    assert (miss.cache, miss.kept, miss.saved) == ("miss", "tools", None)
    assert unpriced.saved == KeptSaved(1, 5, 0, None)
    assert (plain.cache, plain.kept, plain.saved) == ("", "", None)


def test_requests_that_an_older_version_kept_are_read():
    """The layout of the version before the cache, by hand: it ends with the cost."""
    fields = ["qp_1", 1.0, "a", "chat", "m", 200, "", [], False, False, "upstream", [], None]
    old = msgspec.msgpack.encode([*fields, 0, None, 5, 1, 0, 0, 0, "", 7])
    kept = msgspec.msgpack.decode(old, type=KeptRequest)
    assert (kept.pico, kept.cache, kept.kept, kept.saved) == (7, "", "", None)
