"""one-api and new-api: what their channels, users and tokens become."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from quotapool.migrate.new_api import NewApi
from quotapool.migrate.one_api import OneApi

from tests.fakes.peers import sha256
from tests.migrate.conftest import everything, whys

KINDS = ["sqlite", "mysql", "postgresql"]
TOKENS = [f"{letter * 4}{'0123456789ab' * 4}"[:48] for letter in "ABCDEFGH"]
IN_TEN_DAYS = datetime.now(UTC) + timedelta(days=10)


def one_api(*only: str):
    return lambda database: OneApi(database, frozenset(only))


def new_api(*only: str):
    return lambda database: NewApi(database, frozenset(only))


def channel(number: int, secret: str, **more) -> dict:
    given = {"id": number, "type": 1, "key": secret, "name": f"c{number}", "models": "gpt-4o,gpt-4o-mini", **more}
    return {"base_url": "", "group": "default", "status": 1, "weight": 0, "model_mapping": "", **given}


def token(number: int, **more) -> dict:
    given = {"id": number, "user_id": 2, "key": TOKENS[number - 1], "name": f"app {number}", "status": 1}
    return {**given, "expired_time": -1, "remain_quota": 0, "unlimited_quota": True, **more}


USERS = [
    {"id": 1, "username": "root", "role": 100, "status": 1, "quota": 100_000_000, "group": "default"},
    {"id": 2, "username": "alice", "role": 1, "status": 1, "quota": 2_500_000, "group": "default"},
    {"id": 3, "username": "mallory", "role": 1, "status": 2, "quota": 500_000, "group": "default"},
    {"id": 4, "username": "bob", "role": 1, "status": 1, "quota": 0, "group": "default"},
]
ROWS = {
    "channels": [
        channel(1, "sk-proj-channel-one", weight=5),
        channel(2, "sk-proj-channel-two", status=3),
        channel(3, "sk-ant-channel-three", type=14, name="claude"),
        channel(4, "sk-proj-channel-four", status=2),
    ],
    "users": USERS,
    "tokens": [
        token(1),
        token(2, unlimited_quota=False, remain_quota=750_000, models="gpt-4o", subnet="10.0.0.0/8,192.168.1.7"),
        token(3, expired_time=int(IN_TEN_DAYS.timestamp())),
        token(4, expired_time=int(time.time()) - 86_400),
        token(5, status=2),
        token(6, user_id=3),
        token(7, user_id=4),
        token(8, unlimited_quota=False, remain_quota=-3, status=4),
    ],
    "options": [{"key": "GroupRatio", "value": '{"default":1,"vip":0.5}'}],
}


@pytest.mark.parametrize("kind", KINDS)
async def test_channels_and_tokens_of_one_api_come_over_from_each_kind_of_database(kind, make, pool):
    source = make(kind, "one-api", ROWS).source
    would = await pool.migrate(one_api(), source, dry_run=True)
    assert (await pool.keys(), await pool.clients(), await pool.teams()) == ({}, {}, {})
    moved = await pool.migrate(one_api(), source)
    assert everything(moved) == {"keys": {"added": 3}, "teams": {"added": 2}, "clients": {"added": 7}}
    assert (everything(would), would.not_taken, would.notes) == (everything(moved), moved.not_taken, moved.notes)
    assert await pool.states() == {
        "sk-proj-channel-one": "active",
        "sk-proj-channel-two": "disabled",
        "sk-proj-channel-four": "disabled",
    }
    assert (await pool.accounts())["sk-proj-channel-one"].weight == 5
    assert whys(moved, "key") == {"channel 3 claude": "channels of type 14 do not speak OpenAI's API"}
    assert whys(moved, "client") == {"token 4 app 4": "it has expired"}
    assert whys(moved, "setting") == {"group vip": "its price ratio 0.5; spend here is at list prices"}
    assert everything(await pool.migrate(one_api(), source)) == {
        "keys": {"unchanged": 3},
        "teams": {"unchanged": 2},
        "clients": {"unchanged": 7},
    }


async def test_a_client_sends_sk_and_its_token_and_has_the_tokens_limits(make, pool):
    await pool.migrate(one_api(), make("sqlite", "one-api", ROWS).source)
    clients = await pool.clients()
    options = {number: clients[sha256(f"sk-{key}")].options for number, key in enumerate(TOKENS, 1) if number != 4}
    assert options[1]["name"] == "app 1"
    assert options[1]["notes"] == "from one-api: token 1 of user alice"
    assert "budgets" not in options[1]
    # 750,000 units of 500,000 to the dollar.
    (budget,) = options[2]["budgets"]
    assert (budget["usd"], budget["per"]) == (1.5, "total")
    assert options[2]["models"] == ["gpt-4o"]
    assert options[2]["allowed_ips"] == ["10.0.0.0/8", "192.168.1.7/32"]
    assert options[3]["expires_on"] == IN_TEN_DAYS.date().isoformat()
    # 2,500,000 units are 5 dollars, which all tokens of alice share.
    team = (await pool.teams())[options[1]["team"]]
    assert options[2]["team"] == options[1]["team"] == "alice-one-api-2"
    assert [(b["usd"], b["per"]) for b in team.options["budgets"]] == [(5.0, "total")]


async def test_who_was_out_there_is_out_here(make, pool):
    await pool.migrate(one_api(), make("sqlite", "one-api", ROWS).source)
    ids, suspended = await pool.ids(), await pool.suspended()
    assert {number: suspended.get(ids[sha256(f"sk-{TOKENS[number - 1]}")]) for number in (1, 5, 6, 7, 8)} == {
        1: None,
        5: "disabled in one-api",
        6: "user mallory was disabled in one-api",
        7: "the quota of user bob was used up in one-api",
        8: "disabled in one-api",
    }


async def test_a_rate_of_quota_of_their_own_is_used(make, pool):
    options = [{"key": "QuotaPerUnit", "value": "1000000"}]
    await pool.migrate(one_api(), make("sqlite", "one-api", {**ROWS, "options": options}).source)
    assert [b["usd"] for b in (await pool.teams())["alice-one-api-2"].options["budgets"]] == [2.5]


SEVERAL = {
    "channels": [
        channel(1, "sk-proj-channel-one", model_mapping='{"gpt-4":"gpt-4o"}', models="gpt-4,gpt-4o"),
        channel(2, "sk-deepseek-channel", type=36, models="deepseek-chat", group="vip"),
        channel(
            3, "azure-channel-key", type=3, base_url="https://acme.openai.azure.com/", models="gpt-4o", group="vip"
        ),
        channel(4, "no-url-channel-key", type=3, models="gpt-4o"),
        channel(5, "sk-a-bad-url", base_url="ftp://example.com"),
    ],
    "users": [*USERS[:2], {"id": 3, "username": "vera", "quota": 500_000, "group": "vip", "status": 1}],
    "tokens": [token(1), token(2, user_id=3), token(3, user_id=3, models="gpt-4,deepseek-chat"), token(4, models="o1")],
}


async def test_channels_of_several_upstreams_keep_their_url_and_their_models(make, pool):
    moved = await pool.migrate(one_api(), make("sqlite", "one-api", SEVERAL).source)
    own = {secret: key.upstream for secret, key in (await pool.keys()).items()}
    assert own["sk-proj-channel-one"].models == {"gpt-4": "gpt-4o", "gpt-4o": "gpt-4o"}
    assert own["sk-deepseek-channel"].url == "https://api.deepseek.com"
    azure = own["azure-channel-key"]
    assert (azure.url, azure.header) == ("https://acme.openai.azure.com/openai", "api-key")
    assert whys(moved, "key") == {
        "channel 4 c4": "it names no URL, and channels of type 3 have none by themselves",
        "channel 5 c5": "its URL must be an http:// or https:// URL, such as https://api.openai.com",
    }


async def test_a_client_keeps_to_the_models_of_the_channels_that_its_group_could_use(make, pool):
    moved = await pool.migrate(one_api(), make("sqlite", "one-api", SEVERAL).source)
    clients = await pool.clients()
    models = [clients[sha256(f"sk-{key}")].options.get("models") for key in TOKENS[:3]]
    assert models == [["gpt-4", "gpt-4o"], ["deepseek-chat", "gpt-4o"], ["deepseek-chat"]]
    assert whys(moved, "client") == {"token 4 app 4": "its group has no key here with any model that it may use"}


async def test_a_token_whose_group_has_no_key_left_is_not_given_all_of_them(make, pool):
    rows = {**SEVERAL, "users": [USERS[0], {"id": 2, "username": "al", "quota": 5, "group": "claude", "status": 1}]}
    moved = await pool.migrate(one_api(), make("sqlite", "one-api", rows).source)
    assert whys(moved, "client")["token 1 app 1"] == "its group claude has no key here"
    assert await pool.clients() == {}


NEW = {
    "channels": [
        channel(
            1,
            "sk-proj-multi-a\nsk-proj-multi-b\nsk-proj-multi-c",
            channel_info={"is_multi_key": True, "multi_key_size": 3, "multi_key_status_list": {"1": 3}},
            openai_organization="org-acme",
            param_override='{"temperature":0}',
        ),
        channel(2, "sk-proj-single", channel_info={"is_multi_key": False}),
        channel(3, '["sk-proj-listed-a","sk-proj-listed-b"]', channel_info={"is_multi_key": True}, status=2),
        channel(4, "sk-custom-key", type=8, base_url="https://example.com/v1/chat/completions"),
    ],
    "users": USERS,
    "tokens": [
        token(1, model_limits_enabled=True, model_limits="gpt-4o,o1", allow_ips="10.1.2.3\n10.9.0.0/16\n"),
        token(2, model_limits_enabled=False, model_limits="gpt-4o", group="auto"),
        token(3, model_limits_enabled=True, model_limits=""),
        {**token(4), "deleted_at": datetime(2026, 1, 1)},  # noqa: DTZ001 - as the driver takes it
    ],
}


@pytest.mark.parametrize("kind", KINDS)
async def test_channels_with_many_keys_and_limits_of_tokens_come_over_from_new_api(kind, make, pool):
    source = make(kind, "new-api", NEW).source
    moved = await pool.migrate(new_api(), source)
    assert everything(moved) == {"keys": {"added": 6}, "teams": {"added": 2}, "clients": {"added": 2}}
    assert await pool.states() == {
        "sk-proj-multi-a": "active",
        "sk-proj-multi-b": "disabled",
        "sk-proj-multi-c": "active",
        "sk-proj-single": "active",
        "sk-proj-listed-a": "disabled",
        "sk-proj-listed-b": "disabled",
    }
    assert (await pool.accounts())["sk-proj-multi-c"].organization == "org-acme"
    clients = await pool.clients()
    assert clients[sha256(f"sk-{TOKENS[0]}")].options["models"] == ["gpt-4o", "o1"]
    assert clients[sha256(f"sk-{TOKENS[0]}")].options["allowed_ips"] == ["10.1.2.3/32", "10.9.0.0/16"]
    assert "models" not in clients[sha256(f"sk-{TOKENS[1]}")].options
    assert whys(moved, "client") == {"token 3 app 3": "it may use no model"}
    assert whys(moved, "key") == {"channel 4 c4": "its URL is that of one endpoint, not what all of them begin with"}
    assert whys(moved, "setting")["channel 1 c1"] == "fields that it set in every request body"
    assert not (await pool.migrate(new_api(), source)).changed


async def test_a_quota_that_is_meant_to_have_no_end_is_no_budget(make, pool):
    rows = {**ROWS, "users": [USERS[0], {**USERS[1], "quota": 10**18}]}
    moved = await pool.migrate(one_api(), make("sqlite", "one-api", rows).source)
    assert "team" not in (await pool.clients())[sha256(f"sk-{TOKENS[0]}")].options
    assert moved.teams == {"added": 1}


async def test_a_key_that_cannot_be_one_is_reported_and_the_others_are_taken(make, pool):
    rows = {**ROWS, "channels": [channel(1, "has a blank"), channel(2, "sk-proj-good-key"), channel(3, "sess-browser")]}
    moved = await pool.migrate(one_api(), make("sqlite", "one-api", rows).source)
    assert everything(moved)["keys"] == {"added": 1, "invalid": 2}
    assert set(whys(moved, "key")) == {"channel 1 c1", "channel 3 c3"}


async def test_a_token_that_is_a_key_of_the_pool_is_refused(make, pool):
    rows = {**ROWS, "tokens": [token(1, key="proj-channel-one")]}
    moved = await pool.migrate(one_api(), make("sqlite", "one-api", rows).source)
    assert "one of the pool's upstream keys" in whys(moved, "client")["token 1 app 1"]
    assert await pool.clients() == {}
