"""Teams at run time: their limits hold for all their clients, and a client whose team is nowhere is not served."""

from __future__ import annotations

import structlog
from quotapool.ledger.clients import ClientStore, digest
from quotapool.settings import ClientOptions
from quotapool.settings.rules import RuleOptions

from tests.fakes.edge import Client, chat_body

KEYS = {"app": "a-client-key-of-the-app", "web": "a-client-key-of-the-web"}


def asking(client: str) -> Client:
    return Client(
        chat_body(), more_headers=(("Content-Type", "application/json"), ("Authorization", f"Bearer {KEYS[client]}"))
    )


async def with_team(open_pool, options: dict | None, members=("app", "web")):
    """A pool with these clients in the store, and their team unless `options` is None."""
    pool = await open_pool({"a": 1})
    clients = ClientStore(pool.store, pool.settings.pool)
    if options is not None:
        await clients.teams.add("red", RuleOptions.model_validate(options))
    for name in members:
        await clients.add(name, digest(KEYS[name]), ClientOptions(team="red"))
    await pool.paths.sync.refresh()
    return pool, clients


async def test_the_clients_of_a_team_share_its_budget(open_pool):
    pool, _ = await with_team(open_pool, {"budgets": [{"requests": 2, "per": "total"}]})
    answers = [await pool.ask(asking(name)) for name in ("app", "web", "app", "web")]
    assert [answer.status for answer in answers] == [200, 200, 429, 429]
    assert answers[3].error["code"] == "client_budget_exhausted"
    assert "team red may use 2 requests in total" in answers[3].error["message"]


async def test_a_client_whose_team_is_nowhere_is_known_and_not_served(open_pool):
    pool, clients = await with_team(open_pool, None)
    for _ in range(2):
        answer = await pool.ask(asking("app"))
        assert (answer.status, answer.error["code"]) == (403, "client_suspended")
    assert pool.upstream.sent == []

    await clients.teams.add("red", RuleOptions())
    await pool.paths.sync.refresh()
    assert (await pool.ask(asking("app"))).status == 200
    await clients.teams.remove("red")
    await pool.paths.sync.refresh()
    assert (await pool.ask(asking("app"))).status == 403


async def test_it_is_logged_once_for_each(open_pool):
    with structlog.testing.capture_logs() as logs:
        pool, clients = await with_team(open_pool, None)
        await clients.set("app", {"notes": "changed"})
        await pool.paths.sync.refresh()
    told = [(line["client"], line["team"]) for line in logs if "names a team" in line["event"]]
    assert sorted(told) == [("app", "red"), ("web", "red")]


async def test_a_team_that_was_made_again_begins_anew(open_pool):
    budget = {"budgets": [{"requests": 1, "per": "total"}]}
    pool, clients = await with_team(open_pool, budget)
    assert [(await pool.ask(asking("app"))).status for _ in range(2)] == [200, 429]
    await clients.teams.remove("red")
    await clients.teams.add("red", RuleOptions.model_validate(budget))
    await pool.paths.sync.refresh()
    assert [(await pool.ask(asking("app"))).status for _ in range(2)] == [200, 429]
