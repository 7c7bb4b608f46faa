"""Completion in bash: the function that `quotapool --show-completion` gives, run by a real bash."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = """
eval "$(quotapool --show-completion)"
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
_quotapool_completion quotapool
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def completed(program: Callable[[str], str], tmp_path: Path) -> Callable[..., list[str]]:
    """What bash would offer after these words, the last of which is being typed."""
    bash = program("bash")
    command = tmp_path / "quotapool"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m quotapool "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(*words: str) -> list[str]:
        done = subprocess.run(
            [bash, "--norc", "-c", SCRIPT, "bash", "quotapool", *words],
            capture_output=True,
            text=True,
            env=env,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


def test_commands_and_groups_are_offered(completed: Callable[..., list[str]]):
    offered = completed("")
    assert {"init", "serve", "check", "keys", "clients"} <= set(offered)
    assert completed("se") == ["serve"]


def test_commands_of_a_group_are_offered_though_it_is_imported_late(completed: Callable[..., list[str]]):
    assert {"list", "add", "import", "topup", "users"} <= set(completed("keys", ""))
    assert completed("clients", "sus") == ["suspend"]


def test_options_are_offered(completed: Callable[..., list[str]]):
    assert completed("usage", "--b") == ["--by"]
    assert "--systemd" in completed("init", "--s")


def test_it_is_installed_for_the_next_shell(program: Callable[[str], str], tmp_path: Path):
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [program("bash"), "--norc", "-c", f"{sys.executable} -m quotapool --install-completion; true"],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
    )
    assert "bash completion installed" in done.stdout, done.stderr
    assert "quotapool" in (tmp_path / ".bashrc").read_text()
