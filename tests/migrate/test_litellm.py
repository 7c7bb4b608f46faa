"""LiteLLM: what the deployments of its config.yaml and the virtual keys of its database become."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from quotapool.migrate.database import opened
from quotapool.migrate.found import SourceError
from quotapool.migrate.litellm import LiteLlm
from quotapool.migrate.litellm_tokens import LiteLlmTokens

from tests.fakes import databases, peers
from tests.fakes.peers import sha256
from tests.migrate.conftest import a_file, everything, whys

MASTER = "sk-master-key-of-litellm"
VIRTUAL = [f"sk-virtual-key-{number}-0123456789" for number in range(8)]
CONFIG = """
model_list:
  - model_name: gpt-4o
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/KEY_A, rpm: 480, tpm: 100000, weight: 3}
  - model_name: small
    litellm_params: {model: gpt-4o-mini, api_key: os.environ/KEY_A}
  - model_name: gpt-4o
    litellm_params:
      model: azure/acme-gpt-4o
      api_base: https://acme.openai.azure.com/
      api_key: azure-key-of-the-test
      api_version: "2024-10-21"
  - model_name: claude
    litellm_params: {model: anthropic/claude-sonnet, api_key: sk-ant-of-the-test}
  - model_name: lost
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/NOT_SET}
  - model_name: unclear
    litellm_params: {model: my-own-model, api_key: sk-some-key}
  - model_name: chat
    litellm_params: {model: deepseek/deepseek-chat, litellm_credential_name: ds}
credential_list:
  - credential_name: ds
    credential_values: {api_key: os.environ/KEY_D}
router_settings:
  model_group_alias: {gpt-4: gpt-4o, hidden: {model: small, hidden: true}}
  fallbacks: [{gpt-4o: [small]}]
general_settings:
  master_key: os.environ/MASTER
  database_url: os.environ/DATABASE_URL
"""
ENV = {"KEY_A": "sk-proj-litellm-a", "KEY_D": "sk-deepseek-litellm", "MASTER": MASTER}


async def test_deployments_of_one_key_become_one_key_with_their_models_and_limits(pool, tmp_path):
    moved = await pool.run(LiteLlm(a_file(tmp_path, CONFIG), ENV, None))
    assert everything(moved) == {"keys": {"added": 3}, "teams": {}, "clients": {"added": 1}}
    own = {secret: key.upstream for secret, key in (await pool.keys()).items()}
    assert own["sk-proj-litellm-a"].models == {
        "gpt-4o": "gpt-4o",
        "gpt-4": "gpt-4o",
        "small": "gpt-4o-mini",
        "hidden": "gpt-4o-mini",
    }
    azure = own["azure-key-of-the-test"]
    assert (azure.url, azure.header) == ("https://acme.openai.azure.com/openai", "api-key")
    assert azure.models == {"gpt-4o": "acme-gpt-4o", "gpt-4": "acme-gpt-4o"}
    assert own["sk-deepseek-litellm"].url == "https://api.deepseek.com"
    account = (await pool.accounts())["sk-proj-litellm-a"]
    assert account.weight == 3
    assert {name: (limits.rpm, limits.tpm) for name, limits in account.models.items()} == {
        "gpt-4o": (480, 100_000),
        "gpt-4": (480, 100_000),
    }
    assert whys(moved, "key") == {
        "deployment 4 claude": "anthropic does not speak OpenAI's API",
        "deployment 5 lost": "the environment here has no NOT_SET",
        "deployment 6 unclear": "it does not say which provider does, as openai/NAME",
    }
    assert "--database" in whys(moved, "setting")["virtual keys"]
    assert sha256(MASTER) in await pool.clients()
    assert not (await pool.run(LiteLlm(a_file(tmp_path, CONFIG), ENV, None))).changed


async def test_a_master_key_that_could_be_guessed_is_no_client(pool, tmp_path):
    config = "model_list: []\ngeneral_settings: {master_key: sk-1234}\n"
    moved = await pool.run(LiteLlm(a_file(tmp_path, config), {}, None))
    assert await pool.clients() == {}
    assert "could be guessed" in whys(moved, "client")["general_settings.master_key"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("model_list: [\n", "config.yaml:2 is not YAML"),
        ("just: a file\n", "neither model_list nor general_settings"),
        ("[]", "neither model_list nor general_settings"),
        ("\x00\x01", "is not YAML"),
        ("a: &a [x]\n" * 2 + "[" * 5_000, "is not YAML"),
    ],
)
def test_what_is_no_configuration_of_litellm_is_refused(text, why, tmp_path):
    with pytest.raises(SourceError, match=why):
        LiteLlm(a_file(tmp_path, text), {}, None)


@pytest.mark.parametrize(
    "entry",
    ["null", "{}", "5", "{model_name: a}", "{model_name: a, litellm_params: 3}", "{model_name: a, litellm_params: {}}"],
)
async def test_a_deployment_that_is_none_is_reported(entry, pool, tmp_path):
    moved = await pool.run(LiteLlm(a_file(tmp_path, f"model_list: [{entry}]"), {}, None))
    assert set(whys(moved, "key").values()) == {"it has no model_name, or no litellm_params.model"}


# ---- virtual keys

IN_TEN_DAYS = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=10)
TEAM = {"team_id": "t1", "team_alias": "search", "max_budget": 50.0, "spend": 10.0, "budget_duration": "30d"}
TOKENS = [
    {"token": sha256(VIRTUAL[0]), "key_alias": "prod app", "rpm_limit": 60, "tpm_limit": 5_000, "models": ["gpt-4o"]},
    {"token": sha256(VIRTUAL[1]), "team_id": "t1", "max_budget": 5.0, "spend": 2.0, "models": ["all-team-models"]},
    {"token": sha256(VIRTUAL[2]), "blocked": True, "expires": IN_TEN_DAYS},
    {"token": sha256(VIRTUAL[3]), "expires": datetime(2026, 1, 1)},  # noqa: DTZ001 - as the driver takes it
    {"token": sha256(VIRTUAL[4]), "max_budget": 3.0, "spend": 3.5},
    {
        "token": sha256(VIRTUAL[5]),
        "budget_id": "b1",
        "model_max_budget": {"gpt-4o": {"budget_limit": 2, "time_period": "1d"}},
    },
    {"token": sha256(VIRTUAL[6]), "user_id": "u1", "max_budget": 9.0, "budget_duration": "3d"},
    {"token": "sk-stored-as-it-is-0123456789", "key_alias": "old"},
]


@pytest.fixture
def tokens(server):
    """The address of a LiteLLM database."""
    url = databases.new_database(server("postgresql"), "litellm")
    databases.execute(url, *peers.LITELLM)
    peers.insert(url, "LiteLLM_BudgetTable", [{"budget_id": "b1", "max_budget": 7.0, "budget_duration": "24h"}])
    peers.insert(url, "LiteLLM_TeamTable", [{**TEAM, "models": ["gpt-4o", "small"]}])
    peers.insert(url, "LiteLLM_UserTable", [{"user_id": "u1", "user_alias": "ann", "max_budget": 4.0, "spend": 1.0}])
    peers.insert(url, "LiteLLM_VerificationToken", TOKENS)
    return url.replace("+psycopg", "")


async def test_virtual_keys_come_over_as_the_hashes_that_they_are_with_limits_and_budgets(pool, tokens, tmp_path):
    config = a_file(tmp_path, CONFIG)
    with opened(tokens) as database:
        moved = await pool.run(LiteLlm(config, ENV, LiteLlmTokens(database, VIRTUAL[0])))
    assert moved.clients == {"added": 7}  # six of the eight, and the master key
    clients, suspended, ids = await pool.clients(), await pool.suspended(), await pool.ids()
    options = [clients[sha256(key)].options if sha256(key) in clients else None for key in VIRTUAL]
    budgets = [[(b["usd"], b["per"], b.get("models")) for b in (o or {}).get("budgets", [])] for o in options]
    assert options[0]["limits"] == {"rpm": 60.0, "tpm": 5_000.0}
    assert options[0]["models"] == ["gpt-4o"]
    assert ids[sha256(VIRTUAL[0])] == f"prod-app-{sha256(VIRTUAL[0])[:8]}"
    assert budgets[1] == [(3.0, "total", None)]  # 5 less 2, without a period
    assert options[1]["models"] == ["gpt-4o", "small"]
    team = (await pool.teams())[options[1]["team"]]
    assert [(b["usd"], b["per"]) for b in team.options["budgets"]] == [(50.0, "month")]
    assert options[2]["expires_on"] == IN_TEN_DAYS.date().isoformat()
    assert suspended[ids[sha256(VIRTUAL[2])]] == "blocked in LiteLLM"
    assert options[3] is None
    assert suspended[ids[sha256(VIRTUAL[4])]] == "its budget was used up in LiteLLM"
    assert budgets[5] == [(7.0, "day", None), (2.0, "day", "gpt-4o")]
    assert budgets[6] == [(9.0, "week", None)]  # 3 days: the next longer period, so never more than before
    user = (await pool.teams())[options[6]["team"]]
    assert [(b["usd"], b["per"]) for b in user.options["budgets"]] == [(3.0, "total")]
    assert sorted(whys(moved, "client").values()) == [
        "it has expired",
        "it is stored as it is, not as a hash: rotate it",
    ]
    with opened(tokens) as database:
        again = await pool.run(LiteLlm(config, ENV, LiteLlmTokens(database, VIRTUAL[0])))
    assert again.clients == {"unchanged": 7}
    assert not again.changed


async def test_no_hash_is_taken_before_a_sample_proves_what_it_is(pool, tokens, tmp_path):
    with opened(tokens) as database:
        moved = await pool.run(LiteLlm(a_file(tmp_path, CONFIG), ENV, LiteLlmTokens(database, "")))
        assert "--sample-env" in whys(moved, "client")["virtual keys"]
        assert next(one.count for one in moved.not_taken if one.origin == "virtual keys") == 8
        wrong = await pool.run(LiteLlm(a_file(tmp_path, CONFIG), ENV, LiteLlmTokens(database, "sk-another-key-0123")))
        assert "the SHA-256 of the sample is not among them" in whys(wrong, "client")["virtual keys"]
    assert set(await pool.clients()) == {sha256(MASTER)}


async def test_the_master_key_proves_it_where_it_is_among_them(pool, tokens, tmp_path):
    peers.insert(
        tokens.replace("postgresql", "postgresql+psycopg"), "LiteLLM_VerificationToken", [{"token": sha256(MASTER)}]
    )
    with opened(tokens) as database:
        moved = await pool.run(LiteLlm(a_file(tmp_path, CONFIG), ENV, LiteLlmTokens(database, "")))
    assert moved.clients == {"added": 7}
