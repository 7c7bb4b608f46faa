"""The roster keeps step with the store, reminds one that lost its memory, and turns verdicts into states."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from quotapool.domain.observer import Observer
from quotapool.domain.pool import Key
from quotapool.domain.quantities import Cost
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.verdict import OK, Kind, Scope, Verdict
from quotapool.ledger.grants import Granted, Refused
from quotapool.pool.key_health import KeyHealth
from quotapool.pool.roster import Roster
from quotapool.pool.sync import RosterSync
from quotapool.settings import Settings

from tests.fakes.connect import connect
from tests.fakes.store import ledger_on, move_time, wire

GROUP = "gpt-4o"
SETTINGS = Settings.model_validate({"limits": {"default": {"rpm": 600, "tpm": 600_000}}})
KEYS = [Key(f"{account}{n}", account, f"fp-{account}{n}") for account in "abc" for n in (1, 2)]


class Changes(Observer):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, State, str]] = []
        self.stops: list[tuple[str, str]] = []

    def state_changed(self, field: str, state: State, reason: str, details: Mapping[str, Any]) -> None:
        self.seen.append((field, state, reason))

    def removals_stopped(self, field: str, reason: str) -> None:
        self.stops.append((field, reason))


class Process:
    """One process's roster and ledger."""

    def __init__(self, url: str, **options: Any) -> None:
        self.store = connect(url)
        self.ledger = ledger_on(self.store, on_version=self.version_moved, **options)
        self.changes = Changes()
        self.roster = Roster(SETTINGS, KEYS)
        self.sync = RosterSync(self.roster, self.ledger, self.changes)
        self.health = KeyHealth(self.sync)

    def version_moved(self) -> None:
        self.sync.version_moved()

    async def quiet(self) -> None:
        """Everything it set off has come to an end."""
        await self.ledger.flush()
        while (task := self.sync._refreshing) is not None and not task.done():
            await task

    async def reserve(self, key: str, **options: Any) -> Granted | Refused:
        asked = self.roster.candidate(self.roster.pool.keys[key], GROUP)
        answer = await self.ledger.reserve(GROUP, Cost(1, 10), [asked], **options)
        await self.quiet()
        return answer

    def state(self, key: str) -> State:
        return self.roster.pool.state_of(self.roster.pool.keys[key])


@pytest.fixture
async def started(valkey_url):
    """Starts processes on one store that remembers."""
    processes: list[Process] = []

    async def start(**options: Any) -> Process:
        one = Process(valkey_url, **options)
        processes.append(one)
        await one.ledger.registry.begin_epoch(reseeded=False)
        await one.sync.refresh()
        return one

    yield start
    for one in processes:
        await one.quiet()
        await one.store.close()


def record(state: State, **fields: Any) -> Record:
    return Record(state, "because", 0.0, **fields)


async def report(process: Process, verdict: Verdict, answer: Granted, status: int = 401) -> None:
    task = process.health.report(verdict, answer, status=status, request_id="req_1")
    if task is not None:
        await task
    await process.quiet()


# ---- in step


async def test_what_one_process_sees_die_no_other_uses(started):
    one, other = await started(), await started()
    await report(one, Verdict(Kind.DEAD, "account_deactivated", Scope.ACCOUNT), await granted_to(one, "a1"))
    refused = await other.reserve("a2")
    assert isinstance(refused, Refused)
    assert [c.key for c in refused.dead] == ["a2"]
    assert (other.state("a1"), other.state("a2"), other.state("b1")) == (State.REMOVED, State.REMOVED, State.ACTIVE)


async def granted_to(process: Process, key: str, **options: Any) -> Granted:
    answer = await process.reserve(key, **options)
    assert isinstance(answer, Granted), answer
    return answer


async def test_changes_in_quick_succession_all_arrive(started):
    one, other = await started(), await started()
    await other.reserve("c1")
    for key in ("a1", "a2", "b1"):
        await one.ledger.registry.change_state(f"k/{key}", record(State.REMOVED), fingerprint=f"fp-{key}")
        asyncio.get_running_loop().create_task(other.ledger.heartbeat())
    await other.ledger.heartbeat()
    await other.quiet()
    assert {key for key in other.roster.pool.keys if other.state(key) is State.REMOVED} == {"a1", "a2", "b1"}


MANY = [Key(f"k{n}", f"m{n}", f"fp-k{n}") for n in range(1_300)]  # of which 500 are taken at a time


async def test_a_key_that_is_out_for_another_reason_now_is_never_usable_in_between(started):
    one = await started()
    one.roster.reload(one.roster.prepare(SETTINGS, MANY))
    pool = one.roster.pool
    await one.sync._take({Subject.of_key(key.id): record(State.DISABLED) for key in MANY})
    assert (len(pool.records), pool.size) == (1_300, 0)
    # If all keys are active again, and their accounts are out
    taking = asyncio.create_task(
        one.sync._take({Subject.of_account(key.account): record(State.REMOVED) for key in MANY})
    )
    steps = []
    while not taking.done():
        await asyncio.sleep(0)
        steps.append((len(pool.records), pool.size))
    assert list(dict.fromkeys(steps)) == [(n, 0) for n in (1_800, 2_300, 2_100, 1_600, 1_300)]


async def test_a_refresh_whose_caller_leaves_is_not_left_half_done(started, monkeypatch):
    one, operator = await started(), await started()
    one.roster.reload(one.roster.prepare(SETTINGS, MANY))
    pool, registry, read = one.roster.pool, one.ledger.registry, asyncio.Event()
    its_records = registry.records

    async def records() -> Any:
        found = await its_records()
        read.set()
        return found

    monkeypatch.setattr(registry, "records", records)
    changes = [(Subject.of_key(key.id), record(State.DISABLED, by=OPERATOR), "") for key in MANY]
    await operator.ledger.registry.set_states(changes)
    refreshing = asyncio.create_task(one.sync.refresh())
    await read.wait()
    while not pool.records:
        await asyncio.sleep(0)
    assert len(pool.records) == 500
    refreshing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await refreshing
    assert (len(pool.records), pool.size) == (1_300, 0)
    # And the next one is not kept from its work
    await operator.ledger.registry.set_states([(changes[0][0], None, "")])
    await one.sync.refresh()
    assert pool.size == 1


async def test_of_two_readings_the_older_does_not_undo_the_newer(started, monkeypatch):
    one, operator = await started(), await started()
    registry = one.ledger.registry
    its_records, read, late = registry.records, asyncio.Event(), asyncio.Event()

    async def records() -> Any:
        found = await its_records()
        if not read.is_set():
            read.set()
            await late.wait()
        return found

    monkeypatch.setattr(registry, "records", records)
    first = asyncio.create_task(one.sync.refresh())
    await read.wait()
    await operator.ledger.registry.change_state("k/a1", record(State.REMOVED, by=OPERATOR), fingerprint="")
    await RosterSync(one.roster, one.ledger, one.changes).refresh()  # the prober has one of its own
    assert one.state("a1") is State.REMOVED
    late.set()
    await first
    assert one.state("a1") is State.REMOVED


# ---- a store that lost its memory


async def test_an_emptied_store_is_reminded_of_who_is_out(started):
    one = await started()
    await one.ledger.registry.change_state("k/a1", record(State.REMOVED, fingerprint="fp-a1"), fingerprint="fp-a1")
    await one.ledger.registry.change_state("a/b", record(State.QUARANTINED, tries=2), rest_s=240, fingerprint="")
    await one.ledger.registry.change_state("k/c1", record(State.DISABLED, by=OPERATOR), fingerprint="")
    await one.quiet()
    # If the store is restarted empty
    await one.store.client.flushall()
    await one.reserve("c2")
    # I expect it to know again, and a process that starts now to know from it
    newcomer = await started()
    kept = await newcomer.ledger.registry.records()
    assert {field: r.state for field, r in kept.items()} == {
        "k/a1": State.REMOVED,
        "a/b": State.QUARANTINED,
        "k/c1": State.DISABLED,
    }
    assert (kept["a/b"].tries, kept["k/c1"].by) == (2, OPERATOR)
    assert kept["a/b"].until - kept["a/b"].since == pytest.approx(240, abs=1)
    assert isinstance(await newcomer.reserve("a1"), Refused)


async def test_an_idle_process_reminds_the_store_too(started):
    one = await started()
    await one.ledger.registry.change_state("k/a1", record(State.REMOVED), fingerprint="fp-a1")
    await one.quiet()
    await one.store.client.flushall()
    await one.ledger.heartbeat()
    await one.quiet()
    assert list(await one.ledger.registry.records()) == ["k/a1"]


async def test_all_processes_reminding_at_once_do_no_harm(started):
    several = [await started() for _ in range(4)]
    await several[0].ledger.registry.change_state("k/a1", record(State.REMOVED), fingerprint="fp-a1")
    for process in several:
        await process.ledger.heartbeat()
        await process.quiet()
    await several[0].store.client.flushall()
    await asyncio.gather(*(process.ledger.heartbeat() for process in several))
    for process in several:
        await process.quiet()
    assert {process.ledger.registry.epoch for process in several} == {several[0].ledger.registry.epoch}
    assert [process.state("a1") for process in several] == [State.REMOVED] * 4
    assert len(await several[0].store.client.xrange(f"{several[0].ledger.prefix}:events")) == 1


async def test_budgets_start_low_in_a_store_that_lost_its_memory_and_refill_from_there(started):
    # Given 600 requests a minute, and a store that is emptied
    one = await started()
    await one.store.client.flushall()
    first = await one.reserve("a1")
    assert isinstance(first, Refused)  # nobody knows what was taken in the last minute
    assert one.ledger.registry.epoch.startswith("r:")
    assert isinstance(await one.reserve("b1"), Refused)
    # I expect what was told: one request after a tenth of a second, for the ledger's caller as for any other
    assert first.wait_s == pytest.approx(0.1, abs=0.01)
    await move_time(one.ledger, 0.1)
    assert isinstance(await one.reserve("a1"), Granted)
    assert isinstance(await one.reserve("b1"), Granted)
    # and full buckets for whoever comes after two minutes.
    await move_time(one.ledger, 121)
    assert (await granted_to(one, "c1")).headroom == pytest.approx((588 - 1) / 600, abs=0.01)


# ---- verdicts


@pytest.mark.parametrize(
    ("verdict", "field", "state"),
    [
        (Verdict(Kind.MONEY, "insufficient_quota", Scope.ACCOUNT), "a/a", State.QUARANTINED),
        (Verdict(Kind.DEAD, "invalid_api_key", Scope.KEY), "k/a1", State.REMOVED),
        (Verdict(Kind.SUSPECT, "forbidden", Scope.KEY), "k/a1", State.SUSPECT),
    ],
)
async def test_a_verdict_becomes_a_record_that_says_why(started, verdict, field, state):
    one = await started()
    await report(one, verdict, await granted_to(one, "a1"), status=403)
    kept = (await one.ledger.registry.records())[field]
    assert (kept.state, kept.reason, kept.status, kept.request_id) == (state, verdict.reason, 403, "req_1")
    assert one.changes.seen == [(field, state, verdict.reason)]
    assert one.state("a1") is state


@pytest.mark.parametrize("kind", [Kind.WAIT, Kind.REQUEST, Kind.SERVICE, Kind.MODEL, Kind.EGRESS, Kind.OK])
async def test_other_verdicts_leave_the_key_alone(started, kind):
    one = await started()
    answer = await granted_to(one, "a1")
    assert one.health.report(Verdict(kind), answer, status=400, request_id="") is None


async def test_many_calls_that_saw_the_same_death_tell_it_once(started):
    one = await started()
    answers = [await granted_to(one, "a1") for _ in range(5)]
    verdict = Verdict(Kind.DEAD, "invalid_api_key", Scope.KEY)
    await asyncio.gather(*(report(one, verdict, answer) for answer in answers))
    assert one.changes.seen == [("k/a1", State.REMOVED, "invalid_api_key")]


async def test_a_trial_that_is_answered_brings_the_account_back(started):
    one = await started()
    await report(one, Verdict(Kind.MONEY, "insufficient_quota", Scope.ACCOUNT), await granted_to(one, "a1"))
    await move_time(one.ledger, 100)
    trial = await granted_to(one, "a1", may_try_resting=True)
    await report(one, OK, trial, status=200)
    assert await one.ledger.registry.records() == {}
    assert [one.state("a1"), one.state("a2")] == [State.ACTIVE] * 2
    assert one.changes.seen[-1] == ("a/a", State.ACTIVE, "answered")


async def test_a_key_seen_dead_while_the_store_is_away_is_out_at_once_and_told_later(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        one = Process(network.url, patience_s=0.1)
        await one.ledger.registry.begin_epoch(reseeded=False)
        await one.sync.refresh()
        answer = await granted_to(one, "a1")
        network.lose(0, "down")
        network.cut()
        task = one.health.report(Verdict(Kind.DEAD, "invalid_api_key", Scope.KEY), answer, status=401, request_id="")
        assert task is not None
        await task
        assert one.state("a1") is State.REMOVED
        network.heal()
        await one.quiet()
        assert (await one.ledger.registry.records())["k/a1"].state is State.REMOVED
        await one.store.close()


# ---- configuration


async def test_limits_reach_the_store_as_they_are_written_now(started):
    one = await started()
    key = one.roster.pool.keys["a1"]
    assert one.roster.candidate(key, GROUP).written == (600, 600_000, -1, -1, -1)
    assert one.roster.candidate(key, GROUP).account_fingerprint == "fp-a1+fp-a2"
    changed = Settings.model_validate({"limits": {"default": {"rpm": 5}}})
    one.roster.reload(one.roster.prepare(changed, KEYS[:1]))
    assert one.roster.candidate(key, GROUP).written == (5, -1, -1, -1, -1)
    assert list(one.roster.pool.keys) == ["a1"]


async def test_a_key_that_left_is_still_known_while_its_account_is_there(started):
    """A probe of a key may be under way while a reload takes that key out."""
    one = await started()
    gone, stays = one.roster.pool.keys["a2"], one.roster.pool.keys["a1"]
    one.roster.reload(one.roster.prepare(SETTINGS, [stays]))
    assert one.roster.candidate(gone, GROUP).key == "a2"
    assert one.roster.candidate(stays, GROUP).key == "a1"


async def test_seats_that_were_given_anew_lead_to_the_keys_of_today(started):
    one = await started()
    assert [c.key for c in one.roster.candidates(GROUP, range(len(KEYS)))] == [key.id for key in KEYS]
    one.roster.reload(one.roster.prepare(SETTINGS, KEYS[::-1]))
    assert [c.key for c in one.roster.candidates(GROUP, range(len(KEYS)))] == [key.id for key in KEYS[::-1]]


async def test_what_is_learned_while_a_configuration_is_prepared_holds_in_it(started):
    """A thread prepares it, and requests go on."""
    one = await started()
    stays = one.roster.pool.keys["a1"]
    # Given a configuration with fewer keys and one that is new
    changed = Settings.model_validate({"limits": {"default": {"rpm": 5}}, "merge_organizations": True})
    new = one.roster.prepare(changed, [*KEYS[1:], Key("d1", "d", "fp-d1")])
    assert (one.roster.settings, set(one.roster.pool.keys)) == (SETTINGS, {key.id for key in KEYS})
    assert one.roster.candidate(stays, GROUP).written == (600, 600_000, -1, -1, -1)
    # If meanwhile a key dies, one account turns out to be another, and credit is about to expire
    one.roster.pool.apply_states({"k/c1": record(State.REMOVED)})
    one.roster.merge("b", "a", "acme")
    one.roster.hurry({"c": 3.0})
    one.roster.reload(new)
    # I expect the new configuration, with all that
    assert one.roster.candidate(one.roster.pool.keys["d1"], GROUP).written == (5, -1, -1, -1, -1)
    accounts = one.roster.pool.accounts
    assert {name: [key.id for key in a.keys] for name, a in accounts.items()} == {
        "a": ["a2", "b1", "b2"],
        "c": ["c1", "c2"],
        "d": ["d1"],
    }
    assert (one.state("c1"), [key.id for key in accounts["c"].usable]) == (State.REMOVED, ["c2"])
    assert (accounts["a"].organization, one.roster.pool.weight_of("c")) == ("acme", 3.0)


async def test_models_that_clients_invent_do_not_fill_the_memory(started):
    one = await started()
    key = one.roster.pool.keys["a1"]
    for n in range(50_000 // len(KEYS) + 10):
        assert one.roster.candidate(key, f"invented-{n}").key == "a1"
    assert len(one.roster._candidates) * len(KEYS) <= 50_000
