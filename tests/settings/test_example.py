"""config/quotapool.example.yaml is complete, valid, and states the true defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from quotapool.settings import Account, Settings, load
from quotapool.settings.money import Rates

from tests.fakes.certificates import Authority

EXAMPLE = Path(__file__).parents[2] / "config" / "quotapool.example.yaml"
ENV = {
    "OPENAI_KEY_ALPHA": "sk-proj-alpha",
    "OPENAI_KEY_BETA": "sk-proj-beta",
    "POOL_MASTER_KEY": "a-master-key-of-thirty-two-letters",
    "CLIENT_KEY_BACKEND": "a-client-key-of-our-own",
    "OPENAI_SESSION_ACME": "sess-acme",
    "OPENAI_ADMIN_KEY": "sk-admin-acme",
    "ALERTS_WEBHOOK": "https://ops.example.com/hook",
    "ALERTS_SECRET": "a-secret-of-the-hook",
    "OIDC_SECRET": "a-secret-of-the-oidc-client",
    "COLLECTOR_TOKEN": "a-token-of-the-collector",
    "PROXY_PASSWORD": "a-password-of-jane",
    "HOME": "/home/op",
}
# What an operator must choose; the example shows a choice, and there is no default to compare it with.
CHOICES = {
    "admin_keys",
    "alerts",
    "dashboard",
    "keys",
    "master_key",
    "prices",
    "limits",
    "path_aliases",
    "tiers",
    "accounts",
    "groups",
    "long_context",
    "clients",
    "teams",
    "tls",
    "traces",
    "upstream_proxy",
}


def everything_live() -> str:
    """The example with every suggestion taken: prose has one blank after its `#`, suggestions none or two."""
    return re.sub(r"(?m)^( *)#(?=  |\S)", r"\1", EXAMPLE.read_text())


def leaves(annotation: Any, path: str = "") -> Iterator[str]:
    """Every option below an annotation, `*` for a name of the operator's choice."""
    if get_origin(annotation) is Annotated or type(None) in get_args(annotation):
        yield from leaves(get_args(annotation)[0], path)
    elif get_origin(annotation) is dict:
        yield from leaves(get_args(annotation)[1], f"{path}.*")
    elif get_origin(annotation) is tuple:
        yield from leaves(get_args(annotation)[0], path)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from leaves(field.annotation, f"{path}.{name}")
    else:
        yield path


def is_shown(data: Any, names: list[str]) -> bool:
    """Whether some entry of the example writes this option."""
    if isinstance(data, list):
        return any(is_shown(item, names) for item in data) if data and isinstance(data[0], dict) else True
    if not names:
        return True
    if not isinstance(data, dict):
        return False
    if names[0] == "*":
        return any(is_shown(item, names[1:]) for item in data.values())
    return names[0] in data and is_shown(data[names[0]], names[1:])


def test_every_option_is_in_the_example():
    data = yaml.safe_load(everything_live())
    options = list(leaves(Settings))
    assert ".timeouts.first_byte" in options
    assert ".accounts.*.weight" in options
    assert ".clients.key_hash" in options
    # I expect no option of the code to be missing. A limit may be shown in any of the places that take limits.
    missing = [option for option in options if not is_shown(data, option.split(".")[1:])]
    in_words = {f".limits.{where}.{what}" for where in ("default", "models.*") for what in ("rpd", "tpd", "ipm")}
    in_words |= {f".prices.*.tiers.*.{rate}" for rate in Rates.model_fields}  # those of the model itself
    assert set(missing) <= in_words


def test_the_test_above_would_notice_a_missing_option():
    data = yaml.safe_load(everything_live())
    del data["retry"]["budget"]
    del data["accounts"]["acme"]["weight"]
    assert not is_shown(data, ["retry", "budget"])
    assert not is_shown(data, ["accounts", "*", "weight"])


def test_the_example_is_valid_as_it_is():
    settings = load(EXAMPLE, env=ENV)
    assert (settings.keys[0].id, settings.keys[0].account) == ("alpha", "acme")
    assert settings.warnings == ()


def test_the_example_is_valid_with_all_its_suggestions_taken(tmp_path):
    text = everything_live().replace("/run/secrets/openai-gamma", "gamma").replace("/etc/quotapool/tls", "tls")
    (tmp_path / "gamma").write_text("sk-proj-gamma\n")
    Authority.make(tmp_path).issue(tmp_path)
    (tmp_path / "all.yaml").write_text(text)
    settings = load(tmp_path / "all.yaml", env=ENV)
    assert settings.keys[2].secret.get_secret_value() == "sk-proj-gamma"
    assert [client.id for client in settings.clients] == ["backend", "nightly", "contractor", "batch", "app"]
    assert settings.limits_for("acme", "gpt-4o").rpm == 60


def test_the_defaults_the_example_states_are_the_true_ones(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", ENV["HOME"])
    text = everything_live().replace("/run/secrets/openai-gamma", "gamma").replace("/etc/quotapool/tls", "tls")
    (tmp_path / "gamma").write_text("sk-proj-gamma\n")
    Authority.make(tmp_path).issue(tmp_path)
    (tmp_path / "all.yaml").write_text(text)
    stated, true = load(tmp_path / "all.yaml", env=ENV), Settings()
    for name in set(Settings.model_fields) - CHOICES:
        assert getattr(stated, name) == getattr(true, name), name
    assert stated.accounts["acme"].weight == Account().weight
    # What the example leaves commented out is out by default.
    assert all(
        not getattr(load(EXAMPLE, env=ENV), name)
        for name in CHOICES - {"keys", "limits", "alerts", "dashboard", "traces"}
    )
    as_it_stands = load(EXAMPLE, env=ENV)
    for name in ("limits", "alerts", "dashboard"):
        assert getattr(as_it_stands, name) == getattr(true, name)


def test_defaults_are_those_of_the_design():
    settings = Settings()
    assert (str(settings.listen), str(settings.admin_listen)) == ("127.0.0.1:8080", "127.0.0.1:9090")
    assert settings.upstream == "https://api.openai.com"
    assert (settings.redis, settings.pool, settings.workers) == (None, "default", 1)
    assert (settings.queue.max_wait, settings.queue.max_waiting) == (30, 1000)
    assert (settings.drain_timeout, settings.stream_hold, settings.store_patience) == (25, 0.5, 2)
    assert settings.max_json_body == 67_108_864
    assert (settings.on_redis_loss, settings.inject_usage, settings.allow_anonymous) == ("serve", True, False)
