"""States of keys in the store: one event each, the domain's rules, one trial at a time, known to every process."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from quotapool.domain.quantities import Cost, Limits
from quotapool.domain.states import OPERATOR, Record, State, rest_s
from quotapool.ledger.declared_keys import keys_of_state
from quotapool.ledger.grants import Refused
from quotapool.store.store import Script

from tests.fakes.connect import connect
from tests.fakes.states import TRANSITIONS
from tests.fakes.store import candidate, granted, ledger_on, move_time, pack

GROUP = "gpt-4o"
PLENTY = Limits(rpm=10_000, tpm=10_000_000)
A, B = candidate("a", PLENTY), candidate("b", PLENTY)


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


@pytest.fixture
async def ledger(valkey_url):
    store = connect(valkey_url)
    made = ledger_on(store, rng=NoJitter())
    await made.registry.begin_epoch(reseeded=False)
    yield made
    await made.flush()
    await store.close()


def out(state: State = State.REMOVED, *, fingerprint: str = "fp-a1", **fields) -> Record:
    return Record(state, "invalid_api_key", 0.0, fingerprint=fingerprint, **fields)


async def events(ledger) -> list[dict[str, str]]:
    entries = await ledger.store.client.xrange(f"{ledger.prefix}:events")
    return [{name.decode(): value.decode() for name, value in entry.items()} for _, entry in entries]


# ---- the rules


async def test_the_store_follows_the_rules_of_the_domain(ledger):
    # The same table drives domain/states.py in tests/domain/test_states.py.
    for n, transition in enumerate(TRANSITIONS):
        field, before, after = f"k/{n}", transition.before, transition.after
        if before is not None:
            assert await ledger.registry.change_state(field, before, by=before.by, fingerprint="print"), transition
        changed = await ledger.registry.change_state(field, after, by=transition.by, fingerprint="print")
        assert changed is transition.allowed, str(transition)
        now = (await ledger.registry.records()).get(field)
        expected = after if transition.allowed else before
        assert (now and now.state) == (expected and expected.state), str(transition)


async def test_the_same_observation_twice_is_one_event_and_postpones_nothing(ledger):
    broke = out(State.QUARANTINED)
    assert await ledger.registry.change_state("k/a1", broke, rest_s=60, fingerprint="fp-a1")
    first = (await ledger.registry.records())["k/a1"]
    assert not await ledger.registry.change_state("k/a1", broke, rest_s=600, fingerprint="fp-a1")
    assert (await ledger.registry.records())["k/a1"] == first
    assert first.until == pytest.approx(first.since + 60)
    assert len(await events(ledger)) == 1


async def test_another_reason_for_the_same_state_is_an_event(ledger):
    await ledger.registry.change_state("k/a1", out(), fingerprint="fp-a1")
    assert await ledger.registry.change_state("k/a1", replace(out(), reason="account_deactivated"), fingerprint="fp-a1")
    assert [event["reason"] for event in await events(ledger)] == ["invalid_api_key", "account_deactivated"]


async def test_a_record_comes_back_as_it_was_given_with_the_stores_time(ledger):
    given = out(status=401, message="Incorrect API key: sk-…1234 ☂", request_id="req_1", tries=2)
    await ledger.registry.change_state("k/a1", given, fingerprint="fp-a1")
    seconds, micros = await ledger.store.client.time()
    kept = (await ledger.registry.records())["k/a1"]
    assert kept == replace(given, since=kept.since)
    assert seconds + micros / 1e6 - 5 < kept.since <= seconds + micros / 1e6
    (event,) = await events(ledger)
    shown = event["field"], event["from"], event["to"], event["by"], event["status"], event["request_id"]
    assert shown == ("k/a1", "active", "removed", "observed", "401", "req_1")


async def test_an_operators_state_holds_against_observations_and_is_ended_by_an_operator(ledger):
    await ledger.registry.change_state("k/a1", out(State.DISABLED, by=OPERATOR), fingerprint="fp-a1")
    assert not await ledger.registry.change_state("k/a1", out(), fingerprint="fp-a1")
    assert not await ledger.registry.change_state("k/a1", None, fingerprint="fp-a1")
    assert await ledger.registry.change_state("k/a1", None, by=OPERATOR, fingerprint="fp-a1")
    assert await ledger.registry.records() == {}


async def test_a_changed_secret_starts_again(ledger):
    await ledger.registry.change_state("k/a1", out(fingerprint="fp-older"), fingerprint="fp-older")
    # The new secret may be used,
    await granted(ledger, GROUP, Cost(1), [A])
    # observations of it are compared with nothing,
    assert await ledger.registry.change_state("k/a1", out(State.SUSPECT), fingerprint="fp-a1")
    # and the older one's record can be cleared without an operator.
    await ledger.registry.change_state("k/b1", out(fingerprint="fp-older"), fingerprint="fp-older")
    assert await ledger.registry.change_state("k/b1", None, fingerprint="fp-b1")
    assert list(await ledger.registry.records()) == ["k/a1"]


async def test_the_list_of_events_is_bounded(ledger):
    client, script = ledger.store.client, Script.of("quotapool.ledger", "state")
    keys = keys_of_state(ledger.prefix, "")
    await ledger.registry.change_state("k/a1", out(), fingerprint="fp-a1")
    fields = {
        "state": "removed",
        "tries": 0,
        "status": 0,
        "message": "",
        "request_id": "",
        "by": OPERATOR,
        "fingerprint": "",
    }
    for _ in range(4):
        pipeline = client.pipeline(transaction=False)
        for n in range(2_600):
            pipeline.evalsha(script.sha1, len(keys), *keys, "k/a1", pack(fields | {"reason": str(n)}), 0, OPERATOR, "")
        await pipeline.execute()
    # "or so": streams are cut in whole nodes of 100
    assert 10_000 <= await client.xlen(f"{ledger.prefix}:events") <= 10_100


# ---- keys that are out


@pytest.mark.parametrize("field", ["k/a1", "a/a"])
@pytest.mark.parametrize("state", [State.REMOVED, State.DISABLED, State.DRAINING, State.QUARANTINED, State.SUSPECT])
async def test_a_key_that_is_out_is_not_used_and_is_reported(ledger, field, state):
    await ledger.registry.change_state(field, out(state, fingerprint=""), rest_s=60, fingerprint="")
    answer = await granted(ledger, GROUP, Cost(1), [A, B])
    assert answer.candidate == B
    refused = await ledger.reserve(GROUP, Cost(1), [A])
    assert isinstance(refused, Refused)
    assert refused.dead == (A,)


async def test_a_key_that_is_out_is_no_hint_either(ledger):
    once = candidate("once", Limits(rpm=10_000, tpm=1_000_000, rpd=1))
    await granted(ledger, GROUP, Cost(1), [once])
    await granted(ledger, GROUP, Cost(1), [A])
    await ledger.registry.change_state("k/a1", out(), fingerprint="fp-a1")
    await ledger.reserve(GROUP, Cost(1), [A])  # a request tries, and gets it as dead
    refused = await ledger.reserve(GROUP, Cost(1), [once])
    assert isinstance(refused, Refused)
    assert refused.hints == ()


# ---- trials


@pytest.mark.parametrize("state", [State.QUARANTINED, State.SUSPECT])
@pytest.mark.parametrize("field", ["k/a1", "a/a"])
async def test_one_request_tries_a_resting_key_when_its_time_has_come_and_the_next_try_moves(ledger, state, field):
    await ledger.registry.change_state(field, out(state, fingerprint=""), rest_s=rest_s(state, 0, 0.0), fingerprint="")
    first = rest_s(state, 0, 0.0)
    # Not before its time, and not by a request that may not be done twice
    assert isinstance(await ledger.reserve(GROUP, Cost(1), [A], may_try_resting=True), Refused)
    await move_time(ledger, first + 1)
    assert isinstance(await ledger.reserve(GROUP, Cost(1), [A]), Refused)
    # then one request, as a trial,
    trial = await granted(ledger, GROUP, Cost(1), [A], may_try_resting=True)
    assert trial.is_trial
    # and no second one until twice the first rest has passed.
    refused = await ledger.reserve(GROUP, Cost(1), [A], may_try_resting=True)
    assert isinstance(refused, Refused)
    assert refused.dead == (A,)
    kept = (await ledger.registry.records())[field]
    assert kept.tries == 1
    assert kept.until == pytest.approx(trial.at + rest_s(state, 1, 0.0), abs=1e-3)


async def test_of_many_replicas_trying_at_once_one_gets_the_trial(valkey_url, ledger):
    await ledger.registry.change_state("k/a1", out(State.QUARANTINED), rest_s=60, fingerprint="fp-a1")
    await move_time(ledger, 61)
    stores = [connect(valkey_url) for _ in range(5)]
    answers = [await ledger_on(s).reserve(GROUP, Cost(1), [A], may_try_resting=True) for s in stores]
    assert [isinstance(answer, Refused) for answer in answers] == [False, True, True, True, True]
    for store in stores:
        await store.close()


async def test_a_failed_trial_does_not_shorten_the_rest(ledger):
    broke = out(State.QUARANTINED)
    await ledger.registry.change_state("k/a1", broke, rest_s=60, fingerprint="fp-a1")
    await move_time(ledger, 61)
    await granted(ledger, GROUP, Cost(1), [A], may_try_resting=True)
    before = (await ledger.registry.records())["k/a1"]
    # If the trial is answered as before
    assert not await ledger.registry.change_state("k/a1", broke, rest_s=60, fingerprint="fp-a1")
    assert (await ledger.registry.records())["k/a1"] == before


async def test_a_failed_trial_with_another_reason_does_not_shorten_the_rest_either(ledger):
    await ledger.registry.change_state("k/a1", out(State.QUARANTINED), rest_s=60, fingerprint="fp-a1")
    await move_time(ledger, 61)
    await granted(ledger, GROUP, Cost(1), [A], may_try_resting=True)
    before = (await ledger.registry.records())["k/a1"]
    # If the trial finds no credit where there was a limit before
    other = replace(out(State.QUARANTINED), reason="credit_balance_exhausted")
    assert await ledger.registry.change_state("k/a1", other, rest_s=60, fingerprint="fp-a1")
    after = (await ledger.registry.records())["k/a1"]
    assert (after.reason, after.tries, after.until) == ("credit_balance_exhausted", 1, before.until)


# ---- every process learns of a change


async def test_another_process_learns_of_a_change_with_its_next_request(valkey_url, ledger):
    versions: list[int] = []
    store = connect(valkey_url)
    other = ledger_on(store, on_version=lambda: versions.append(other.registry.version))
    await granted(other, GROUP, Cost(1), [B])
    await ledger.registry.change_state("k/a1", out(), fingerprint="fp-a1")
    await granted(other, GROUP, Cost(1), [B])
    await granted(other, GROUP, Cost(1), [B])
    assert versions == [0, 1]
    await store.close()


async def test_an_idle_process_learns_of_a_change_by_its_heartbeat(valkey_url, ledger):
    versions: list[int] = []
    store = connect(valkey_url)
    other = ledger_on(store, on_version=lambda: versions.append(other.registry.version))
    await other.heartbeat()
    await ledger.registry.change_state("k/a1", out(), fingerprint="fp-a1")
    await other.heartbeat()
    await other.heartbeat()
    assert versions == [0, 1]
    await store.close()


async def test_processes_are_counted_as_replicas_until_they_send_no_heartbeat_for_ten_seconds(valkey_url, ledger):
    stores = [connect(valkey_url) for _ in range(3)]
    for store in stores:
        await ledger_on(store).heartbeat()
    await ledger.heartbeat()
    assert ledger.replicas == 4
    for name, score in await ledger.store.client.zrange(f"{ledger.prefix}:replicas", 0, -1, withscores=True):
        await ledger.store.client.zadd(f"{ledger.prefix}:replicas", {name: score - 11})
    # I expect no process to conclude that it is alone: after an outage, the first heartbeat finds only itself.
    await ledger.heartbeat()
    assert ledger.replicas == 4
    await ledger.heartbeat()
    assert ledger.replicas == 1
    for store in stores:
        await store.close()
