"""gpt-load 1.x: what its groups, keys and proxy keys become."""

from __future__ import annotations

import pytest
from quotapool.migrate.database import opened
from quotapool.migrate.found import SourceError
from quotapool.migrate.gpt_load import GptLoad, KeyLines
from quotapool.operators.keys import KeyEntry

from tests.fakes.databases import execute
from tests.fakes.peers import sealed_by_gpt_load, sha256, upstreams
from tests.migrate.conftest import everything, whys

KINDS = ["sqlite", "mysql", "postgresql"]
OPENAI = "https://api.openai.com"
PASSWORD = "an-encryption-key-of-gpt-load"
CLIENT, GLOBAL, OTHER = "sk-client-of-one-group-1", "sk-client-of-all-groups-1", "sk-client-of-deepseek-1"


def group(number: int, name: str, **more) -> dict:
    given = {"id": number, "name": name, "upstreams": upstreams(OPENAI), "channel_type": "openai"}
    return {**given, "test_model": "gpt-4o-mini", "group_type": "standard", "model_redirect_strict": False, **more}


def key(number: int, secret: str, group_id: int = 1, status: str = "active") -> dict:
    return {"id": number, "key_value": secret, "key_hash": sha256(secret), "group_id": group_id, "status": status}


ROWS = {
    "system_settings": [{"id": 1, "setting_key": "proxy_keys", "setting_value": f"{GLOBAL}, short"}],
    "groups": [
        group(1, "openai", proxy_keys=CLIENT, param_overrides={"temperature": 0}),
        group(
            2, "claude", channel_type="anthropic", upstreams=upstreams("https://api.anthropic.com"), proxy_keys=CLIENT
        ),
        group(3, "all", group_type="aggregate", upstreams=[], test_model="-"),
    ],
    "group_sub_groups": [{"id": 1, "group_id": 3, "sub_group_id": 1, "weight": 10}],
    "api_keys": [
        key(1, "sk-proj-gptload-one"),
        key(2, "sk-proj-gptload-two", status="invalid"),
        key(3, "sk-ant-gptload-three", group_id=2),
    ],
}


def program(encryption_key: str = "", *only: str):
    return lambda database: GptLoad(database, encryption_key, frozenset(only))


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_states_and_proxy_keys_come_over_from_each_kind_of_database(kind, make, pool):
    source = make(kind, "gpt-load", ROWS).source
    would = await pool.migrate(program(), source, dry_run=True)
    assert await pool.keys() == {}
    assert await pool.clients() == {}
    moved = await pool.migrate(program(), source)
    assert everything(moved) == {"keys": {"added": 2}, "teams": {}, "clients": {"added": 2}}
    assert everything(would) == everything(moved)
    assert would.not_taken == moved.not_taken
    assert await pool.states() == {"sk-proj-gptload-one": "active", "sk-proj-gptload-two": "disabled"}
    assert {found.upstream for found in (await pool.keys()).values()} == {None}
    assert set(await pool.clients()) == {sha256(CLIENT), sha256(GLOBAL)}
    assert whys(moved, "key") == {"group claude": "its upstream speaks the API of anthropic, not OpenAI's"}
    assert whys(moved, "client") == {
        "proxy key of all groups": "its key has fewer than 16 characters, and could be guessed"
    }
    assert whys(moved, "setting") == {
        "group openai": "fields that it set in every request body",
        "group all": "it only joins other groups; here all keys that have a model serve it together",
    }
    again = await pool.migrate(program(), source)
    assert everything(again) == {"keys": {"unchanged": 2}, "teams": {}, "clients": {"unchanged": 2}}
    assert not again.changed


async def test_a_key_that_an_operator_enabled_here_is_not_disabled_by_a_second_run(make, pool):
    source = make("sqlite", "gpt-load", ROWS).source
    await pool.migrate(program(), source)
    keys = await pool.operations()
    name = (await pool.keys())["sk-proj-gptload-two"].id
    await keys.act("enable", name)
    assert everything(await pool.migrate(program(), source))["keys"] == {"unchanged": 2}
    assert (await pool.states())["sk-proj-gptload-two"] == "active"


async def test_encrypted_keys_are_opened_with_gpt_loads_own_key_and_only_with_it(make, pool):
    sealed = [
        {**key(number, sealed_by_gpt_load(PASSWORD, secret)), "key_hash": "0" * 64}
        for number, secret in enumerate(("sk-proj-sealed-one", "sk-proj-sealed-two"), start=1)
    ]
    source = make("sqlite", "gpt-load", {**ROWS, "api_keys": sealed}).source
    with pytest.raises(SourceError, match="--encryption-key-env"):
        await pool.migrate(program(), source)
    with pytest.raises(SourceError, match="none of the keys can be opened"):
        await pool.migrate(program("another-key"), source)
    assert await pool.clients() == {}
    moved = await pool.migrate(program(PASSWORD), source)
    assert everything(moved)["keys"] == {"added": 2}
    assert set(await pool.keys()) == {"sk-proj-sealed-one", "sk-proj-sealed-two"}


async def test_one_damaged_key_among_encrypted_ones_is_reported_and_the_others_are_taken(make, pool):
    rows = [key(1, sealed_by_gpt_load(PASSWORD, "sk-proj-sealed-one")), key(2, "00" * 40)]
    rows = [{**row, "key_hash": "0" * 64} for row in rows]
    moved = await pool.migrate(program(PASSWORD), make("sqlite", "gpt-load", {**ROWS, "api_keys": rows}).source)
    assert set(await pool.keys()) == {"sk-proj-sealed-one"}
    assert whys(moved, "key")["api_keys"] == "they are sealed with another ENCRYPTION_KEY, or damaged"


async def test_a_plain_secret_of_hexadecimal_digits_is_not_taken_for_an_encrypted_one(make, pool):
    secret = "0123456789abcdef" * 4
    await pool.migrate(program(), make("sqlite", "gpt-load", {**ROWS, "api_keys": [key(1, secret)]}).source)
    assert set(await pool.keys()) == {secret}


SEVERAL = {
    "groups": [
        group(1, "openai", proxy_keys=CLIENT),
        group(
            2,
            "deepseek",
            upstreams=upstreams("https://api.deepseek.com"),
            test_model="deepseek-chat",
            model_redirect_rules={"chat": "deepseek-chat"},
            model_redirect_strict=True,
            proxy_keys=OTHER,
        ),
    ],
    "api_keys": [key(1, "sk-proj-openai-key-1"), key(2, "sk-deepseek-key-number-2", 2)],
}


async def test_keys_of_several_upstreams_serve_the_models_of_their_own_and_no_others(make, pool):
    moved = await pool.migrate(program(), make("sqlite", "gpt-load", SEVERAL).source)
    keys = await pool.keys()
    own = keys["sk-deepseek-key-number-2"].upstream
    assert (own.url, own.models) == ("https://api.deepseek.com", {"chat": "deepseek-chat"})
    # Not asked, so only what is written: its test model.
    assert keys["sk-proj-openai-key-1"].upstream.models == {"gpt-4o-mini": "gpt-4o-mini"}
    assert "its upstream was not asked" in whys(moved, "setting")["group openai"]
    # The client of a group stays with the models of its group.
    clients = await pool.clients()
    assert clients[sha256(OTHER)].options["models"] == ["chat"]
    assert clients[sha256(CLIENT)].options["models"] == ["gpt-4o-mini"]


async def test_a_key_that_is_here_already_keeps_its_account_and_what_was_set_for_it(make, pool):
    keys = await pool.operations()
    await keys.add(KeyEntry("sk-proj-openai-key-1", "mine", "acme", {"weight": 3.0}), check=False)
    moved = await pool.migrate(program(), make("sqlite", "gpt-load", SEVERAL).source)
    assert everything(moved)["keys"] == {"added": 1, "unchanged": 1}
    key = (await pool.keys())["sk-proj-openai-key-1"]
    assert (key.id, key.account, key.upstream) == ("mine", "acme", None)
    assert (await pool.accounts())["sk-proj-openai-key-1"].weight == 3
    assert any("asked for any: 1;" in note for note in moved.notes)


async def test_models_that_were_added_there_are_added_here_by_another_run(make, pool):
    made = make("sqlite", "gpt-load", SEVERAL)
    await pool.migrate(program(), made.source)
    execute(made.url, """UPDATE "groups" SET model_redirect_rules = '{"chat": "x", "r1": "y"}' WHERE id = 2""")
    moved = await pool.migrate(program(), made.source)
    assert everything(moved)["keys"] == {"unchanged": 1, "updated": 1}
    assert (await pool.keys())["sk-deepseek-key-number-2"].upstream.models == {"chat": "x", "r1": "y"}


async def test_a_run_that_does_not_ask_upstream_takes_no_model_from_a_key_that_one_before_gave_it(make, pool):
    made = make("sqlite", "gpt-load", SEVERAL)
    await pool.migrate(program(), made.source)
    # As if the upstream had been asked: its list has more than gpt-load knew.
    execute(made.url, """UPDATE "groups" SET model_redirect_rules = '{"listed": "listed"}' WHERE id = 1""")
    execute(made.url, """UPDATE "groups" SET model_redirect_strict = 1 WHERE id = 1""")
    await pool.migrate(program(), made.source)
    execute(made.url, """UPDATE "groups" SET model_redirect_rules = '{}', model_redirect_strict = 0 WHERE id = 1""")
    assert everything(await pool.migrate(program(), made.source))["keys"] == {"unchanged": 2}
    assert set((await pool.keys())["sk-proj-openai-key-1"].upstream.models) == {"listed"}


async def test_one_group_can_be_taken_by_itself(make, pool):
    moved = await pool.migrate(program("", "openai"), make("sqlite", "gpt-load", SEVERAL).source)
    assert set(await pool.keys()) == {"sk-proj-openai-key-1"}
    assert set(await pool.clients()) == {sha256(CLIENT)}
    assert moved.not_taken == []


async def test_the_same_key_in_two_groups_is_one_key_with_the_models_of_both(make, pool):
    strict = {"model_redirect_strict": True, "upstreams": upstreams("https://proxy.example.com/v1/")}
    rows = {
        "groups": [
            group(1, "a", model_redirect_rules={"x": "x-1"}, **strict),
            group(2, "b", model_redirect_rules={"y": "y-1"}, **strict),
            group(3, "c", model_redirect_rules={"z": "z-1"}, model_redirect_strict=True),
        ],
        "api_keys": [key(1, "sk-the-same-key", 1), key(2, "sk-the-same-key", 2), key(3, "sk-the-same-key", 3)],
    }
    moved = await pool.migrate(program(), make("sqlite", "gpt-load", rows).source)
    own = (await pool.keys())["sk-the-same-key"].upstream
    assert (own.url, own.models) == ("https://proxy.example.com", {"x": "x-1", "y": "y-1"})
    assert "another upstream" in whys(moved, "key")["group c"]


async def test_an_export_of_keys_is_one_secret_a_line(pool, tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text("sk-proj-line-one\n\n# a comment\nsk-proj-line-two\nhello, there\n")
    moved = await pool.run(KeyLines(file))
    assert everything(moved)["keys"] == {"added": 2}
    assert set(whys(moved, "key")) == {"line 5"}


async def test_a_program_without_a_column_that_newer_versions_have_is_read_all_the_same(make, pool):
    made = make("sqlite", "gpt-load", ROWS)
    for column in ("group_type", "model_redirect_rules", "model_redirect_strict", "header_rules"):
        execute(made.url, f'ALTER TABLE "groups" DROP COLUMN {column}')
    execute(made.url, "DROP INDEX ix_api_keys_key_hash", "ALTER TABLE api_keys DROP COLUMN key_hash")
    moved = await pool.migrate(program(), made.source)
    assert everything(moved)["keys"] == {"added": 2}
    execute(made.url, 'ALTER TABLE "groups" DROP COLUMN upstreams')
    with pytest.raises(SourceError, match="the table groups has no column upstreams"):
        await pool.migrate(program(), made.source)


def test_a_name_with_control_characters_is_shown_short_and_without_them(make):
    rows = {"groups": [group(1, "a\x1b[31m" + "x" * 200, channel_type="gemini")], "api_keys": [key(1, "k" * 30)]}
    made = make("sqlite", "gpt-load", rows)
    with opened(made.source) as database:
        (found,) = list(GptLoad(database, "", frozenset()).read_keys())
    assert found.origin == f"group a [31m{'x' * 54}…"  # 60 characters of the name
