"""The table of clients that were run names what the tests really run, at the versions that they run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.soak import test_large_clients as large

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "clients.md").read_text()
CLIENTS = ROOT / "tests" / "clients"
ROWS = re.findall(r"^\| ([^|]+) \| (\w+) `([^`]+)` \| ([\d.]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
NOT_CLIENTS = {"@langchain/core", "axe-core", "oidc-provider", "ws"}  # parts of others, and what other tests need


def pinned(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z\d-]+)==([\d.]+)", file.read_text(), re.MULTILINE))


def installed_by_the_tests() -> dict[tuple[str, str], str]:
    """Versions by (registry, package)."""
    packages = json.loads((CLIENTS / "package-lock.json").read_text())["packages"]
    npm = {path.removeprefix("node_modules/"): package["version"] for path, package in packages.items() if path}
    pypi = {**pinned(CLIENTS / "requirements.txt"), "openai": pinned(ROOT / "requirements-dev.txt")["openai"]}
    named = [*(("npm", npm), ("PyPI", pypi))]
    return {(registry, name): version for registry, versions in named for name, version in versions.items()}


RUN_BY_HAND = {
    **{("npm", name): version for name, version in large.NPM.items()},
    **{("PyPI", name): version for name, version in large.PYPI.items()},
}


@pytest.mark.parametrize(("program", "registry", "package", "version", "how"), ROWS, ids=[row[2] for row in ROWS])
def test_a_version_in_the_table_is_the_one_that_is_run(program, registry, package, version, how):
    if registry not in {"npm", "PyPI"}:
        return  # what the system has
    if how.startswith("tests:"):
        assert installed_by_the_tests()[registry, package] == version
    elif "tests/soak" in how:
        assert RUN_BY_HAND[registry, package] == version
    else:
        assert re.match(r"by hand on \d{4}-\d\d-\d\d", how)


def test_every_client_that_is_installed_for_tests_is_in_the_table():
    listed = {(registry, package) for _, registry, package, _, _ in ROWS}
    wanted = {("npm", name) for name in json.loads((CLIENTS / "package.json").read_text())["dependencies"]}
    names = re.findall(r"^([a-z\d-]+)", (CLIENTS / "requirements.in").read_text(), re.MULTILINE)
    wanted |= {("PyPI", name) for name in names} | set(RUN_BY_HAND)
    there = listed | {("npm", name) for name in NOT_CLIENTS}
    in_prose = {key for key in wanted - there if f"{key[0]} `{key[1]}` {RUN_BY_HAND.get(key)}" in PAGE}
    assert wanted - there - in_prose == set()


def test_every_test_that_the_table_names_is_there():
    names = {name for *_, how in ROWS for name in re.findall(r"`(?:tests/soak/)?(test_\w+?)(?:\.py)?`", how)}
    assert len(names) >= 5
    assert [name for name in names if not list((ROOT / "tests").rglob(f"{name}.py"))] == []
