"""The simulated admin API and billing pages, read by the official SDK: what was served is what is charged."""

from __future__ import annotations

import time

import openai
import pytest
from quotapool.simulator import simulated_admin_secret, simulated_secret, simulated_session_secret
from quotapool.simulator.answers import Usage
from quotapool.simulator.sales import DAY_S, Sales, price_of

ACCOUNTS = [{"id": "north", "organization": "acme", "rpm": 60, "tpm": 4000}, {"id": "south", "organization": "acme"}]


@pytest.fixture
async def acme(simulate):
    return await simulate(ACCOUNTS, completion_tokens=10)


def admin(simulation, organization="acme"):
    return simulation.sdk(admin_api_key=simulated_admin_secret(organization)).admin.organization


async def ask(simulation, index, letters, model="gpt-4o", **more):
    messages = [{"role": "user", "content": "x" * letters}]
    return await simulation.sdk(index).chat.completions.create(model=model, messages=messages, **more)


async def test_an_organisation_sees_its_own_projects_and_their_limits(acme):
    organisation = admin(acme)
    assert [project.id async for project in organisation.projects.list()] == ["proj_sim_north", "proj_sim_south"]
    limits = [limit async for limit in organisation.projects.rate_limits.list_rate_limits("proj_sim_north", limit=2)]
    by_model = {limit.model: limit for limit in limits}
    assert len(limits) == len(by_model) > 2  # more than one page
    assert by_model["gpt-4o"].max_requests_per_1_minute == 60
    assert by_model["gpt-4o"].max_tokens_per_1_minute == 4000


async def test_keys_show_their_beginning_and_end_last_use_and_expiry(acme):
    _, facts = await acme.control("POST", "keys/1/facts", name="backend", expires_at=1_900_000_000)
    assert facts["name"] == "backend"
    await ask(acme, 1, 4)
    (key,) = [key async for key in admin(acme).projects.api_keys.list("proj_sim_south")]
    assert key.redacted_value == simulated_secret(1)[:10] + "..." + "pool"
    assert (key.name, key.expires_at) == ("backend", 1_900_000_000)
    assert abs(key.last_used_at - time.time()) < 5
    (unused,) = [key async for key in admin(acme).projects.api_keys.list("proj_sim_north")]
    assert (unused.last_used_at, unused.expires_at) == (None, None)


async def test_costs_are_those_of_what_was_served(acme):
    # 400 characters are 100 tokens: 100 x $2.50 + 10 x $10 a million = $0.000350.
    await ask(acme, 0, 400)
    # 4,400 are 1,100, of which 1,024 are cached: 76 x 4.25 + 1,024 x 2.125 + 10 x 17 = $0.002669, in priority.
    await ask(acme, 1, 4400, service_tier="priority")
    start = int(time.time()) - DAY_S
    page = await admin(acme).usage.costs(start_time=start, group_by=["project_id", "api_key_id"])
    assert len(page.data) == 2
    assert page.data[0].results == []
    costs = {(r.project_id, r.api_key_id): r.amount.value for r in page.data[1].results}
    assert costs == {
        ("proj_sim_north", "key_sim0000"): pytest.approx(0.000350, abs=1e-12),
        ("proj_sim_south", "key_sim0001"): pytest.approx(0.002669, abs=1e-12),
    }
    used = await admin(acme).usage.completions(start_time=int(time.time()), group_by=["service_tier"])
    by_tier = {r.service_tier: (r.num_model_requests, r.input_tokens, r.output_tokens) for r in used.data[0].results}
    assert by_tier == {"default": (1, 100, 10), "priority": (1, 1100, 10)}


async def test_days_come_in_pages(acme):
    usage = admin(acme).usage
    today = int(time.time()) // DAY_S * DAY_S
    first = await usage.costs(start_time=today - 9 * DAY_S, limit=6)
    assert (len(first.data), first.has_more) == (6, True)
    second = await usage.costs(start_time=today - 9 * DAY_S, limit=6, page=first.next_page)
    assert ([bucket.start_time for bucket in second.data][-1], second.has_more) == (today, False)
    assert len({bucket.start_time for bucket in (*first.data, *second.data)}) == 10


async def test_a_projects_key_lacks_the_scope_and_an_unknown_one_is_wrong(acme):
    wrong = acme.sdk(admin_api_key=simulated_secret(0)).admin.organization
    with pytest.raises(openai.PermissionDeniedError, match=r"Missing scopes: api\.usage\.read"):
        await wrong.usage.costs(start_time=0)
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        await acme.sdk(admin_api_key=simulated_admin_secret("nobody")).admin.organization.spend_limit.retrieve()


async def test_a_spend_limit_is_enforced_once_it_is_spent(acme):
    with pytest.raises(openai.NotFoundError):
        await admin(acme).projects.spend_limit.retrieve("proj_sim_north")
    await acme.control("POST", "accounts/north/money", project_limit_cents=1)
    limit = await admin(acme).projects.spend_limit.retrieve("proj_sim_north")
    assert (limit.threshold_amount, limit.enforcement.status) == (1, "inactive")
    await ask(acme, 0, 4 * 3900)  # 3,900 tokens, 3,840 of them cached: 60 x 2.50 + 3,840 x 1.25 + 10 x 10: $0.00505
    assert (await admin(acme).projects.spend_limit.retrieve("proj_sim_north")).enforcement.status == "inactive"
    await ask(acme, 1, 4 * 3900)  # of another project
    await acme.control("POST", "accounts/north/money", project_limit_cents=0)
    assert (await admin(acme).projects.spend_limit.retrieve("proj_sim_north")).enforcement.status == "enforcing"


async def billing(simulation, page, secret):
    url = f"{simulation.url}/v1/dashboard/billing/{page}"
    async with simulation.session.get(url, headers={"Authorization": f"Bearer {secret}"}) as answer:
        return answer.status, await answer.json()


async def test_a_session_key_sees_what_credit_is_left(acme):
    await acme.control("POST", "accounts/north/money", granted_usd=5, access_until=1_900_000_000)
    await ask(acme, 0, 400)  # $0.000350
    login = simulated_session_secret("north")
    status, grants = await billing(acme, "credit_grants", login)
    assert status == 200
    assert grants["total_available"] == pytest.approx(4.99965, abs=1e-9)
    assert (await billing(acme, "subscription", login))[1]["access_until"] == 1_900_000_000
    assert (await billing(acme, "usage", login))[1]["total_usage"] == pytest.approx(0.035, abs=1e-9)  # cents


async def test_an_api_key_sees_no_credit_and_neither_does_an_expired_session_key(acme):
    status, refusal = await billing(acme, "credit_grants", simulated_secret(0))
    assert status == 403
    assert "must be made with a session key" in refusal["error"]["message"]
    await acme.control("POST", "accounts/north/money", session_expired=True)
    assert (await billing(acme, "credit_grants", simulated_session_secret("north")))[0] == 401


def test_an_answer_is_charged_on_its_own_day_and_in_its_own_tier():
    sales = Sales()
    sales.record("north", 0, "chat", "gpt-5.5-2026-04-01", "flex", Usage(1000, 100, 600), 1.5 * DAY_S)
    # 400 x $2.50 + 600 x $0.25 + 100 x $15 a million: $0.00265.
    assert sales.total("north", DAY_S, 2 * DAY_S) == 2_650_000_000
    assert sales.total("north", 0, DAY_S) == sales.total("south") == 0
    assert price_of("gpt-4o", "flex") == price_of("gpt-4o", "default")
