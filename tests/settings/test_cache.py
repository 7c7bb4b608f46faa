"""The options of the cache: what is refused, and what does less than it seems to."""

from __future__ import annotations

import pytest
from quotapool.settings import ConfigError

from tests.settings.conftest import KEY

SHARED = "redis: redis://127.0.0.1:6379/0\ncache: {models: ['gpt-5*']}\n"
MASTER = {**KEY, "POOL_MASTER_KEY": "0123456789abcdef" * 2}
CLIENTS = "clients:\n" + "".join(
    f"  - {{id: c{n}, key_hash: a{n:063x}{', team: search' if n == 0 else ''}}}\n" for n in range(8)
)
TEAMS = "teams: {search: {}}\n"


def test_answers_in_a_shared_store_need_a_master_key(load_yaml, tmp_path):
    with pytest.raises(ConfigError) as refused:
        load_yaml(SHARED)
    message = str(refused.value)
    assert "quotapool.yaml:2:" in message
    assert "cache.models: answers in a shared store need a master key that every replica has" in message
    assert "openssl rand -base64 32" in message
    file = tmp_path / "master"
    file.write_text("0123456789abcdef" * 2 + "\n")
    assert load_yaml(f"{SHARED}master_key_file: {file}\n").cache.models == ("gpt-5*",)
    assert load_yaml(SHARED + "master_key: ${POOL_MASTER_KEY}\n", MASTER).cache.models == ("gpt-5*",)


def test_an_embedded_store_makes_its_own_and_a_pool_without_a_cache_needs_none(load_yaml):
    assert load_yaml("cache: {models: ['gpt-5*']}").warnings == ()
    assert load_yaml("redis: redis://127.0.0.1:6379/0").cache.models == ()


def test_a_client_without_a_team_shares_with_nobody_and_that_is_said(load_yaml):
    (warning,) = load_yaml(f"{TEAMS}{CLIENTS}cache: {{models: ['gpt-5*'], scope: team}}\n").warnings
    assert warning == (
        "cache.scope: clients without a team share answers with nobody, as with scope: client: "
        "c1, c2, c3, c4, c5 and 2 more"
    )
    for cache in ("{models: ['gpt-5*'], scope: client}", "{models: ['gpt-5*'], scope: pool}", "{scope: team}"):
        assert load_yaml(f"{TEAMS}{CLIENTS}cache: {cache}\n").warnings == ()
    alone = "clients: [{id: a, key_hash: " + "ab" * 32 + ", team: search}]\n"
    assert load_yaml(f"{TEAMS}{alone}cache: {{models: ['gpt-5*'], scope: team}}\n").warnings == ()


def test_a_client_that_asks_for_a_cache_that_is_off_is_told(load_yaml):
    client = "clients: [{id: a, key_hash: " + "ab" * 32 + ", cache: true}]\n"
    (warning,) = load_yaml(client).warnings
    assert warning == "clients[0].cache: true does nothing while cache.models names no model"
    assert load_yaml(client + "cache: {models: ['gpt-5*']}\n").warnings == ()
    assert load_yaml(client.replace("true", "false")).warnings == ()
