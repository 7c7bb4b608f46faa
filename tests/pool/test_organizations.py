"""An organisation's answer takes all its accounts, wherever they are used; a project's takes only its own."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from quotapool.domain.pool import Key
from quotapool.domain.quantities import Cost
from quotapool.domain.states import WALLET, Record, State, first_rest_s
from quotapool.domain.verdict import OK, Kind, Scope, Verdict
from quotapool.ledger.grants import Granted, Refused
from quotapool.pool.key_health import KeyHealth
from quotapool.pool.roster import Roster
from quotapool.pool.sync import RosterSync
from quotapool.settings import Settings

from tests.fakes.connect import connect
from tests.fakes.house import Recorder
from tests.fakes.store import ledger_on, move_time

GROUP = "gpt-4o"
PLENTY = {"limits": {"default": {"rpm": 600, "tpm": 600_000}}}
ACME = {**PLENTY, "accounts": {"a": {"organization": "acme"}, "b": {"organization": "acme"}}}
KEYS = [Key(f"{account}1", account, f"fp-{account}1") for account in "abc"]


class Replica:
    def __init__(self, url: str, settings: dict) -> None:
        self.store = connect(url)
        self.ledger = ledger_on(self.store)
        self.changes = Recorder()
        self.roster = Roster(Settings.model_validate(settings), KEYS)
        self.sync = RosterSync(self.roster, self.ledger, self.changes)
        self.health = KeyHealth(self.sync)

    async def reserve(self, key: str, **options) -> Granted | Refused:
        asked = self.roster.candidate(self.roster.pool.keys[key], GROUP)
        answer = await self.ledger.reserve(GROUP, Cost(1, 10), [asked], **options)
        await self.sync.refresh()
        return answer

    async def hears(self, kind: Kind, reason: str, scope: Scope, key: str = "a1") -> None:
        answer = await self.reserve(key)
        assert isinstance(answer, Granted)
        task = self.health.report(Verdict(kind, reason, scope), answer, status=429, request_id="req_1")
        assert task is not None
        await task

    @property
    def states(self) -> dict[str, str]:
        return {key.id: str(self.roster.pool.state_of(key)) for key in KEYS}


@pytest.fixture
async def replica(valkey_url):
    made: list[Replica] = []

    async def make(settings=ACME) -> Replica:
        one = Replica(valkey_url, settings)
        made.append(one)
        await one.ledger.registry.begin_epoch(reseeded=False)
        await one.sync.refresh()
        return one

    yield make
    for one in made:
        await one.ledger.flush()
        await one.store.close()


async def test_an_organizations_empty_credit_takes_all_its_accounts_and_no_other(replica):
    one, other = await replica(), await replica()
    await one.hears(Kind.MONEY, "credit_balance_exhausted", Scope.ORGANIZATION)
    assert one.states == {"a1": "quarantined", "b1": "quarantined", "c1": "active"}
    assert one.changes.states == [("o/acme", State.QUARANTINED, "credit_balance_exhausted")]
    # I expect the store itself to refuse them, to a replica that has not heard yet, too.
    refused = await other.reserve("b1")
    assert isinstance(refused, Refused)
    assert [candidate.key for candidate in refused.dead] == ["b1"]
    assert isinstance(await other.reserve("c1"), Granted)


async def test_a_projects_spend_limit_leaves_the_other_projects_alone(replica):
    one = await replica()
    await one.hears(Kind.MONEY, "project_spend_limit_exceeded", Scope.ACCOUNT)
    assert one.states == {"a1": "quarantined", "b1": "active", "c1": "active"}


async def test_an_account_of_unknown_organization_answers_for_itself_alone(replica):
    one = await replica(PLENTY)
    await one.hears(Kind.MONEY, "credit_balance_exhausted", Scope.ORGANIZATION)
    assert one.states == {"a1": "quarantined", "b1": "active", "c1": "active"}
    assert list(await one.ledger.registry.records()) == ["a/a"]


async def test_one_account_tries_for_the_whole_organization_and_brings_it_back(replica):
    one = await replica()
    await one.hears(Kind.MONEY, "credit_balance_exhausted", Scope.ORGANIZATION)
    await move_time(one.ledger, 76)  # a minute and the quarter that chance may add
    await one.sync.refresh()
    trial = await one.reserve("b1", may_try_resting=True)
    assert isinstance(trial, Granted)
    assert trial.is_trial
    assert isinstance(await one.reserve("a1", may_try_resting=True), Refused)
    task = one.health.report(OK, trial, status=200, request_id="")
    assert task is not None
    await task
    assert set(one.states.values()) == {"active"}


async def test_an_organizations_death_is_one_event_whichever_key_saw_it(replica):
    one, other = await replica(), await replica()
    grants = [(p, await p.reserve(key)) for p, key in ((one, "a1"), (other, "b1"), (one, "b1"))]
    for process, granted in grants:
        assert isinstance(granted, Granted)
        verdict = Verdict(Kind.DEAD, "access_terminated", Scope.ORGANIZATION)
        task = process.health.report(verdict, granted, status=403, request_id="")
        assert task is not None
        await task
    assert len(one.changes.states) + len(other.changes.states) == 1
    assert other.states == {"a1": "removed", "b1": "removed", "c1": "active"}


async def test_organizations_learned_from_answers_count_where_their_accounts_are_merged(replica):
    merging = {**PLENTY, "merge_organizations": True}
    one, other = await replica(merging), await replica(merging)
    one.sync.learn_organization("a", "org-x")
    one.sync.learn_organization("b", "org-x")
    while one.sync._tasks:
        await next(iter(one.sync._tasks))
    await one.hears(Kind.MONEY, "credit_balance_exhausted", Scope.ORGANIZATION)
    assert list(await one.ledger.registry.records()) == ["o/org-x"]
    # If another process has heard no answer of them, I expect it to know from the store.
    await other.sync.refresh()
    assert other.states == {"a1": "quarantined", "b1": "quarantined", "c1": "active"}


async def test_what_the_wallet_stopped_is_tried_by_nobody(replica):
    one = await replica()
    stopped = Record(State.QUARANTINED, "stop_at", 0.0, by=WALLET)
    assert await one.ledger.registry.change_state("a/a", stopped, by=WALLET, fingerprint="fp-a1")
    await move_time(one.ledger, 86_400)
    await one.sync.refresh()
    assert isinstance(await one.reserve("a1", may_try_resting=True), Refused)
    assert one.roster.pool.due(2e12, random.Random(1)) == []
    assert (await one.ledger.registry.records())["a/a"].tries == 0


# ---- until when


def at(*date) -> float:
    return datetime(*date, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("reason", "now", "jitter", "expected"),
    [
        ("organization_spend_limit_exceeded", at(2026, 11, 22), 0.0, at(2026, 12, 1) + 1),
        ("project_spend_limit_exceeded", at(2026, 12, 31, 23, 59), 0.0, at(2027, 1, 1) + 1),
        ("organization_usage_limit_exceeded", at(2028, 2, 29, 12), 0.5, at(2028, 3, 1) + 1 + 300),
        ("credit_balance_exhausted", at(2026, 11, 22), 0.0, at(2026, 11, 22) + 60),
        ("insufficient_quota", at(2026, 11, 22), 0.4, at(2026, 11, 22) + 66),
    ],
)
def test_a_monthly_limit_is_first_tried_at_the_months_turn_and_credit_after_a_minute(reason, now, jitter, expected):
    assert now + first_rest_s(State.QUARANTINED, reason, now, jitter) == pytest.approx(expected, abs=0.01)
