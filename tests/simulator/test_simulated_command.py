"""`python -m quotapool.simulator` as its own process."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from quotapool.simulator import simulated_secret
from quotapool.simulator.command import announcement, configuration, main, parser

TEN_SECONDS = 10


def test_it_announces_its_address_serves_and_ends_with_0_on_sigterm(tmp_path):
    command = [sys.executable, "-m", "quotapool.simulator", "--port", "0", "--keys", "2", "--rpm", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            prefix, _, url = line.strip().rpartition(" ")
            assert prefix == "simulator listening on"
            request = urllib.request.Request(
                f"{url}/v1/chat/completions",
                data=json.dumps({"model": "gpt-4o", "messages": []}).encode(),
                headers={"Authorization": f"Bearer {simulated_secret(1)}"},
            )
            with urllib.request.urlopen(request, timeout=TEN_SECONDS) as answer:
                assert answer.headers["x-ratelimit-limit-requests"] == "7"
            process.send_signal(signal.SIGTERM)
            assert process.wait(TEN_SECONDS) == 0
        finally:
            process.kill()


def test_it_says_where_it_is_called_with_which_keys_and_how_in_80_columns():
    said = announcement("http://127.0.0.1:8090", configuration(parser().parse_args([])))
    assert "base URL   http://127.0.0.1:8090/v1\n" in said
    assert all(f" {simulated_secret(n)}\n" in said for n in range(3))
    assert max(map(len, said.splitlines())) <= 80
    example = shlex.split(said[said.index("curl") :].partition("\n\n")[0])
    assert example[:2] == ["curl", "http://127.0.0.1:8090/v1/chat/completions"]
    assert f"Authorization: Bearer {simulated_secret(0)}" in example
    assert json.loads(example[-1])["model"] == "gpt-4o"


def test_of_many_keys_it_names_a_few_so_that_no_pipe_is_full_of_them():
    said = announcement("http://127.0.0.1:8090", configuration(parser().parse_args(["--keys", "5000"])))
    assert simulated_secret(4) in said
    assert simulated_secret(5) not in said
    assert "and 4,995 more like these" in said


def test_secrets_of_a_file_which_may_be_real_ones_are_not_printed(tmp_path):
    path = tmp_path / "simulator.yaml"
    path.write_text(json.dumps({"accounts": [{"id": "acme", "keys": ["sk-proj-mine"]}]}))
    said = announcement("http://127.0.0.1:8090", configuration(parser().parse_args(["--config", str(path)])))
    assert "sk-proj-mine" not in said
    assert "those in the file" in said


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_file_describes_accounts_and_the_command_line_overrides_speed(tmp_path, suffix):
    described = {
        "charging": "correct",
        "latency_ms": 5,
        "accounts": [{"id": "acme", "keys": ["sk-a", "sk-b"], "rpm": 3, "models": {"gpt-4o*": {"tpm": 9}}}],
    }
    path = tmp_path / f"simulator.{suffix}"
    path.write_text(json.dumps(described))  # JSON is YAML
    config = configuration(parser().parse_args(["--config", str(path), "--latency-ms", "70", "--keys", "9"]))
    (acme,) = config.accounts
    assert (config.charging, config.latency_ms) == ("correct", 70.0)
    assert (acme.keys, acme.limits_of("gpt-4o-mini").tpm, acme.limits_of("o3").rpm) == (("sk-a", "sk-b"), 9, 3)


def test_generated_keys_are_the_same_every_time_and_zero_means_no_limit():
    config = configuration(parser().parse_args(["--keys", "11", "--rpm", "60", "--tpm", "0"]))
    assert [account.id for account in config.accounts][::10] == ["account-00", "account-10"]
    assert config.accounts[10].keys == ("sk-sim-10-simulatedkeyforquotapool",)
    assert (config.accounts[0].rpm, config.accounts[0].tpm) == (60, None)


def test_a_wrong_file_or_a_port_in_use_ends_with_2_and_one_line(tmp_path, capsys):
    path = tmp_path / "simulator.yaml"
    path.write_text("acounts: []")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--config", str(path)]) == main(["--port", port]) == main(["--config", "missing.yaml"]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert "acounts" in first
    assert port in second
    assert "missing.yaml" in third
