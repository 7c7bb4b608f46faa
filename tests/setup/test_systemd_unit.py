"""The systemd unit: systemd finds nothing wrong with it, and it leaves the proxy hardly any rights."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quotapool.settings import Settings, load
from quotapool.setup.needs import Needs, needs_of, written
from quotapool.setup.systemd_unit import NotForAService, SystemdUnit

KEYS = "sk-alpha-0123456789\n"


def loaded(directory: Path, text: str, **env: str) -> tuple[Path, Settings, Needs]:
    config = directory / "quotapool.yaml"
    config.write_text(text)
    settings = load(config, env=env)
    return config, settings, needs_of(written(text), settings)


def unit_of(directory: Path, text: str = "keys_file: quotapool.keys\n", **env: str) -> SystemdUnit:
    (directory / "quotapool.keys").write_text(KEYS)
    config, settings, needs = loaded(directory, text, **env)
    return SystemdUnit((str(shutil.which("true")),), config, settings, needs)


def analyzed(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("more", ["", "listen: 0.0.0.0:80\nallow_anonymous: true\n", "redis: ${REDIS_URL}\n"])
def test_systemd_has_nothing_to_say_about_it_and_calls_it_safe(
    more: str, program: Callable[[str], str], tmp_path: Path
):
    program("systemd-analyze")
    file = tmp_path / "quotapool.service"
    file.write_text(unit_of(tmp_path, "keys_file: quotapool.keys\n" + more, REDIS_URL="redis://x:1/0").text())
    verified = analyzed("verify", str(file))
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    judged = analyzed("security", "--offline=true", "--no-pager", str(file))
    found = re.search(r"Overall exposure level for quotapool.service: (\d+\.\d) ", judged.stdout)
    assert found, judged.stdout + judged.stderr
    # 1.1: what is left is the network, which a proxy needs. A port below 1024 costs its capability.
    assert float(found[1]) <= (1.5 if "0:80" in more else 1.1)


def test_a_unit_that_is_wrong_would_be_found(program: Callable[[str], str], tmp_path: Path):
    program("systemd-analyze")
    file = tmp_path / "quotapool.service"
    file.write_text(unit_of(tmp_path).text().replace("KillMode=mixed", "KillMode=mixd"))
    assert "kill mode" in analyzed("verify", str(file)).stderr


def lines(unit: SystemdUnit) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_secrets_are_handed_over_by_systemd_and_are_in_no_line(tmp_path: Path):
    (tmp_path / "master").write_text("m" * 32)
    text = "keys_file: quotapool.keys\nmaster_key_file: master\nredis: ${REDIS_URL}\n"
    found = lines(unit_of(tmp_path, text, REDIS_URL="redis://:hunter2hunter2@x:1/0"))
    assert found["LoadCredential"] == [f"keys_file:{tmp_path}/quotapool.keys", f"master_key_file:{tmp_path}/master"]
    assert "QUOTAPOOL_KEYS_FILE=%d/keys_file" in found["Environment"]
    assert "QUOTAPOOL_MASTER_KEY_FILE=%d/master_key_file" in found["Environment"]
    assert found["EnvironmentFile"] == [f"{tmp_path}/quotapool.env"]
    assert "hunter2" not in str(found)
    assert "sk-alpha" not in str(found)


def test_keys_of_the_environment_come_from_an_environment_file(tmp_path: Path):
    unit = unit_of(tmp_path, "workers: 2\n", OPENAI_API_KEYS="sk-alpha-0123456789")
    assert unit.needs.variables == ("OPENAI_API_KEYS",)
    assert unit.env_file == tmp_path / "quotapool.env"


def test_a_key_in_a_file_of_its_own_cannot_be_handed_over_and_the_remedy_is_said(tmp_path: Path):
    with pytest.raises(NotForAService, match=r"keys\[0\].secret_file: .*one keys_file"):
        unit_of(tmp_path, "keys: [{secret_file: quotapool.keys}]\n").text()


def test_a_stop_is_longer_than_the_drain(tmp_path: Path):
    assert lines(unit_of(tmp_path))["TimeoutStopSec"] == ["40"]  # 25 s of drain and 15
    found = lines(unit_of(tmp_path, "keys_file: quotapool.keys\ndrain_timeout: 2m\n"))
    assert found["TimeoutStopSec"] == ["135"]


@pytest.mark.parametrize(("listen", "bounding"), [("127.0.0.1:1024", ""), ("0.0.0.0:443", "CAP_NET_BIND_SERVICE")])
def test_only_a_low_port_gets_the_capability_for_it(listen: str, bounding: str, tmp_path: Path):
    found = lines(unit_of(tmp_path, f"keys_file: quotapool.keys\nlisten: {listen}\n"))
    assert found["CapabilityBoundingSet"] == [bounding]
    assert found.get("AmbientCapabilities", [""]) == [bounding]


def test_odd_names_of_files_reach_the_command_as_they_are(tmp_path: Path):
    directory = tmp_path / '100% $of "it"'
    directory.mkdir()
    start = lines(unit_of(directory))["ExecStart"][0]
    words: Any = re.fullmatch(r'\S+ serve --config "(.*)"', start)
    assert words[1].replace("%%", "%").replace("$$", "$").replace('\\"', '"') == str(directory / "quotapool.yaml")
