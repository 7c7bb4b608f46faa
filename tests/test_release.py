"""A release's parts agree on the version, and what it says of itself is what the changelog says."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "packaging" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = load()
VERSION = str(release.project(ROOT)["version"])


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What names the version, with a changelog for the release of it."""
    for name in ("pyproject.toml", "proxy/quotapool/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "config", tmp_path / "config")
    changes = f"## [Unreleased]\n\n## [{VERSION}] - 2026-12-01\n\n### Added\n\n- This.\n\n## [0.0.9] - 2026-01-01\n"
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{changes}")
    return tmp_path


def test_this_tree_names_one_version():
    assert list(release.problems(ROOT, None)) == []


def test_a_tree_that_is_ready_has_no_problem(copy):
    assert list(release.problems(copy, VERSION)) == []
    assert release.section((copy / "CHANGELOG.md").read_text(), VERSION)[1].strip() == "### Added\n\n- This."


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("proxy/quotapool/__init__.py", VERSION, "9.9.9", "proxy/quotapool/__init__.py names 9.9.9"),
        ("config/compose.yaml", f"quotapool:{VERSION}", "quotapool:9.9.9", "config/compose.yaml: image names 9.9.9"),
        ("CHANGELOG.md", "2026-12-01", "unreleased", "with the day of the release"),
        ("CHANGELOG.md", "### Added\n\n- This.\n", "", f"says nothing about {VERSION}"),
        ("CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- More.\n", "still has changes under [Unreleased]"),
        ("pyproject.toml", f'version = "{VERSION}"', 'version = "9.9.9"', f"release {VERSION}, but pyproject.toml"),
    ],
)
def test_what_is_not_ready_is_named(copy, file, old, new, problem):
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    assert problem in "\n".join(release.problems(copy, VERSION))


def test_a_chart_and_a_package_of_another_version_are_named(copy):
    chart = copy / "config" / "helm" / "another" / "Chart.yaml"
    chart.parent.mkdir(parents=True)
    chart.write_text(f'apiVersion: v2\nname: another\nversion: 9.9.9\nappVersion: "{VERSION}"\n')
    (copy / "dist").mkdir()
    for name in ("quotapool-9.9.9.tar.gz", f"quotapool-{VERSION}-py3-none-any.whl", "quotapool-9.9.8.cdx.json"):
        (copy / "dist" / name).touch()
    assert list(release.problems(copy, VERSION)) == [
        f"config/helm/another/Chart.yaml: version names 9.9.9, but pyproject.toml {VERSION}",
        f"dist/quotapool-9.9.8.cdx.json names 9.9.8, but pyproject.toml {VERSION}",
        f"dist/quotapool-9.9.9.tar.gz names 9.9.9, but pyproject.toml {VERSION}",
    ]


# ---- the workflows ----

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_action_is_pinned_and_no_job_may_more_than_it_says(file):
    workflow = yaml.safe_load(file.read_text())
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"]
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert "uses" not in step or PINNED.fullmatch(step["uses"]), step
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
            assert "${{" not in step.get("run", ""), "a shell gets values as variables"


def test_every_make_target_and_file_of_the_workflows_exists():
    makefiles = (ROOT / "Makefile").read_text() + (ROOT / "packaging" / "release.mk").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefiles, re.MULTILINE))
    text = "".join(file.read_text() for file in WORKFLOWS)
    named = set(re.findall(r"(?:run: |`)make ([a-z-]+)", text))
    assert {"release-check", "check-python"} <= named <= targets
    for file in set(re.findall(r"[\w./-]+\.(?:py|txt|md)\b", text)) - {"dist/notes.md", "notes.md"}:
        assert (ROOT / file).exists(), file
