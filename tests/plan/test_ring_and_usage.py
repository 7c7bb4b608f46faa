"""Demand is read from the ring and from usage, of which only sums are kept."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from quotapool.domain.request_record import AskedFor
from quotapool.money.spend_store import Entry, SpendBatch, SpendStore, new_batch_id
from quotapool.observe.kept_request import KeptAttempt, KeptRequest
from quotapool.plan.demand import UNSEEN, Demand
from quotapool.plan.sources import ring
from quotapool.plan.sources.record import Collector, SourceError
from quotapool.plan.sources.rollups import read_usage, slots_of
from quotapool.plan.sources.samples import Samples

from tests.fakes.connect import connect
from tests.plan.records import AT, KNOWN

# ---- the ring


def kept(**changed) -> KeptRequest:
    fields = {
        "id": "qp_1",
        "at": AT,
        "client": "anonymous",
        "endpoint": "chat",
        "model": "gpt-4o",
        "status": 200,
        "code": "",
        "rules": (),
        "streamed": False,
        "cut": False,
        "source": "upstream",
        "attempts": (KeptAttempt("beta", "acme", "ok", "", 200, 0, 1_500_000, "req_2"),),
        "waited_for": None,
        "queued_us": 250_000,
        "first_byte_us": None,
        "total_us": 2_000_000,
        "overhead_us": 400,
        "prompt": 100,
        "cached": 0,
        "completion": 50,
        "certainty": "exact",
        "pico": 7,
        "asked_for": AskedFor("", 900, max_wait_s=30.0),
    }
    return KeptRequest(**{**fields, **changed})


def test_a_kept_request_is_the_same_demand_as_its_log_line():
    into = Collector()
    ring.take(kept(), KNOWN, into)
    refused = kept(status=429, code="rate_limit_exceeded", source="proxy", attempts=(), certainty="", pico=0)
    ring.take(refused, KNOWN, into)
    ring.take(kept(source="cache", asked_for=None), KNOWN, into)
    ring.take(kept(status=403, asked_for=None, attempts=()), KNOWN, into)
    found = into.record("The ring")
    served, unseen = found.demand
    assert served == Demand(AT, "", "gpt-4o", "", 900, 150, 0, 1.5, 7)
    assert (unseen.reserved, unseen.tokens, unseen.pico) == (900, UNSEEN, None)
    assert found.about == "The ring holds 2 requests of 0 seconds, until 2026-11-18 11:06 UTC"
    assert found.happened.refused == {"rate_limit_exceeded": 1}


# ---- usage


NOW = datetime(2026, 11, 18, 12, 30, tzinfo=UTC)
NO_SAMPLES = Samples((), random.Random(1))


@pytest.fixture
async def spend(valkey_url):
    connection = connect(valkey_url)
    yield SpendStore(connection, "test")
    await connection.close()


async def send(spend: SpendStore, at: datetime, *entries: Entry, refused: int = 0) -> None:
    batch = SpendBatch()
    for entry in entries:
        batch.add(entry, at)
    if refused:
        batch.refuse("app", "rate_limit_exceeded", refused, at)
        batch.refuse("app", "invalid_json", 3, at)
    await spend.send(batch, new_batch_id())


def used(client: str, requests: int) -> Entry:
    """Of each, a prompt of 100 tokens and 50 of an answer, for 1000 picodollars a token."""
    tokens = {"prompt": 100 * requests, "completion": 50 * requests}
    return Entry("acme", "key-1", "gpt-4o", client, "exact", 150_000 * requests, requests, **tokens)


async def read_from(spend, samples=NO_SAMPLES, *, since=timedelta(hours=2), most=1000):
    slots = slots_of(NOW - since, NOW, NOW)
    return await read_usage(spend, slots, KNOWN, samples, Collector(), most=most, seed=1, progress=lambda *_: None)


async def test_usage_becomes_as_many_requests_that_used_as_much_in_their_minutes(spend):
    await send(spend, NOW - timedelta(minutes=50), used("app", 30), refused=5)
    await send(spend, NOW - timedelta(minutes=10), used("web", 8))
    found = await read_from(spend)
    by_client = {name: [one for one in found.demand if one.client == name] for name in ("app", "web")}
    seen = [one for one in by_client["app"] if one.is_seen]
    assert (len(seen), len(by_client["app"]), len(by_client["web"])) == (30, 35, 8)
    assert sum(one.tokens for one in seen) == pytest.approx(4500, abs=30)  # each is rounded
    assert sum(one.pico for one in seen) == pytest.approx(4_500_000, abs=30)
    begin = (NOW - timedelta(minutes=50)).timestamp()
    assert all(begin <= one.at < begin + 60 for one in by_client["app"])
    assert {one.model for one in by_client["app"]} == {"gpt-4o"}
    assert found.happened.refused == {"rate_limit_exceeded": 5}
    assert found.left_out == {"refused before they asked for room": 3}
    assert any("evenly at random (Poisson)" in one for one in found.assumed)


async def test_sizes_and_bursts_are_those_of_the_ring_where_it_shows_them(spend):
    # Given a ring of 20 minutes in which all of a client's requests come in the first second of each minute, half of
    # them of 10 tokens and half of 290, each reserving the double
    seen = [
        Demand(AT + 60 * minute + number / 100, "app", "gpt-4o", "", 2 * size, size, 0, 3.0, 5)
        for minute in range(20)
        for number, size in enumerate((10, 290) * 10)
    ]
    samples = Samples(seen, random.Random(1))
    await send(spend, NOW - timedelta(minutes=50), used("app", 400))
    found = await read_from(spend, samples)
    # then those that are made come as close together, relative to when the ring begins ...
    assert len({int((one.at - found.since) // 1.5) for one in found.demand}) <= 2
    # ... and are as unlike, with the sum that usage has
    assert sum(one.tokens for one in found.demand) == pytest.approx(60_000, rel=0.01)
    small = [one for one in found.demand if one.tokens < 100]
    assert 150 < len(small) < 250
    assert all(one.reserved == pytest.approx(2 * one.tokens, abs=1) for one in found.demand)
    assert {one.took_s for one in found.demand} == {3.0}


async def test_what_is_more_than_may_be_replayed_is_left_out_from_the_oldest_on_and_said(spend):
    await send(spend, NOW - timedelta(minutes=50), used("app", 30))
    await send(spend, NOW - timedelta(minutes=10), used("app", 8))
    found = await read_from(spend, most=20)
    assert len(found.demand) == 8
    assert any("(--most)" in one for one in found.assumed)


async def test_days_that_only_hours_are_kept_of_are_spread_over_these_hours(spend):
    at = NOW - timedelta(days=5)
    await send(spend, at, used("app", 60))
    found = await read_from(spend, since=timedelta(days=6))
    hour = at.replace(minute=0).timestamp()
    assert len(found.demand) == 60
    assert all(hour <= one.at < hour + 3600 for one in found.demand)
    assert found.until - found.since > 1800  # and not in one minute of it
    with pytest.raises(SourceError, match="kept for 90 days"):
        slots_of(NOW - timedelta(days=100), NOW, NOW)
