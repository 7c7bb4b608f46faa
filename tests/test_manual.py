"""docs/cli.md and the man page are what the commands' help texts make of them, and can be read."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def _loaded() -> Any:
    spec = importlib.util.spec_from_file_location("quotapool_manual", ROOT / "packaging" / "manual.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["quotapool_manual"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


manual = _loaded()
ENTRIES = manual.entries()


@pytest.mark.parametrize(("path", "make"), manual.WRITTEN, ids=["cli.md", "quotapool.1"])
def test_what_is_committed_is_what_the_help_texts_make(path: Path, make: Callable[..., str]):
    assert path.read_text(encoding="utf-8") == make(ENTRIES), "run `make manual`"


def test_another_help_text_would_be_noticed():
    changed = [entry for entry in ENTRIES if entry.words != ("quotapool", "keys", "drain")]
    assert len(changed) == len(ENTRIES) - 1
    for path, make in manual.WRITTEN:
        assert path.read_text(encoding="utf-8") != make(changed)


def test_the_man_page_has_no_fault(program: Callable[[str], str]):
    found = subprocess.run([program("mandoc"), "-Tlint", str(manual.MAN)], capture_output=True, text=True, timeout=300)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_the_man_page_shows_every_command_and_option_as_it_is_typed(program: Callable[[str], str]):
    shown = subprocess.run(
        [program("mandoc"), "-Tutf8", "-O", "width=400", str(manual.MAN)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    ).stdout
    text = re.sub(r".\x08", "", shown)  # bold is a letter over itself
    for entry in ENTRIES:
        assert entry.name in text
        for option in entry.options:
            assert ", ".join(option.forms) in text, (entry.name, option)
    assert "“" not in text
    assert "\\" not in text


@pytest.mark.parametrize("text", [".env is read", "'quoted'", "a\\b", "--option", "a | b * c <d>"])
def test_odd_characters_survive_in_both(text: str, program: Callable[[str], str]):
    option = manual.Option(("--odd",), "", text)
    entry = manual.Entry(("quotapool", "odd"), "Start", (text,), "quotapool odd", (), (option,), False)
    root = ENTRIES[0]
    page = subprocess.run(
        [program("mandoc"), "-Tascii"], input=manual.man([root, entry]), capture_output=True, text=True, timeout=300
    ).stdout
    assert re.sub(r".\x08", "", page).count(text) == 2
    row = next(line for line in manual.markdown([root, entry]).splitlines() if line.startswith("| `--odd` |"))
    cell = re.fullmatch(r"\| `--odd` \| (.*) \|", row)
    assert cell is not None
    assert re.sub(r"\\([|*<])", r"\1", cell[1]) == text
