"""`quotapool keys add` at a terminal: the key is typed unseen, and Ctrl-C or Ctrl-D adds nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

from tests.fakes.terminal import Terminal

SECRET = "sk-proj-alpha-0123456789abcdef"
ADD = [sys.executable, "-m", "quotapool", "keys", "add", "--no-check", "--id", "typed"]


def add(tmp_path: Path, typed: str) -> tuple[int, str]:
    """Its exit code and what the screen showed."""
    config = tmp_path / "quotapool.yaml"
    config.write_text(yaml.safe_dump({"keys": [], "state_dir": str(tmp_path / "state")}))
    with Terminal(ADD, tmp_path, {**os.environ, "QUOTAPOOL_CONFIG": str(config)}) as terminal:
        terminal.wait_for("OpenAI key (not shown): ")
        terminal.type(typed)
        return terminal.end(), terminal.shown


def test_a_key_is_typed_unseen(tmp_path: Path):
    code, shown = add(tmp_path, f"{SECRET}\n")
    assert (code, SECRET in shown) == (0, False)
    assert "\nkey typed: added\r\n" in shown


def test_ctrl_c_and_ctrl_d_add_nothing_and_end_the_line(tmp_path: Path):
    assert add(tmp_path, "\x03") == (130, "OpenAI key (not shown): \r\n")
    code, shown = add(tmp_path, "\x04")
    assert (code, shown) == (2, "OpenAI key (not shown): \r\nquotapool: no secret on standard input\r\n")
