"""The compose file and the Helm values fit the configuration they were made for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from quotapool.settings import load
from quotapool.setup.compose_file import ComposeFile
from quotapool.setup.helm_values import helm_values
from quotapool.setup.needs import needs_of, written


def compose_of(directory: Path, text: str, env_file: str | None = None, *, everywhere: bool = False, **env: str) -> str:
    config = directory / "quotapool.yaml"
    config.write_text(text)
    settings = load(config, env=env)
    return ComposeFile(config, settings, needs_of(written(text), settings), everywhere, env_file).text()


def test_other_machines_reach_the_clients_port_only_if_they_may_and_never_the_operators(tmp_path: Path):
    text = "listen: 0.0.0.0:18080\nallow_anonymous: true\n"
    here = yaml.safe_load(compose_of(tmp_path, text, OPENAI_API_KEYS="sk-alpha-0123456789"))
    assert here["services"]["proxy"]["ports"] == ["127.0.0.1:18080:18080", "127.0.0.1:9090:9090"]
    there = yaml.safe_load(compose_of(tmp_path, text, everywhere=True, OPENAI_API_KEYS="sk-alpha-0123456789"))
    assert there["services"]["proxy"]["ports"] == ["18080:18080", "127.0.0.1:9090:9090"]


def test_variables_come_from_the_env_file_or_from_the_shell(tmp_path: Path):
    text = "redis: ${REDIS_URL}\n"
    env = {"OPENAI_API_KEYS": "sk-alpha-0123456789", "REDIS_URL": "redis://:hunter2hunter2@x:1/0"}
    from_shell = compose_of(tmp_path, text, **env)
    proxy = yaml.safe_load(from_shell)["services"]["proxy"]
    assert proxy["environment"]["REDIS_URL"] == "${REDIS_URL:?is not set}"
    assert proxy["environment"]["OPENAI_API_KEYS"] == "${OPENAI_API_KEYS:?is not set}"
    assert "env_file" not in proxy
    from_file = compose_of(tmp_path, text, "quotapool.env", **env)
    proxy = yaml.safe_load(from_file)["services"]["proxy"]
    assert proxy["env_file"] == ["./quotapool.env"]
    assert "REDIS_URL" not in proxy["environment"]
    assert "hunter2" not in from_shell + from_file


def test_files_are_mounted_where_the_configuration_looks_for_them(tmp_path: Path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "pool.keys").write_text("sk-alpha-0123456789\n")
    outside = tmp_path.parent / "outside.master"
    outside.write_text("m" * 32)
    text = f"keys_file: more/pool.keys\nmaster_key_file: {outside}\n"
    made = compose_of(tmp_path, text)
    volumes = yaml.safe_load(made)["services"]["proxy"]["volumes"]
    assert "./quotapool.yaml:/etc/quotapool/quotapool.yaml:ro" in volumes
    assert "./more/pool.keys:/etc/quotapool/more/pool.keys:ro" in volumes
    assert f"{outside}:{outside}:ro" in volumes
    assert f"chown 10001 {tmp_path}/more/pool.keys {outside}" in made


def test_the_container_has_hardly_any_rights_and_time_to_drain(tmp_path: Path):
    made = yaml.safe_load(compose_of(tmp_path, "drain_timeout: 1m\n", OPENAI_API_KEYS="sk-alpha-0123456789"))
    proxy = made["services"]["proxy"]
    assert proxy["read_only"] is True
    assert proxy["cap_drop"] == ["ALL"]
    assert proxy["stop_grace_period"] == "75s"


# ---- Helm


def helm_of(directory: Path, text: str, **env: str) -> tuple[str, dict]:
    config = directory / "quotapool.yaml"
    config.write_text(text)
    (directory / "quotapool.keys").write_text("sk-alpha-0123456789\n")
    values = written(text)
    made = helm_values(values, needs_of(values, load(config, env=env)))
    return made, yaml.safe_load(made)


def test_values_have_the_options_and_name_a_secret_for_the_keys(tmp_path: Path):
    text = "keys_file: quotapool.keys\nlisten: 0.0.0.0:1\nstate_dir: /x\nallow_anonymous: true\nqueue: {max_wait: 5s}\n"
    made, values = helm_of(tmp_path, text)
    assert values == {
        "config": {"allow_anonymous": True, "queue": {"max_wait": "5s"}},
        "keys": {"existingSecret": "quotapool-keys", "secretKey": "OPENAI_API_KEYS"},
    }
    assert "kubectl create secret generic quotapool-keys --from-file=OPENAI_API_KEYS=quotapool.keys" in made


def test_every_variable_of_the_configuration_gets_a_secret(tmp_path: Path):
    text = 'keys: [{id: a, secret: "${KEY_A}"}]\nclients: [{id: app, key: "${APP}"}]\n'
    text += "redis: ${REDIS}\nadmin_token: ${TOKEN}\n"
    env = {"KEY_A": "sk-alpha-0123456789", "REDIS": "redis://:hunter2hunter2@x:1/0", "APP": "q" * 20, "TOKEN": "t" * 20}
    made, values = helm_of(tmp_path, text, **env)
    assert values["config"]["keys"] == [{"id": "a", "secret": "${KEY_A}"}]
    assert values["clients"] == {"existingSecret": "quotapool-variables"}
    assert "--from-file=KEY_A --from-file=APP" in made
    assert values["externalRedis"] == {"existingSecret": "quotapool-redis", "secretKey": "url"}
    assert values["adminToken"] == {"existingSecret": "quotapool-admin", "secretKey": "admin-token"}
    assert "keys" not in values or "existingSecret" not in values["keys"]
    assert "hunter2" not in made


@pytest.mark.parametrize("text", ["", "workers: 2\n"])
def test_a_configuration_without_a_word_about_keys_takes_them_from_the_secret(text: str, tmp_path: Path):
    _, values = helm_of(tmp_path, text, OPENAI_API_KEYS="sk-alpha-0123456789")
    assert values["keys"]["existingSecret"] == "quotapool-keys"
