"""The answer of `quotapool plan`: what happened, the pool as it is, and the changed one, in tables of 80 columns."""

from __future__ import annotations

import pytest
from quotapool.cli import plan_tables
from quotapool.domain.quantities import Limits
from quotapool.domain.wallet import PICO
from quotapool.plan.changes import Changes
from quotapool.plan.demand import UNSEEN, Demand
from quotapool.plan.replay import replay
from quotapool.plan.report import PlanReport, report
from quotapool.plan.scenario import PlanAccount, PlanClient, Scenario, add_accounts
from quotapool.plan.sources.record import Collector

AT = 1_795_000_000.0
LONG = "a-client-with-a-name-that-is-longer-than-any-column-of-a-table"
TODAY = Scenario(
    (PlanAccount("acme", {"gpt-4o": Limits(rpm=60)}, ("key-1",)),), clients={LONG: PlanClient()}, max_wait_s=0.0
)


def asked(count: int) -> Collector:
    """So many requests in one second, every third from another client; the record has the last ten as refused."""
    into = Collector()
    for number in range(count):
        client, refused = ("app", LONG)[number % 3 == 0], number >= count - 10
        use = {"tokens": UNSEEN} if refused else {"tokens": 100, "took_s": 1.0, "pico": PICO}
        one = Demand(AT + number / count, client, "gpt-4o", reserved=100, **use)
        into.add(one, wait_s=0.25 if number == 0 else 0.0, code="rate_limit_exceeded" if refused else "")
    into.assume("something")
    into.leave_out("answered by the cache", 1234)
    return into


def a_report(count: int = 100, *, changes: Changes | None = None) -> PlanReport:
    record = asked(count).record("The ring")
    today = replay(record.demand, TODAY)
    larger = add_accounts(TODAY, 2, like="acme")
    planned = replay(record.demand, larger) if changes else None
    return report(record, today, planned, changes.words if changes else [], ["and more"])


def test_the_record_has_what_happened_and_the_replays_what_would():
    found = a_report(changes=Changes(2, like="acme"))
    recorded = found.recorded
    assert (recorded.requests, recorded.served, recorded.refused) == (100, 90, 10)
    assert (recorded.waited, recorded.wait_p50_s, recorded.wait_p99_s, recorded.wait_longest_s) == (1, 0.0, 0.25, 0.25)
    assert recorded.usd == 90.0
    # A bucket of 60 a minute holds 58.8 of them, and one comes back within the second.
    assert found.today.served in {58, 59}
    assert found.today.usd == found.today.served
    assert (found.planned.served, found.planned.refused, found.planned.usd) == (100, 0, 100.0)
    assert found.changes == ["--add-accounts 2", "--like acme"]
    (limit,) = found.limits
    assert (limit.limit, limit.refused, limit.hours) == ("rpm of gpt-4o", (found.today.refused, 0), (1, 0))
    assert {row.name: row.requests for row in found.clients} == {"app": (66, 66), LONG: (34, 34)}
    assert found.accounts["acme"][0] == found.today.usd
    assert sum(after for _, after in found.accounts.values()) == 100.0
    assert found.assumed[0] == "something"
    assert found.assumed[-1] == "and more"


def test_without_changes_there_is_no_third_column(capsys):
    found = a_report()
    assert found.planned is None
    plan_tables.show(found)
    shown = capsys.readouterr().out
    assert "planned" not in shown
    assert "→" not in shown
    assert "Nothing is changed" in shown


def test_no_table_is_wider_than_80_columns_whatever_the_names(capsys):
    plan_tables.show(a_report(changes=Changes(2, like="acme")))
    shown = capsys.readouterr().out
    assert "The ring holds 100 requests of one second, until 2026-11-18 11:06 UTC." in shown
    assert "Left out: 1,234 answered by the cache" in shown
    rows = [line for line in shown.splitlines() if "→" in line or line.startswith((" ", "requests", "refused"))]
    assert rows
    assert max(map(len, rows)) <= 80


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (0.0, "0"), (0.0004, "1 ms"), (0.25, "250 ms"), (3.04, "3.0 s"), (65.2, "65 s")]
)
def test_waits_are_short_to_read(value, shown):
    assert plan_tables.seconds(value) == shown
