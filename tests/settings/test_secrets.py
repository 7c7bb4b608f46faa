"""Secrets show up nowhere but in the requests upstream and in the pipe to a worker; reloads know what changed."""

from __future__ import annotations

import pickle
import traceback

import pytest
from pydantic import ValidationError
from quotapool.settings import RESTART_ONLY, ConfigError, Settings, UpstreamKey, changed_sections, from_wire, to_wire

CANARY = "sk-proj-CANARYcanary0123456789"
FULL = f"""
keys: [{{id: a, secret: {CANARY}1, account: acme}}]
redis: redis://:{CANARY}2@cache/0
admin_token: {CANARY}3
clients: [{{id: c, key: {CANARY}4}}]
accounts: {{acme: {{rpm: 5}}}}
"""


def test_no_view_of_the_settings_shows_a_secret(load_yaml):
    settings = load_yaml(FULL, {})
    views = [repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()]
    views += [repr(settings.keys[0]), repr(settings.model_dump(mode="json"))]
    assert all("CANARY" not in view for view in views)
    # If the secrets were not there at all, this would prove nothing.
    assert settings.keys[0].secret.get_secret_value() == f"{CANARY}1"


def test_a_worker_gets_the_same_settings_over_its_pipe(load_yaml):
    settings = load_yaml(FULL, {})
    received = from_wire(to_wire(settings))
    assert changed_sections(settings, received) == set()
    assert received.keys[0].secret.get_secret_value() == f"{CANARY}1"
    assert received.redis.get_secret_value() == f"redis://:{CANARY}2@cache/0"
    assert received.admin_token.get_secret_value() == f"{CANARY}3"
    assert received.limits_for("acme", "m").rpm == 5
    # The clients' keys themselves are gone since loading.
    assert f"{CANARY}4".encode() not in to_wire(settings)
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    "wrong",
    [
        f"keys: [{{secret: {CANARY}, acount: x}}]",
        f"keys: [{CANARY}]",
        f"keys: {CANARY}",
        f"keys: {{{CANARY}: x}}",
        f"{CANARY}: x",
        f"keys: [{{{CANARY}: x}}]",
        f"accounts: {{{CANARY}: {{}}}}",
        f"keys: [{{id: {CANARY}, secret: x}}]",
        f"keys: [{{secret: '{CANARY} {CANARY}'}}]",
        f"keys: [{{secret: sk-admin-{CANARY}}}]",
        f"keys: [{{secret: {CANARY}}}, {{secret: {CANARY}}}]",
        f"keys: [{{secret: [{CANARY}]}}]",
        f"listen: {CANARY}",
        f"upstream: https://{CANARY}@api.openai.com",
        f"redis: {CANARY}",
        f"redis: redis://:{CANARY}@host:99999",
        f"workers: {CANARY}",
        f"queue: {CANARY}",
        f"queue: {{max_wait: {CANARY}}}",
        f"on_redis_loss: {CANARY}",
        f"clients: [{{id: a, key: '{CANARY} x'}}]",
        f"clients: [{{id: a, key_hash: {CANARY}}}]",
        f"clients: [{{id: a, key: {CANARY}, x: 1}}]",
        f"max_json_body: {CANARY}",
        f"accounts: {{a: {{tier: {CANARY}}}}}",
        f"pool: {CANARY}/x",
        f"pool: ${{{CANARY}",
        f"keys: [{CANARY}\n  x: y",
        f"keys: \n  - {CANARY}\n {CANARY}",
        f'a: "{CANARY}\n',
        f"a: 'x' {CANARY}",
        f"a: !{CANARY} x",
        f"a: *{CANARY}",
        f"{CANARY}: 1\n{CANARY}: 2",
    ],
)
def test_no_message_repeats_a_secret_wherever_it_was_put(load_yaml, wrong):
    with pytest.raises(ConfigError) as caught:
        load_yaml(wrong, {})
    assert "CANARY" not in str(caught.value)
    # A log with tracebacks shows the causes too.
    assert "CANARY" not in "".join(traceback.format_exception(caught.value))


def test_no_message_about_the_environment_repeats_a_secret(refusal, tmp_path):
    (tmp_path / ".env").write_text(f"{CANARY}\nA B {CANARY}\n")
    env = {"OPENAI_API_KEYS": f"{CANARY},{CANARY},sk-admin-{CANARY}", "QUOTAPOOL_WORKERS": CANARY}
    message = refusal(env={**env, "QUOTAPOOL_TIERS": f"{{{CANARY}"}, env_file=tmp_path / ".env")
    assert len(message.splitlines()) == 6
    assert "CANARY" not in message


def test_models_built_directly_hide_their_input_too():
    with pytest.raises(ValidationError) as caught:
        UpstreamKey(secret=f"sk-admin-{CANARY}")
    assert "CANARY" not in str(caught.value)


def test_a_secret_in_the_file_itself_is_advised_against(load_yaml, tmp_path):
    settings = load_yaml(f"keys:\n  - secret: {CANARY}\n  - secret: sk-test\n  - secret: '${{K}}'", {"K": CANARY + "x"})
    (warning,) = settings.warnings
    assert warning.endswith(
        "quotapool.yaml:2:13: keys[0].secret: this secret is in the file itself; use ${NAME} to keep it out"
    )


def test_an_unencrypted_upstream_is_advised_against_unless_it_is_local(load_yaml):
    assert "unencrypted" in load_yaml("upstream: http://gate.example").warnings[0]
    assert load_yaml("upstream: http://127.0.0.1:9").warnings == ()


def test_settings_do_not_change_after_loading(load_yaml):
    with pytest.raises(ValidationError, match="frozen"):
        load_yaml().workers = 2


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("", "", set()),
        ("workers: 1", "", set()),
        ("workers: 1", "workers: 2", {"workers"}),
        ("keys: [{id: a, secret: x}]", "keys: [{id: a, secret: y}]", {"keys"}),
        ("queue: {max_wait: 60s}", "queue: {max_wait: 1m}", set()),
        ("limits: {default: {rpm: 1}}", "limits: {default: {rpm: 2}}\npool: x", {"limits", "pool"}),
    ],
)
def test_a_reload_knows_which_sections_changed(load_yaml, before, after, changed):
    old = load_yaml(before)
    old.group_of("gpt-4o")  # what was looked up before is no change
    assert changed_sections(old, load_yaml(after)) == changed


def test_keys_and_limits_take_effect_without_a_restart():
    assert set(Settings.model_fields) >= RESTART_ONLY
    assert not RESTART_ONLY & {"keys", "keys_file", "limits", "tiers", "accounts", "groups", "clients", "queue"}
    assert {"listen", "admin_listen", "redis", "pool", "state_dir", "workers"} <= RESTART_ONLY
