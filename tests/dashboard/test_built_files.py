"""The operators' page as it is committed is what its sources make, byte by byte."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from quotapool.openai.advice import BY_REASON
from quotapool.reports import explanation

from tests.conftest import missing

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "dashboard"
BUILT = ROOT / "proxy" / "quotapool" / "dashboard" / "files"


@pytest.fixture
def node(program: Callable[[str], str]) -> str:
    if not (SOURCES / "node_modules" / "esbuild").exists():
        missing("what builds the page")
    return program("node")


def test_the_types_of_the_page_are_those_of_the_admin_api():
    made = subprocess.run([sys.executable, SOURCES / "make_types.py"], capture_output=True, check=True, timeout=300)
    assert (SOURCES / "src" / "shapes.ts").read_bytes() == made.stdout, "run `make page`"


def test_the_page_keeps_to_its_types(node):
    tsc = subprocess.run(
        [node, "node_modules/typescript/bin/tsc"], cwd=SOURCES, capture_output=True, text=True, timeout=300
    )
    assert tsc.returncode == 0, tsc.stdout


def test_the_built_files_are_made_of_these_sources(node, tmp_path):
    built = subprocess.run([node, "build.js", tmp_path], cwd=SOURCES, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr  # also where it is too large
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in BUILT.iterdir()}
    assert set(made) == set(committed), "run `make page`"
    assert made == committed, "run `make page`"


def test_what_is_translated_of_the_proxys_own_texts_is_what_the_proxy_says():
    """A row for a code that nobody sends any more would be forgotten."""
    table = (SOURCES / "src" / "words" / "zh-proxy.ts").read_text()
    rows = re.findall(r'^  "(next|cause)\.([a-z_]+)":', table, re.MULTILINE)
    assert len(rows) > 50
    causes = inspect.getsource(explanation)
    unknown = [
        f"{head}.{code}"
        for head, code in rows
        if (code not in {*BY_REASON, "dry", "no_keys"} if head == "next" else f'"{code}"' not in causes)
    ]
    assert unknown == []
