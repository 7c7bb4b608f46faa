"""Scripts touch only keys that they declare, where a store insists on it; elsewhere a batch declares but one."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import redis
from quotapool.domain.periods import Per
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.domain.rules import Kind, Measure, Rule
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.keys.seal import MasterKey
from quotapool.keys.vault import NewKey, Vault
from quotapool.ledger.batches import ledger_script
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.declared_keys import (
    keys_of_batch,
    keys_of_clock,
    keys_of_rights,
    keys_of_state,
    keys_of_states,
    keys_of_try_now,
)
from quotapool.ledger.grants import Event, Granted, Hold, Observed
from quotapool.ledger.items import Item
from quotapool.ledger.rules import Charge, RuleSet, Standing
from quotapool.money.spend_store import SpendStore
from quotapool.observe.request_store import RequestStore
from quotapool.store.store import Script, StoreRefused
from redis.crc import key_slot

from tests.fakes.connect import connect
from tests.fakes.store import candidate, granted, ledger_on, pack
from tests.fakes.strict_store import StrictStore, strict_store

LIMITS = Limits(rpm=60, tpm=10_000)
ACCOUNTS = [candidate("a", LIMITS), candidate("b:c", LIMITS), candidate("ü {x}"), candidate("d", LIMITS, key="d1")]
GROUPS = ["gpt-4o", "a model: of {nobody} ☂"]


@pytest.fixture
async def strict(valkey_url, tmp_path) -> AsyncIterator[tuple[Ledger, StrictStore]]:
    async with strict_store(valkey_url, tmp_path) as between:
        store = connect(between.url)
        made = ledger_on(store)
        yield made, between
        await made.flush()
        await store.close()


async def test_a_store_that_refuses_undeclared_keys_is_noticed_once_and_nothing_is_lost(strict):
    ledger, store = strict
    await ledger.registry.begin_epoch(reseeded=False)
    for _ in range(3):
        await granted(ledger, "gpt-4o", Cost(1, 10), [ACCOUNTS[0]])
    # The first batch was stopped at the first key that it looks at, and done when it was sent again
    assert [key.split(":")[2] for key in store.refused] == ["batch"]
    _, buckets = await ledger.stored.all()
    assert buckets["a", "gpt-4o"].charged[0] == 3  # requests


async def test_what_the_start_checks_succeeds_there(strict):
    ledger, store = strict
    await ledger.check_rights()
    await ledger.registry.begin_epoch(reseeded=False)
    await ledger.check()
    assert len(store.refused) == 1


def a_charge(rng: random.Random) -> Charge:
    client = Standing(f"c/{rng.choice('ab')}", Rule("rpm", Kind.RATE, Measure.REQUESTS, 1e6, period_s=60.0), UTC)
    budget = Rule("usd/day", Kind.BUDGET, Measure.USD, 1e6, per=Per.DAY)
    slots = Rule("concurrent", Kind.SLOTS, Measure.CONCURRENT, 1e6)
    standings = [client, Standing("t/all", budget, UTC), Standing("t/all", slots, UTC)]
    return Charge(RuleSet(standings), [1.0, 10.0, 1.0])


async def anything(ledger: Ledger, rng: random.Random, held: list[Granted]) -> None:
    """One thing of all that a process may do with the ledger."""
    group, some = rng.choice(GROUPS), rng.sample(ACCOUNTS, rng.randint(1, 3))
    one, registry = some[0], ledger.registry
    action = rng.choice(
        ["reserve"] * 6
        + ["settle"] * 3
        + ["release", "carry over", "charge", "hold", "state", "states", "try now", "clock"]
    )
    if action == "reserve":
        answer = await ledger.reserve(
            group,
            Cost(rng.choice([1, 50, 1_000]), rng.choice([0, 500, 9_000])),
            some,
            may_try_resting=rng.random() < 0.5,
            forget=[other.account for other in ACCOUNTS[: rng.randint(0, 2)]],
            leave=rng.choice([0.0, 0.2]),
            owner=rng.choice(["", "one", "other"]),
            arrived=time.monotonic() - rng.random(),
            alone=rng.random() < 0.2,
            charge=a_charge(rng) if rng.random() < 0.5 else None,
        )
        if isinstance(answer, Granted):
            held.append(answer)
    elif action == "settle" and held:
        ledger.settle(
            held.pop(rng.randrange(len(held))),
            back=rng.choice([Cost(0), Cost(1)]),
            unused_tokens=rng.choice([0.0, 100.0]),
            cool_s=rng.choice([0.0, 0.0, 0.5]),
            observed=[Observed(Dimension.RPM, 60, 50)] if rng.random() < 0.5 else [],
            event=rng.choice(list(Event)),
        )
    elif action == "release":
        ledger.release(group, rng.choice(["one", "other"]))
    elif action == "charge":
        ledger.charge(a_charge(rng), [1.0, 2.0, 3.0])
    elif action == "hold":
        hold = await ledger.holds.take(a_charge(rng))
        if isinstance(hold, Hold):
            ledger.holds.settle(hold, [1.0, 2.0, 0.0])
    elif action == "carry over":
        ledger.carry_over(group, one, [1.0] * 6, [1.0] * 6, rng.choice([0.0, 0.5]))
    elif action == "state":
        state = rng.choice([State.REMOVED, State.QUARANTINED, State.SUSPECT])
        record = Record(state, "invalid_api_key", 0.0, fingerprint=one.key_fingerprint)
        await registry.observe_state(
            f"k/{one.key}", record, rest_s=0.01, fingerprint=one.key_fingerprint, max_removals=1
        )
        await registry.change_state(f"k/{rng.choice(ACCOUNTS).key}", None, by=OPERATOR, fingerprint="")
    elif action == "states":
        record = Record(State.DISABLED, "operator", 0.0, by=OPERATOR, fingerprint="")
        await registry.set_states([(f"k/{one.key}", rng.choice([record, None]), "") for one in ACCOUNTS])
    elif action == "try now":
        await registry.try_now(State.QUARANTINED, [f"k/{one.key}"])
    elif action == "clock":
        await registry.correct_seconds()


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_a_batch_holds_its_script_touches_only_declared_keys(strict, seed):
    ledger, store = strict
    await ledger.registry.begin_epoch(reseeded=bool(seed % 2))
    await ledger.check()
    store.refused.clear()
    rng, held = random.Random(seed), list[Granted]()
    for _ in range(40):  # each turn's actions come together in batches
        await asyncio.gather(*(anything(ledger, rng, held) for _ in range(8)))
    await ledger.flush()
    assert store.refused == []
    assert store.scripts > 40


async def test_a_batch_that_notes_a_clock_set_forward_touches_only_declared_keys(strict):
    ledger, store = strict
    await ledger.check()
    behind = b"%.6f" % (time.time() - 60)
    script, keys = ledger_script(), keys_of_batch(ledger.prefix, "one", "other", [])
    arguments = ("one", pack([]), behind, behind, "other")
    await ledger.store.evalsha_batch(script, ledger.prefix, *arguments, further_keys=lambda: keys)
    assert len(store.refused) == 1  # the check's
    assert await ledger.store.client.exists(f"{ledger.prefix}:steps")


async def test_the_vault_the_spend_and_the_kept_requests_touch_only_declared_keys(strict):
    ledger, store = strict
    vault, master, other = Vault(ledger.store, "test"), MasterKey("m" * 32), MasterKey("o" * 32)
    key = NewKey("k1", "sk-one", "print", {"account": "a"})
    assert await vault.put([key], master, accounts={"a": {"rpm": 1}}) == ["added"]
    assert await vault.rotate([master], other) == 1
    assert await vault.forget("k1") == 1
    assert await SpendStore(ledger.store, "test").add([], at=datetime.now(UTC))
    for number in (1, 2):
        assert await RequestStore(ledger.store, "test").add(b"\x90", 9, sender="one", number=number, most=9)
    assert store.refused == []


async def test_a_script_that_may_not_touch_its_keys_even_when_declared_is_refused(strict):
    ledger, _ = strict
    strays = Script("strays", b"redis.call('GET', KEYS[1]) return redis.call('GET', '{p}:other')")
    with pytest.raises(StoreRefused, match=r"undeclared key, key: \{p\}:other"):
        await ledger.store.evalsha_batch(strays, "{p}", further_keys=lambda: ["{p}:another"])


@pytest.mark.parametrize("pool", ["main", "a pool", "☂"])
def test_all_keys_of_a_pool_are_in_one_slot(pool):
    prefix = f"qp:{{{pool}}}"
    keys = [
        *keys_of_batch(prefix, "one", "other", [Item([2, group, one.account]) for group in GROUPS for one in ACCOUNTS]),
        *keys_of_batch(prefix, "one", "", [Item([3, group, "{owner}"]) for group in GROUPS]),
        *(*keys_of_state(prefix, "code"), *keys_of_try_now(prefix), *keys_of_clock(prefix, GROUPS)),
        *(*keys_of_states(prefix), *keys_of_rights(prefix)),
    ]
    assert {key_slot(key.encode()) for key in keys} == {key_slot(pool.encode())}


async def test_elsewhere_a_batch_declares_one_key(valkey_url):
    store = connect(valkey_url)
    ledger = ledger_on(store)
    await ledger.registry.begin_epoch(reseeded=False)
    with redis.Redis(unix_socket_path=valkey_url.removeprefix("unix://")).monitor() as monitor:
        await granted(ledger, "gpt-4o", Cost(1, 10), ACCOUNTS)
        with contextlib.closing(monitor.listen()) as seen:
            words = next(line["command"] for line in seen if line["command"].startswith("EVALSHA")).split(" ")
    assert words[2:4] == ["1", ledger.prefix]
    await store.close()
