"""What `quotapool init` writes into quotapool.yaml is valid, short, explained, and has no secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from quotapool.settings import Address, load
from quotapool.settings.values import sha256_hex
from quotapool.setup.first_configuration import FirstClient, FirstConfiguration, base_url

HERE = Address("127.0.0.1", 8080)
APP = FirstClient("app", sha256_hex("qp-a-key-of-a-client"))
KEYS = {"OPENAI_API_KEYS": "sk-alpha-0123456789,sk-beta-0123456789"}
EVERY = [
    FirstConfiguration("quotapool.yaml", "keys_file", "quotapool.keys", HERE),
    FirstConfiguration("quotapool.yaml", "environment", "", HERE, state_dir="/var/lib/quotapool"),
    FirstConfiguration("pool.yml", "keys_file", "pool.keys", Address("0.0.0.0", 80), APP),
    FirstConfiguration("quotapool.yaml", "env_file", "quotapool.env", Address("0.0.0.0", 8080), APP, in_container=True),
]


@pytest.mark.parametrize("first", EVERY)
def test_it_loads_without_a_warning_and_has_the_keys(first: FirstConfiguration, tmp_path: Path):
    (tmp_path / first.file).write_text(first.text())
    (tmp_path / "x").write_text("sk-alpha-0123456789\nsk-beta-0123456789\n")
    if first.secrets == "keys_file":
        (tmp_path / "x").rename(tmp_path / first.secrets_file)
    settings = load(tmp_path / first.file, env={} if first.secrets == "keys_file" else KEYS)
    assert len(settings.keys) == 2
    assert settings.listen == first.listen
    assert [client.id for client in settings.clients] == (["app"] if first.client else [])
    assert settings.bind_problem() is None
    assert settings.warnings == ()
    if first.state_dir:
        assert settings.state_dir == Path(first.state_dir)


@pytest.mark.parametrize("first", EVERY)
def test_it_fits_a_screen_and_a_comment_precedes_every_option(first: FirstConfiguration):
    lines = first.text().splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 130
    options = [number for number, line in enumerate(lines) if line[:1].isalpha()]
    assert options
    assert [lines[number] for number in options if not lines[number - 1].startswith("# ")] == []


@pytest.mark.parametrize("first", EVERY)
def test_what_is_commented_out_is_valid_as_well(first: FirstConfiguration, tmp_path: Path):
    """A first user takes away the `#`; explanations have a space after it."""
    (tmp_path / first.file).write_text(re.sub(r"^#(?=\w|  )", "", first.text(), flags=re.MULTILINE))
    (tmp_path / "pool.keys").write_text("sk-alpha-0123456789\n")
    (tmp_path / "quotapool.keys").write_text("sk-alpha-0123456789\n")
    env = {
        "OPENAI_KEY_ALPHA": "sk-gamma-0123456789",
        "CLIENT_KEY_APP": "qp-0123456789abcdef",
        "ALERTS_WEBHOOK": "https://alerts.example.com/x",
    }
    settings = load(tmp_path / first.file, env=env)
    assert settings.merge_organizations
    assert settings.spend.daily_limit_usd == 50
    assert len(settings.alerts.targets) == len(settings.clients) == len(settings.keys) == 1


def test_a_client_on_this_machine_is_told_an_address_that_it_can_reach():
    assert base_url(Address("0.0.0.0", 8080)) == "http://127.0.0.1:8080/v1"
    assert base_url(Address("::", 80)) == "http://[::1]:80/v1"
    assert base_url(Address("10.0.0.7", 8080)) == "http://10.0.0.7:8080/v1"
