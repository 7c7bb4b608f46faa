"""Collecting what OpenAI reports: our keys are found by their ends, and a refusal is explained once."""

from __future__ import annotations

import aiohttp
import msgspec
import pytest
from quotapool.openai_admin.collect import Collector, match
from quotapool.openai_admin.records import AccountRecord, KeyRecord, OpenAIRecords
from quotapool.openai_admin.shapes import ApiKey
from quotapool.settings import Settings
from quotapool.simulator import (
    SimulatorConfig,
    build_app,
    simulated_admin_secret,
    simulated_secret,
    simulated_session_secret,
)

from tests.fakes.admin_api import ScriptedApi, refusal
from tests.fakes.connect import connect


def their_key(name, shown):
    return ApiKey(id=name, redacted_value=shown)


class TestMatching:
    def test_a_key_is_found_by_its_beginning_and_its_end(self):
        ours = {"a": "sk-proj-aaaaaaaaMxYA", "b": "sk-proj-bbbbbbbbQ3fz"}
        found = match(ours, [their_key("key_1", "sk-proj-****MxYA"), their_key("key_2", "sk-pro...Q3fz")])
        assert {name: key.id for name, key in found.items()} == {"a": "key_1", "b": "key_2"}

    @pytest.mark.parametrize("shown", ["sk-proj-...9999", "sk-svc-...MxYA", "sk...YA", "sk-proj-aaaaaaaaMxYA", "..."])
    def test_a_key_with_another_end_or_too_little_of_it_is_not_ours(self, shown):
        assert match({"a": "sk-proj-aaaaaaaaMxYA"}, [their_key("key_1", shown)]) == {}

    def test_if_two_match_none_is_taken(self):
        twins = {"a": "sk-proj-aaaaaaaaMxYA", "b": "sk-proj-bbbbbbbbMxYA"}
        assert match(twins, [their_key("key_1", "sk-proj...MxYA")]) == {}
        theirs = [their_key("key_1", "sk-proj...MxYA"), their_key("key_2", "sk-proj...MxYA")]
        assert match({"a": twins["a"]}, theirs) == {}


ADMIN = {"organization": "acme", "secret": simulated_admin_secret("acme")}


def settings(upstream, accounts, **more):
    keys = [{"id": f"key-{n}", "secret": simulated_secret(n), "account": name} for n, name in enumerate(accounts)]
    return Settings.model_validate(
        {"upstream": upstream, "keys": keys, "admin_keys": [ADMIN], "accounts": accounts, **more}
    )


@pytest.fixture
async def collector():
    async def sleep(_seconds):
        return

    async with aiohttp.ClientSession() as http:
        yield Collector(http, sleep)


@pytest.fixture
async def simulated(aiohttp_server):
    """An organisation acme of two projects with a key each, and its control API."""
    limits = {"rpm": 60, "tpm": 40_000}
    accounts = [
        {"id": name, "organization": "acme", "keys": (simulated_secret(n),), **limits}
        for n, name in enumerate(("north", "south"))
    ]
    server = await aiohttp_server(build_app(msgspec.convert({"accounts": accounts}, SimulatorConfig)))
    return str(server.make_url("")).rstrip("/")


async def control(collector, url, **document):
    async with collector._http.post(url, json=document) as answer:
        assert answer.status == 200


async def test_keys_limits_and_spend_limits_are_collected(collector, simulated):
    await control(collector, f"{simulated}/_sim/keys/0/facts", name="backend", expires_at=1_900_000_000)
    await control(collector, f"{simulated}/_sim/accounts/north/money", project_limit_cents=2500)
    collected = await collector.collect(settings(simulated, {"n": {"project": "proj_sim_north"}, "s": {}}))
    assert collected.problems == []
    # The account n names its project; s does not, and is looked for in all.
    assert collected.key_ids == {"key_sim0000": "key-0", "key_sim0001": "key-1"}
    key = collected.keys["key-0"]
    assert (key.key_id, key.name, key.project, key.expires_at) == (
        "key_sim0000", "backend", "proj_sim_north", 1_900_000_000,
    )  # fmt: skip
    assert collected.keys["key-1"].project == "proj_sim_south"
    assert (collected.accounts["n"].project_limit_usd, collected.accounts["n"].project_stopped) == (25, False)
    assert {row.model: row.max_requests_per_1_minute for row in collected.limits["n"]}["gpt-4o"] == 60
    assert "s" not in collected.limits  # its project is not configured


async def test_a_login_reads_credit_and_its_end(collector, simulated):
    await control(collector, f"{simulated}/_sim/accounts/south/money", granted_usd=30, access_until=1_900_000_000)
    login = {"s": {"session_key": simulated_session_secret("south")}}
    collected = await collector.collect(settings(simulated, login, admin_keys=[]))
    record = collected.accounts["s"]
    assert (record.granted_usd, record.available_usd, record.access_until, record.month_usd) == (
        30,
        30,
        1_900_000_000,
        0,
    )
    assert (record.problem, collected.problems) == ("", [])


async def test_an_expired_login_is_to_be_renewed_and_not_used_again(collector, simulated):
    await control(collector, f"{simulated}/_sim/accounts/south/money", session_expired=True)
    written = settings(simulated, {"s": {"session_key": simulated_session_secret("south")}}, admin_keys=[])
    first, second = await collector.collect(written), await collector.collect(written)
    assert "the session key has expired; renew it" in first.accounts["s"].problem
    assert len(first.problems) == 1
    assert second.problems == []  # explained once
    assert second.accounts["s"].problem == first.accounts["s"].problem


async def test_an_api_key_in_place_of_a_login_is_explained_without_a_request(collector, aiohttp_server):
    api = ScriptedApi((200, {}))
    server = await aiohttp_server(api.app())
    written = settings(str(server.make_url("")), {"s": {"session_key": "sk-proj-notalogin00000"}}, admin_keys=[])
    collected = await collector.collect(written)
    assert "this is an API key" in collected.accounts["s"].problem
    assert api.requests == []


async def test_upstreams_refusal_of_a_wrong_login_is_explained_too(collector, aiohttp_server):
    # OpenAI's own words, to a key that does not look like one.
    message = (
        "Your request to GET /v1/dashboard/billing/credit_grants must be made with a session key (that is, it can only "
        "be made from the browser). You made it with the following key type: secret."
    )
    api = ScriptedApi((403, refusal(message)))
    server = await aiohttp_server(api.app())
    written = settings(str(server.make_url("")), {"s": {"session_key": "an-odd-gateway-key"}}, admin_keys=[])
    first, second = await collector.collect(written), await collector.collect(written)
    assert "session_key takes a browser's login" in first.accounts["s"].problem
    assert (len(api.requests), second.problems) == (1, [])


async def test_an_admin_key_without_a_permission_still_reads_the_rest(collector, aiohttp_server):
    scopes = refusal("You have insufficient permissions for this operation. Missing scopes: api.management.read.")
    api = ScriptedApi((403, scopes))
    server = await aiohttp_server(api.app())
    written = settings(str(server.make_url("")), {f"a{n}": {"project": f"proj_{n}"} for n in range(9)})
    first = await collector.collect(written)
    # Keys, the organisation's spend limit, projects' spend limits, projects' rate limits: four requests, not 28.
    assert len(api.requests) == len(first.problems) == 4
    await collector.collect(written)
    assert len(api.requests) == 4
    # Another secret is tried again.
    admin = {"organization": "acme", "secret": "sk-admin-another000000"}
    await collector.collect(settings(str(server.make_url("")), {"a0": {"project": "proj_0"}}, admin_keys=[admin]))
    assert len(api.requests) == 8


async def test_accounts_are_read_with_the_key_of_their_own_organisation(collector, aiohttp_server):
    api = ScriptedApi((404, refusal("not found")))
    server = await aiohttp_server(api.app())
    admins = [{"organization": name, "secret": f"sk-admin-{name}0000000"} for name in ("acme", "globex")]
    accounts = {"a": {"organization": "globex", "project": "proj_g"}, "b": {"project": "proj_b"}}
    collected = await collector.collect(settings(str(server.make_url("")), accounts, admin_keys=admins))
    assert {path for path, _ in api.requests if "proj_b" in path} == set()  # its organisation is unknown
    assert set(api.authorizations) == {"Bearer sk-admin-globex0000000"}
    assert list(collected.accounts) == ["a"]


@pytest.fixture
async def store(valkey_url):
    opened = connect(valkey_url)
    yield opened
    await opened.close()


class TestTheBook:
    async def test_records_are_read_back(self, store):
        records = OpenAIRecords(store, "p")
        key = KeyRecord(key_id="key_1", name="backend", project="proj_a", expires_at=1_900_000_000.0, at=1.0)
        await records.write({"alpha": key}, {"acme": AccountRecord(available_usd=12.5, at=1.0)})
        await records.write({}, {})
        assert await records.read() == ({"alpha": key}, {"acme": AccountRecord(available_usd=12.5, at=1.0)})
        raw = await store.client.hgetall("qp:{p:spend}:said")
        assert msgspec.msgpack.decode(raw[b"alpha"])["expires_at"] == 1_900_000_000.0
        assert set(raw) == {b"alpha", b"a/acme"}

    async def test_records_of_another_version_are_left_out(self, store):
        await store.client.hset("qp:{p:spend}:said", "alpha", b"\x93\x01\x02\x03")
        assert await OpenAIRecords(store, "p").read() == ({}, {})
