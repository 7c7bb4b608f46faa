"""Work on many keys at once: short rows, the same change for all, imports as jobs, accounts and their credit."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from quotapool.admin.http import Call
from quotapool.admin.jobs import JobRunner
from quotapool.admin.routes import ApiError
from quotapool.domain.actor import Actor
from quotapool.domain.bucket import Bucket
from quotapool.domain.quantities import Cost, Limits
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.verdict import OK, Kind, Verdict
from quotapool.domain.wallet import PICO
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import Vault
from quotapool.ledger.grants import candidate_of, written_limits
from quotapool.money.last_used import LastUsed
from quotapool.money.spend_store import Entry, SpendStore
from quotapool.observe.redaction import Redactor
from quotapool.operators.accounts import InvalidTopUp, UnknownAccount, account_rows, topup
from quotapool.operators.bulk import Progress, choosable, chosen, work_on_keys
from quotapool.operators.keys import KeyOperations, UnknownKey
from quotapool.operators.overview import Overview
from quotapool.reports.key_lines import Emptiest, key_lines
from quotapool.settings import Settings, UpstreamKey
from quotapool.shapes.general import Empty
from quotapool.shapes.work import KeyImport, KeyWork
from quotapool.store.store import StoreLost

from tests.fakes.connect import connect
from tests.fakes.store import ledger_on

OPERATIVE = Actor("ann", "operator", "link", "127.0.0.1")
NOW = datetime(2026, 11, 29, 14, 20, tzinfo=UTC)


async def no_probe(key_id, *, refresh=True, actor=""):
    raise AssertionError(f"{key_id} is not to be probed")


@pytest.fixture
async def operations(valkey_url):
    """A pool of keys a1, a2 (account a) and b1, c1 (accounts of their own)."""
    store = connect(valkey_url)
    accounts = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}
    keys = [{"id": n, "account": a, "secret": f"sk-proj-{n}-{'x' * 30}"} for n, a in accounts.items()]
    limits = {"default": {"rpm": 60, "tpm": 10_000}}
    settings = Settings.model_validate(
        {"keys": keys, "limits": limits, "master_key": "the-master-key-of-this-test-0001"}
    )
    sources = KeySources(Vault(store, "default"), settings)
    await sources.read()
    made = KeyOperations(Overview(settings, ledger_on(store, "default")), sources, Redactor())
    await made.overview.start()
    yield made
    await store.close()


def runner(operations: KeyOperations, recorded: list[object] | None = None) -> JobRunner:
    async def changed() -> None:
        await operations.overview.reload(operations.sources.merged())

    async def record(*what: object) -> None:
        if recorded is not None:
            recorded.append(what)

    return JobRunner(operations, no_probe, changed, record)


async def call(jobs: JobRunner, name: str, body: object = None, id_: str = ""):
    return await jobs.handlers()[name](Call(id_, Empty(), body, OPERATIVE))


async def ended(jobs: JobRunner, job):
    async with asyncio.timeout(30):
        while not job.finished:
            await asyncio.sleep(0)
            job = await call(jobs, "show_job", id_=job.id)
    return job


# ---- one change for many


async def test_many_are_changed_with_an_event_each_and_few_versions(operations):
    registry = operations.overview.ledger.registry
    await registry.poll()
    before = registry.version
    states = await operations.act_on_all("disable", ["a1", "a2", "b1", "nobody"])
    assert states == {"a1": State.DISABLED, "a2": State.DISABLED, "b1": State.DISABLED}
    assert registry.version == before + 1
    store = operations.overview.ledger.store
    events = await store.client.xrange(f"{operations.overview.ledger.prefix}:events")
    told = [(fields[b"field"], fields[b"from"], fields[b"to"], fields[b"by"]) for _, fields in events]
    assert told == [(f"k/{n}".encode(), b"active", b"disabled", b"operator") for n in ("a1", "a2", "b1")]


async def test_the_events_of_an_operators_changes_say_who_that_was(operations):
    jobs = runner(operations)
    await ended(jobs, await call(jobs, "start_key_job", KeyWork("disable", ["a1", "a2"])))
    await operations.act("enable", "a1", "jane@example.com")
    await operations.act("drain", "b1", "jane of sk-proj-0123456789abcdefghijklmnop")
    await operations.act("enable", "b1")
    new = UpstreamKey.model_validate({"id": "new", "secret": "sk-proj-new-000001-abcdefghijkl"})
    await operations.disable_beforehand([new], "joe")
    store = operations.overview.ledger.store
    events = await store.client.xrange(f"{operations.overview.ledger.prefix}:events")
    told = [(fields[b"field"].decode(), fields[b"by"], fields.get(b"actor")) for _, fields in events]
    name = OPERATIVE.name.encode()
    assert told[:3] == [
        (f"k/{n}", b"operator", who) for n, who in (("a1", name), ("a2", name), ("a1", b"jane@example.com"))
    ]
    assert told[3][:2] == ("k/b1", b"operator")
    assert b"0123456789abcdef" not in told[3][2]
    assert told[4:] == [("k/b1", b"operator", None), ("k/new", b"operator", b"joe")]


async def test_enabling_many_lifts_what_holds_for_their_accounts(operations):
    registry = operations.overview.ledger.registry
    broke = Record(State.QUARANTINED, "insufficient_quota", 0.0)
    await registry.change_state(Subject.of_account("a"), broke, rest_s=60, fingerprint="")
    await operations.act("remove", "b1")
    assert await operations.act_on_all("enable", ["a1", "a2", "b1"]) == dict.fromkeys(["a1", "a2", "b1"], State.ACTIVE)
    assert await registry.records() == {}
    # and again: nothing changes, nothing is told
    version = registry.version
    await operations.act_on_all("enable", ["a1", "a2", "b1"])
    assert registry.version == version


async def test_a_state_that_an_operator_sets_again_is_no_change_and_no_event_and_another_one_is(operations):
    registry, ledger = operations.overview.ledger.registry, operations.overview.ledger
    both = [(Subject.of_key(name), Record(State.DISABLED, "operator", 0.0, by=OPERATOR), "") for name in ("a1", "a2")]
    assert await registry.set_states(both[:1], "jane") == 1
    (since,) = [record.since for record in (await registry.records()).values()]
    assert await registry.set_states(both, "jane") == 1  # as is sent again when an answer was lost
    assert (await registry.records())[Subject.of_key("a1")].since == since
    version = registry.version
    assert await registry.set_states(both, "joe") == 0
    assert registry.version == version
    subject, disabled, _ = both[0]
    for other in (
        replace(disabled, state=State.DRAINING),
        replace(disabled, reason="x"),
        replace(disabled, message="y"),
    ):
        assert await registry.set_states([(subject, other, "")]) == 1
    assert await registry.set_states([(subject, replace(disabled, message="y", fingerprint="new"), "new")]) == 1
    events = await ledger.store.client.xrange(f"{ledger.prefix}:events")
    told = [(fields[b"field"].decode(), fields[b"from"].decode(), fields[b"to"].decode()) for _, fields in events]
    assert told == [
        ("k/a1", "active", "disabled"),
        ("k/a2", "active", "disabled"),
        ("k/a1", "disabled", "draining"),
        ("k/a1", "draining", "disabled"),
        ("k/a1", "disabled", "disabled"),
        ("k/a1", "disabled", "disabled"),
    ]


async def test_a_record_seen_with_another_secret_counts_as_none_in_its_event(operations):
    registry = operations.overview.ledger.registry
    old = Record(State.REMOVED, "invalid_api_key", 0.0, fingerprint="another")
    await registry.change_state(Subject.of_key("a1"), old, fingerprint="another")
    record = Record(State.DISABLED, "operator", 0.0, by=OPERATOR, fingerprint="fp")
    assert await registry.set_states([(Subject.of_key("a1"), record, "fp")]) == 1
    store = operations.overview.ledger.store
    (_, last), *_ = await store.client.xrevrange(f"{operations.overview.ledger.prefix}:events", count=1)
    assert (last[b"from"], last[b"to"]) == (b"active", b"disabled")


async def test_what_is_not_there_is_reported_and_the_rest_is_done(operations):
    progress = Progress()
    await work_on_keys(operations, "drain", ["a1", "gone", "b1"], no_probe, progress)
    assert (progress.done, progress.counts) == (3, {"draining": 2, "not found": 1})
    assert [(one.id, one.result) for one in progress.not_done] == [("gone", "not found")]


async def test_configured_keys_cannot_be_forgotten_in_bulk(operations):
    progress = Progress()
    await work_on_keys(operations, "forget", ["a1", "gone"], no_probe, progress)
    assert progress.counts == {"configured": 1, "not found": 1}


async def test_keys_are_chosen_by_name_account_state_and_pattern(operations):
    await operations.act("disable", "a2")
    known = await choosable(operations)
    nothing = {"account": None, "state": None, "match": None}
    assert chosen(known, ["b1", "a1", "b1"], **nothing) == ["b1", "a1"]
    assert chosen(known, [], **{**nothing, "account": "a"}) == ["a1", "a2"]
    assert chosen(known, [], **{**nothing, "account": "a", "state": "active"}) == ["a1"]
    assert chosen(known, [], **{**nothing, "match": "[bc]*"}) == ["b1", "c1"]
    assert chosen(known, ["a1", "b1"], **{**nothing, "match": "b*"}) == ["b1"]
    with pytest.raises(UnknownKey):
        chosen(known, ["a1", "nobody"], **nothing)


# ---- short rows


def test_the_emptiest_budget_of_an_account_is_found_over_its_models():
    """60 a minute refill 1 a second: of 30 left in one model and 6 in the other, 6 of 60 is the emptiest."""
    found, limits = Emptiest(), Limits(rpm=60)
    for group, left, cool_until in (("gpt-4o", 30.0, 130.0), ("gpt-5", 6.0, 110.0)):
        bucket = Bucket(100.0, cool_until=cool_until)
        bucket.refill(100.0, limits)
        bucket.kept[0] = bucket.corrected[0] = left
        found.add(group, bucket, limits, 100.0)
    assert (found.left, found.name, found.cooling_s) == (0.1, "gpt-5 rpm", 10.0)


async def test_each_key_has_a_short_row(operations):
    ledger = operations.overview.ledger
    await operations.act("disable", "b1")
    candidate = candidate_of(
        account="a", key="a1", account_fingerprint="", key_fingerprint="", written=written_limits(Limits(60, 10_000))
    )
    await ledger.reserve("gpt-4o", Cost(1, 8_000), [candidate])
    await ledger.flush()
    store = ledger.store
    await SpendStore(store, "default").add([Entry("a", "a2", "gpt-4o", "x", "exact", 1)], at=datetime.now(UTC))
    lines = {line.id: line for line in await key_lines(operations, LastUsed(store, "default"))}
    assert list(lines) == ["a1", "a2", "b1", "c1"]
    assert (lines["a1"].emptiest, lines["a1"].state, lines["a1"].source) == ("gpt-4o tpm", "active", "configuration")
    assert lines["a1"].left == pytest.approx(0.2, abs=0.03)  # 2,000 of 10,000, less a breath
    assert (lines["b1"].state, lines["b1"].reason) == ("disabled", "operator")
    assert "enable" in lines["b1"].next
    assert lines["c1"].left is None
    assert lines["a1"].last_used is None
    assert lines["a2"].last_used == f"{datetime.now(UTC):%Y-%m-%dT%H}:00Z"


async def test_when_a_key_was_last_used_is_found_in_hours_then_in_days(valkey_url):
    store = connect(valkey_url)
    spend = SpendStore(store, "default")
    for name, ago in (("now", 0), ("morning", 5 / 24), ("yesterday", 1), ("old", 89), ("too old", 91)):
        await spend.add([Entry("a", name, "gpt-4o", "x", "exact", 1)], at=NOW - timedelta(days=ago))
    last_used = LastUsed(store, "default")
    names = ["now", "morning", "yesterday", "old", "too old", "never"]
    expected = {
        "now": "2026-11-29T14:00Z",
        "morning": "2026-11-29T09:00Z",
        "yesterday": "2026-11-28",
        "old": "2026-09-01",
    }
    assert await last_used.of(names, NOW) == expected
    # The next day it is known without reading the old days again: what ended since is read
    await spend.add([Entry("a", "never", "gpt-4o", "x", "exact", 1)], at=NOW + timedelta(hours=3))
    tomorrow = await last_used.of(names, NOW + timedelta(days=1))
    assert tomorrow == {"now": "2026-11-29", "morning": "2026-11-29", "yesterday": "2026-11-28", "never": "2026-11-29"}
    await store.close()


# ---- jobs


async def test_a_job_changes_many_keys_and_is_recorded_when_it_begins_and_at_its_end(operations):
    recorded: list[object] = []
    jobs = runner(operations, recorded)
    job = await call(jobs, "start_key_job", KeyWork("disable", ["a1", "b1", "b1", "gone"]))
    assert (job.kind, job.action, job.total, job.finished, job.by) == ("keys", "disable", 3, False, "ann")
    job = await ended(jobs, job)
    assert (job.done, job.counts, job.problem) == (3, {"disabled": 2, "not found": 1}, "")
    assert [(one.id, one.result) for one in job.not_done] == [("gone", "not found")]
    begun, (actor, action, subject, changes) = recorded
    its_id = [None, job.id]
    what = {"job": its_id, "action": [None, "disable"], "keys": [None, 3]}
    assert begun == (OPERATIVE, "start_key_job", "", what)
    assert (actor, action, subject) == (OPERATIVE, "disable_keys", "")
    assert changes == {
        "job": its_id,
        "done": [None, 3],
        "counts": [None, {"disabled": 2, "not found": 1}],
        "first_ids": [None, ["a1", "b1", "gone"]],
    }


async def test_an_import_adds_keys_that_serve_and_never_tells_a_secret(operations):
    jobs = runner(operations)
    text = "secret,id\nsk-proj-new-0001-abcdefghijkl,new-1\nsk-proj-new-0002-abcdefghijkl,new-2\n,bad\n"
    body = KeyImport(text, check=False)
    job = await ended(jobs, await call(jobs, "start_import", body))
    assert (job.total, job.done, job.counts, job.problem) == (3, 3, {"added": 2, "bad line": 1}, "")
    assert [(one.line, one.result, one.why) for one in job.not_done] == [(4, "bad line", "has no secret")]
    assert {"new-1", "new-2"} <= set(operations.overview.roster.pool.keys)
    assert "sk-proj" not in repr(job)
    assert body.text == "-"
    # again: nothing is done twice
    again = await ended(jobs, await call(jobs, "start_import", KeyImport(text, check=False)))
    assert again.counts == {"unchanged": 2, "bad line": 1}
    forgotten = await ended(jobs, await call(jobs, "start_key_job", KeyWork("forget", ["new-1", "new-2"])))
    assert forgotten.counts == {"forgotten": 2}
    assert set(operations.overview.roster.pool.keys) == {"a1", "a2", "b1", "c1"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [("# nothing\n", "there is no key in it"), ("secret,colour\n", "the first line names an unknown column")],
)
async def test_a_file_that_is_not_understood_ends_the_import_with_the_reason(operations, text, problem):
    jobs = runner(operations)
    job = await ended(jobs, await call(jobs, "start_import", KeyImport(text, check=False)))
    assert job.problem.startswith(problem)


async def test_a_dry_run_stores_nothing(operations):
    jobs = runner(operations)
    body = KeyImport("sk-proj-new-0001-abcdefghijkl", check=False, dry_run=True)
    job = await ended(jobs, await call(jobs, "start_import", body))
    assert (job.action, job.counts) == ("dry run", {"added": 1})
    assert operations.sources.contents.records == {}


async def test_a_job_that_fails_by_a_bug_ends_with_a_problem(operations):
    async def broken(name):
        raise RuntimeError("sk-proj-a-secret-in-a-bug-0001")

    jobs = JobRunner(operations, broken, lambda: asyncio.sleep(0))
    job = await ended(jobs, await call(jobs, "start_key_job", KeyWork("probe", ["a1"])))
    assert (job.finished, job.problem) == (True, "It failed by a fault in the proxy; its log has the details.")


async def test_a_few_jobs_run_at_a_time_and_can_be_stopped(operations):
    never = asyncio.Event()

    async def hanging(name):
        await never.wait()

    jobs = JobRunner(operations, hanging, lambda: asyncio.sleep(0))
    started = [await call(jobs, "start_key_job", KeyWork("probe", ["a1"])) for _ in range(4)]
    with pytest.raises(ApiError) as refused:
        await call(jobs, "start_key_job", KeyWork("disable", ["a1"]))
    assert refused.value.code == "too_many_jobs"
    stopped = await call(jobs, "stop_job", id_=started[0].id)
    assert (stopped.finished, stopped.problem) == (True, "stopped by an operator; what was done stays done")
    assert [job.id for job in (await call(jobs, "list_jobs")).jobs] == [job.id for job in reversed(started)]
    await jobs.close()
    told = [(job.finished, job.problem) for job in (await call(jobs, "list_jobs")).jobs]
    assert told == [*[(True, "the proxy was stopped; what was done stays done")] * 3, (True, stopped.problem)]


async def test_twenty_jobs_are_remembered_for_an_hour(operations, monkeypatch):
    jobs = runner(operations)
    done = [await ended(jobs, await call(jobs, "start_key_job", KeyWork("drain", ["c1"]))) for _ in range(22)]
    assert len((await call(jobs, "list_jobs")).jobs) == 20
    with pytest.raises(ApiError) as gone:
        await call(jobs, "show_job", id_=done[0].id)
    assert gone.value.code == "not_found"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3_601)
    assert (await call(jobs, "list_jobs")).jobs == []


# ---- accounts


async def test_many_are_probed_with_one_look_at_the_states_before_and_one_after(operations):
    registry, pool = operations.overview.ledger.registry, operations.overview.roster.pool
    reads, its_records = [], registry.records

    async def records():
        reads.append(None)
        return await its_records()

    registry.records = records
    await registry.set_states([(Subject.of_key("b1"), Record(State.REMOVED, "operator", 0.0, by=OPERATOR), "")])

    async def probe_now(key_id, *, refresh=True, actor=""):
        assert (refresh, actor) == (False, "joe")
        assert pool.state_of(pool.keys["b1"]) is State.REMOVED  # which this process was not told
        if key_id != "a1":
            return OK
        out = Record(State.QUARANTINED, "insufficient_quota", 0.0)
        await registry.change_state(Subject.of_key("a1"), out, rest_s=60, fingerprint="")
        return Verdict(Kind.MONEY, "insufficient_quota")

    progress = Progress()
    await work_on_keys(operations, "probe", ["a1", "a2", "gone", "c1"], probe_now, progress, "joe")
    assert progress.counts == {"valid": 2, "not valid": 1, "not found": 1}
    assert (len(reads), pool.state_of(pool.keys["a1"])) == (2, State.QUARANTINED)


async def test_a_store_that_goes_away_ends_probes_of_many_with_its_own_error(operations):
    """Several are asked at once, and each finds it out."""

    async def probe(key_id, *, refresh=True, actor=""):
        await asyncio.sleep(0)
        raise StoreLost("connect", sent=False)

    with pytest.raises(StoreLost):
        await work_on_keys(operations, "probe", ["a1", "a2", "b1"], probe, Progress())
    jobs = JobRunner(operations, probe, operations.overview.sync.refresh)
    job = await ended(jobs, await call(jobs, "start_key_job", KeyWork("probe", ["a1", "a2", "b1"])))
    assert job.problem.startswith("The store does not answer: ")


async def test_accounts_are_listed_with_what_they_have(operations):
    await operations.act("disable", "a2")
    out = Record(State.QUARANTINED, "insufficient_quota", 0.0)
    await operations.overview.ledger.registry.change_state(Subject.of_account("b"), out, rest_s=60, fingerprint="")
    rows = {row.id: row for row in await account_rows(operations.overview)}
    assert list(rows) == ["a", "b", "c"]
    assert (rows["a"].keys, rows["a"].usable, rows["a"].state) == (2, 1, "active")
    assert (rows["b"].usable, rows["b"].state, rows["b"].reason) == (0, "quarantined", "insufficient_quota")
    assert "top up" in rows["b"].next


async def test_an_accounts_credit_tells_how_exactly_its_end_is_known(operations):
    overview, now = operations.overview, datetime.now(UTC)
    spend = SpendStore(overview.ledger.store, operations.settings.pool)
    # Given $100, of which $10 a day were spent for a week: $30 are left, for three days more or less none
    for ago in range(1, 8):
        entry = Entry("b", "b", "gpt-5", "app", "exact", 10 * PICO)
        await spend.add([entry], at=now - timedelta(ago))
    await topup(overview, "b", 100.0, now.date() - timedelta(8), None)
    rows = {row.id: row.credit for row in await account_rows(overview)}
    assert (rows["b"]["remaining_usd"], rows["b"]["error_days"]) == (30.0, 0.0)
    await topup(overview, "c", 5.0, None, None)
    rows = {row.id: row.credit for row in await account_rows(overview)}
    assert rows["c"]["remaining_usd"] == 5.0
    assert "error_days" not in rows["c"]  # nothing was spent, so there is no end


async def test_credit_that_was_bought_is_recorded_and_the_account_is_tried(operations):
    overview = operations.overview
    out = Record(State.QUARANTINED, "insufficient_quota", 0.0)
    await overview.ledger.registry.change_state(Subject.of_account("b"), out, rest_s=600, fingerprint="")
    done = await topup(overview, "b", 25.0, None, None)
    assert (done.left, done.woken) == (25.0, True)
    (row,) = await account_rows(overview, only="b")
    assert [grant.usd for grant in row.grants] == [25.0]
    assert row.credit["remaining_usd"] == 25.0
    with pytest.raises(UnknownAccount, match="is a key; its account is 'a'"):
        await topup(overview, "a1", 5.0, None, None)
    day = datetime.now(UTC).date()
    with pytest.raises(InvalidTopUp):
        await topup(overview, "b", 5.0, day, day)
