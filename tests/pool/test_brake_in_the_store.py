"""The brake: removals that look like one of a burst with one cause stop, in the store, so for all replicas at once."""

from __future__ import annotations

import pytest
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.ledger.budgets import Braked

from tests.fakes.connect import connect
from tests.fakes.store import ledger_on

MOST = 3


@pytest.fixture
async def ledgers(valkey_url):
    """Two replicas' ledgers."""
    stores = [connect(valkey_url) for _ in range(2)]
    yield [ledger_on(store) for store in stores]
    for store in stores:
        await store.close()


def dead(reason: str) -> Record:
    return Record(State.REMOVED, reason, 0.0, status=401, fingerprint="print")


async def kill(ledger, n: int, reason: str, *, first: int = 0) -> list[Braked]:
    """Report keys first … first+n-1 as dead; what the brake said to each."""
    said = []
    for i in range(first, first + n):
        _, braked = await ledger.registry.observe_state(
            f"k/{i}", dead(reason), rest_s=30, fingerprint="print", max_removals=MOST
        )
        said.append(braked)
    return said


async def states(ledger) -> list[State]:
    records = await ledger.registry.records()
    return [records[name].state for name in sorted(records, key=lambda name: int(name[2:]))]


async def events(ledger, kind: str) -> list[dict[bytes, bytes]]:
    entries = await ledger.store.client.xrange(f"{ledger.prefix}:events")
    return [entry for _, entry in entries if entry[b"kind"] == kind.encode()]


async def a_minute_passes(ledger, brake: str) -> None:
    for field, at in await ledger.store.client.zrange(f"{ledger.prefix}:removals:{brake}", 0, -1, withscores=True):
        await ledger.store.client.zadd(f"{ledger.prefix}:removals:{brake}", {field: at - 61})


NO, STOPPED, FIRST = Braked.NO, Braked.STOPPED, Braked.FIRST


async def test_more_ambiguous_deaths_than_allowed_within_a_minute_only_make_suspects(ledgers):
    one, other = ledgers
    assert await kill(one, 2, "http_401") == [NO, NO]
    # I expect the replicas to share the count, and the alarm to sound once.
    assert await kill(other, 4, "http_401", first=2) == [NO, FIRST, STOPPED, STOPPED]
    assert await states(one) == [State.REMOVED] * 3 + [State.SUSPECT] * 3
    assert len(await events(one, "brake")) == 1
    assert len(await events(one, "state")) == 6
    assert await one.registry.removals_stopped() == 3
    stopped = (await one.registry.records())["k/3"]
    assert (stopped.reason, stopped.status) == ("http_401", 401)
    assert stopped.until == pytest.approx(stopped.since + 30)


async def test_a_code_of_openais_may_come_four_times_as_often_and_then_stops_too(ledgers):
    one, _ = ledgers
    assert await kill(one, 14, "invalid_api_key") == [NO] * 12 + [FIRST, STOPPED]


@pytest.mark.parametrize("reason", ["account_deactivated", "access_terminated"])
async def test_what_only_openai_can_know_is_believed_however_often(ledgers, reason):
    one, _ = ledgers
    assert await kill(one, 20, reason) == [NO] * 20


async def test_the_brake_stays_on_while_it_has_something_to_stop(ledgers):
    one, _ = ledgers
    await kill(one, 4, "http_401")
    # If a minute passes and the cause goes on, as a broken gateway does,
    await a_minute_passes(one, "ambiguous")
    assert await kill(one, 3, "http_401", first=10) == [STOPPED] * 3
    # and once nothing was stopped for its ten minutes, it lets go.
    await one.store.client.delete(f"{one.prefix}:brake:ambiguous")
    assert await kill(one, 1, "http_401", first=20) == [NO]


async def test_deaths_that_are_a_minute_apart_are_no_burst(ledgers):
    one, _ = ledgers
    for n in range(5):
        assert await kill(one, 2, "http_401", first=2 * n) == [NO, NO]
        await a_minute_passes(one, "ambiguous")


async def test_the_same_key_dying_again_does_not_count_twice(ledgers):
    one, other = ledgers
    assert await kill(one, 1, "http_401") == [NO]
    for ledger in (one, other, one):
        assert await kill(ledger, 1, "http_401") == [NO]
    assert await kill(one, 2, "http_401", first=1) == [NO, NO]


async def test_a_stopped_removal_leaves_a_quarantined_key_as_it_is(ledgers):
    one, _ = ledgers
    await kill(one, 4, "http_401")
    broke = Record(State.QUARANTINED, "insufficient_quota", 0.0, fingerprint="print")
    await one.registry.change_state("k/9", broke, rest_s=60, fingerprint="print")
    assert await kill(one, 1, "http_401", first=9) == [STOPPED]
    assert (await one.registry.records())["k/9"].state is State.QUARANTINED


async def test_no_brake_holds_an_operator(ledgers):
    one, _ = ledgers
    for n in range(6):
        record = Record(State.REMOVED, "operator", 0.0, by=OPERATOR, fingerprint="print")
        assert await one.registry.change_state(f"k/{n}", record, fingerprint="print")
    assert await states(one) == [State.REMOVED] * 6


async def test_an_alarm_that_is_no_change_comes_once_in_its_time_for_all_replicas(ledgers):
    one, other = ledgers
    assert await one.registry.announce("policy", "backend", {"reason": "bio_policy"}, every_s=60)
    assert not await other.registry.announce("policy", "backend", {"reason": "bio_policy"}, every_s=60)
    assert await other.registry.announce("policy", "nightly", {"reason": "bio_policy"}, every_s=60)
    assert [entry[b"field"] for entry in await events(one, "policy")] == [b"backend", b"nightly"]
    # and its end is told once, too.
    assert await one.registry.announce_end("policy", "backend", {"to": "well"})
    assert not await other.registry.announce_end("policy", "backend", {"to": "well"})
    assert (await events(one, "policy"))[-1][b"to"] == b"well"
    assert await one.registry.announce("policy", "backend", {"reason": "bio_policy"}, every_s=60)
