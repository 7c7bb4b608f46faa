"""What is refused because of how it was written is refused at once: nothing is asked or told before."""

from __future__ import annotations

import pytest
from quotapool.cli.commands import app
from typer.testing import CliRunner

NO_NAME = "must be a name of 1 to 128 letters, digits or _ . @ : / + -"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Of a pool on a store of its own, which no proxy serves."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = tmp_path / "quotapool.yaml"
    file.write_text(f"state_dir: {tmp_path}/state\nkeys: [{{id: a, secret: '${{A}}'}}]\n")
    monkeypatch.setenv("A", "sk-sim-00-simulatedkeyforquotapool")
    return str(file)


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("clients", "add", "bad name"), f"NAME {NO_NAME}"),
        (("teams", "add", "bad name"), f"NAME {NO_NAME}"),
        (("keys", "add", "--id", "bad name"), f"--id {NO_NAME}"),
        (("keys", "add", "--account", "bad name"), f"--account {NO_NAME}"),
        (("keys", "add", "--tier", "nope"), "--tier: there is no nope under tiers: in the configuration"),
    ],
)
def test_a_name_that_is_none_is_refused_before_a_secret_is_asked_for_or_the_store_is_told_about(config, words, refusal):
    done = CliRunner().invoke(app, [*words, "--config", config], input="")
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"quotapool: {refusal}\n")


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (("--priority", "urgent"), "priority: must be one of 'high', 'normal' or 'batch'"),
        (("--team", "nope"), "team: there is no such team; `quotapool teams add` makes one"),
        (("--key", "short"), "a client key needs at least 16 characters"),
    ],
)
def test_a_first_client_that_cannot_be_is_refused_before_it_is_told_what_its_key_would_end(config, options, refusal):
    done = CliRunner().invoke(app, ["clients", "add", "search", *options, "--config", config])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"quotapool: {refusal}"
    assert "with the first client key" not in done.stderr
