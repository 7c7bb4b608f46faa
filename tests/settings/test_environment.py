"""The environment overrides the file, fills in its ${NAME}s, and is checked as strictly."""

from __future__ import annotations

from pathlib import Path

import pytest
from quotapool.settings import load

KEY = {"OPENAI_API_KEYS": "sk-proj-one"}


@pytest.mark.parametrize(
    ("name", "value", "get", "expected"),
    [
        ("QUOTAPOOL_WORKERS", "4", lambda s: s.workers, 4),
        ("QUOTAPOOL_LISTEN", "127.0.0.1:1", lambda s: str(s.listen), "127.0.0.1:1"),
        ("QUOTAPOOL_QUEUE__MAX_WAIT", "5s", lambda s: s.queue.max_wait, 5),
        ("QUOTAPOOL_LIMITS__DEFAULT__RPM", "60", lambda s: s.limits.default.rpm, 60),
        ("QUOTAPOOL_ALLOW_ANONYMOUS", "true", lambda s: s.allow_anonymous, True),
        ("QUOTAPOOL_ALLOWED_HOSTS", "a.example, b.example", lambda s: s.allowed_hosts, ("a.example", "b.example")),
        ("QUOTAPOOL_ALLOWED_HOSTS", "[a.example]", lambda s: s.allowed_hosts, ("a.example",)),
        ("QUOTAPOOL_TIERS", "{trial: {rpm: 3}}", lambda s: s.tiers["trial"].rpm, 3),
        ("QUOTAPOOL_REDIS", "null", lambda s: s.redis, None),
        ("QUOTAPOOL_ADMIN_TOKEN", "t0ken", lambda s: s.admin_token.get_secret_value(), "t0ken"),
    ],
)  # fmt: skip
def test_a_variable_overrides_the_file(load_yaml, name, value, get, expected):
    file = "{workers: 2, redis: 'redis://r', queue: {max_waiting: 7}, allowed_hosts: [z], tiers: {t: {}}}"
    settings = load_yaml(file, {**KEY, name: value})
    assert get(settings) == expected
    assert settings.queue.max_waiting == 7


def test_an_empty_variable_counts_as_not_set(load_yaml):
    assert load_yaml("workers: 2", {**KEY, "QUOTAPOOL_WORKERS": "", "QUOTAPOOL_NONSENSE": ""}).workers == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("QUOTAPOOL_LISTNE", "QUOTAPOOL_LISTEN"),
        ("QUOTAPOOL_QUEUE_MAX_WAIT", "QUOTAPOOL_QUEUE__MAX_WAIT"),
        ("QUOTAPOOL_MAX_JSON_BODDY", "QUOTAPOOL_MAX_JSON_BODY"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_real_one(refusal, name, expected):
    message = refusal(env={**KEY, name: "1"})
    assert message == f"environment variable {name}: unknown option; did you mean '{expected}'?"


def test_a_wrong_value_names_its_variable(refusal):
    message = refusal("queue: {max_wait: 1s}", {**KEY, "QUOTAPOOL_QUEUE__MAX_WAIT": "soon"})
    assert message.startswith("environment variable QUOTAPOOL_QUEUE__MAX_WAIT: queue.max_wait: must be a duration")
    assert "one line" in refusal(env={**KEY, "QUOTAPOOL_TIERS": "{trial: "})


def test_what_kubernetes_adds_for_a_service_named_quotapool_is_ignored(load_yaml, refusal):
    links = {
        "QUOTAPOOL_SERVICE_HOST": "10.0.0.1",
        "QUOTAPOOL_SERVICE_PORT": "8080",
        "QUOTAPOOL_SERVICE_PORT_CLIENTS": "8080",
        "QUOTAPOOL_PORT": "tcp://10.0.0.1:8080",
        "QUOTAPOOL_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "QUOTAPOOL_PORT_8080_TCP_ADDR": "10.0.0.1",
        "QUOTAPOOL_METRICS_SERVICE_HOST": "10.0.0.2",
        "QUOTAPOOL_METRICS_PORT": "tcp://10.0.0.2:9090",
    }
    assert load_yaml(env={**KEY, **links}).workers == 1
    # If somebody thinks this were an option, I expect to be told.
    assert "QUOTAPOOL_PORT: unknown option" in refusal(env={**KEY, "QUOTAPOOL_PORT": "8080"})


def test_placeholders_are_filled_in_anywhere_in_a_text(load_yaml):
    env = {**KEY, "REDIS_PASSWORD": "p4ss", "QUOTAPOOL_OWN_NAME": "blue"}
    settings = load_yaml("{redis: 'redis://:${REDIS_PASSWORD}@cache:6379/0', pool: '${QUOTAPOOL_OWN_NAME}-1'}", env)
    assert settings.redis.get_secret_value() == "redis://:p4ss@cache:6379/0"
    assert settings.pool == "blue-1"


def test_a_missing_variable_is_named_once_with_its_line(refusal):
    message = refusal("\nupstream: ${UPSTREAM_ULR}", {**KEY, "UPSTREAM_URL": "https://x"})
    expected = "the environment variable UPSTREAM_ULR is not set; did you mean 'UPSTREAM_URL'?"
    assert message == f"quotapool.yaml:2: upstream: {expected}"
    assert "without a valid ${NAME}" in refusal("pool: ${not closed", KEY)


def test_an_env_file_gives_variables_and_the_real_environment_wins(load_yaml, tmp_path):
    file = tmp_path / ".env"
    file.write_text('# mine\nexport OPENAI_API_KEYS="sk-from-$file"\nQUOTAPOOL_WORKERS=3\nQUOTAPOOL_POOL=blue\n')
    settings = load_yaml(env={"QUOTAPOOL_POOL": "green"}, env_file=file)
    # A dollar in a secret is a dollar.
    assert settings.keys[0].secret.get_secret_value() == "sk-from-$file"
    assert (settings.workers, settings.pool) == (3, "green")


def test_problems_in_an_env_file_name_its_line(refusal, tmp_path):
    file = tmp_path / ".env"
    file.write_text("A=1\n\nQUOTAPOOL_WORKERS=many\nnonsense\nQUOTAPOOL_WROKERS=1\n")
    assert refusal(env=KEY, env_file=file).splitlines() == [
        ".env:4: must be NAME=value",
        ".env:5: environment variable QUOTAPOOL_WROKERS: unknown option; did you mean 'QUOTAPOOL_WORKERS'?",
        ".env:3: workers: must be a whole number",
    ]
    assert ".env.none: cannot be read" in refusal(env=KEY, env_file=tmp_path / ".env.none")


def test_the_command_line_wins_over_all(load_yaml, refusal):
    given = {"listen": "127.0.0.1:3", "queue.max_wait": 2, "workers": None, "state_dir": Path("/s")}
    env = {**KEY, "QUOTAPOOL_LISTEN": "127.0.0.1:2"}
    settings = load_yaml("{listen: '127.0.0.1:1', workers: 5}", env, overrides=given)
    assert (settings.listen.port, settings.queue.max_wait, settings.workers) == (3, 2, 5)
    assert settings.state_dir == Path("/s")
    assert refusal(overrides={"workers": "x"}) == "command line: workers: must be a whole number"


def test_the_configuration_file_may_be_named_by_a_variable(tmp_path):
    (tmp_path / "c.yaml").write_text("workers: 6")
    settings = load(None, env={**KEY, "QUOTAPOOL_CONFIG": str(tmp_path / "c.yaml")})
    assert settings.workers == 6
    assert settings.files == (tmp_path / "c.yaml",)
    assert load(None, env=KEY).files == ()


def test_an_images_defaults_give_way_to_the_file_and_to_the_environment(load_yaml, tmp_path):
    (tmp_path / "image.yaml").write_text("listen: 0.0.0.0:1\nworkers: 2\nqueue: {max_wait: 1s}\nstate_dir: /image\n")
    env = {**KEY, "QUOTAPOOL_DEFAULTS": str(tmp_path / "image.yaml"), "QUOTAPOOL_WORKERS": "4"}
    settings = load_yaml("listen: 127.0.0.1:5\nqueue: {max_waiting: 9}", env)
    assert str(settings.listen) == "127.0.0.1:5"
    assert settings.workers == 4
    assert settings.state_dir == Path("/image")
    assert (settings.queue.max_wait, settings.queue.max_waiting) == (30, 9)  # a section is one file's
    assert settings.origin.places["state_dir"] == f"{tmp_path / 'image.yaml'}:4:1"
    assert tmp_path / "image.yaml" in settings.files


def test_a_mistake_in_an_images_defaults_is_found(refusal, tmp_path):
    (tmp_path / "image.yaml").write_text("lisen: 0.0.0.0:1\n")
    env = {**KEY, "QUOTAPOOL_DEFAULTS": str(tmp_path / "image.yaml")}
    assert "image.yaml:1: lisen: unknown option; did you mean 'listen'?" in refusal(env=env)
    env["QUOTAPOOL_DEFAULTS"] += ".gone"
    assert "image.yaml.gone: cannot be read" in refusal(env=env)
