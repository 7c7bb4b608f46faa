"""A translation that is older than its English page fails here, with what changed and how to see it."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def load(path: Path) -> ModuleType:
    """By its path: PyPI has a package `packaging`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load(ROOT / "packaging" / "translations.py")

ENGLISH = (
    "# Keys\n\nWhat they are.\n\n## States\n\nThere are five.\n\n```sh\n# no heading\n```\n\n## Import\n\nA file.\n"
)
CHINESE = "# 密钥\n\n说明。\n\n## 状态\n\n五种。\n\n## 导入\n\n文件。\n"


@pytest.fixture
def translation(tmp_path: Path) -> Path:
    (tmp_path / "keys.md").write_text(ENGLISH)
    path = tmp_path / "keys.zh.md"
    path.write_text(CHINESE)
    tool.confirm(path)
    return path


@pytest.mark.parametrize("path", tool.translations(), ids=lambda path: path.name)
def test_each_translation_is_as_new_as_its_source(path):
    assert tool.problems(path) == []


def test_a_confirmed_translation_has_no_problem_and_keeps_its_text(translation):
    assert tool.problems(translation) == []
    assert translation.read_text().endswith(CHINESE)
    tool.confirm(translation)
    assert translation.read_text().count("translation of") == 1


def test_a_changed_section_is_named_with_the_commands_that_show_and_confirm_it(translation):
    source = translation.with_name("keys.md")
    source.write_text(ENGLISH.replace("There are five.", "There are six."))
    (problem,) = tool.problems(translation)
    assert "keys.zh.md is older than keys.md: ## States. See `git diff " in problem
    assert "python packaging/translations.py" in problem
    assert "## Import" not in problem
    tool.confirm(translation)
    assert tool.problems(translation) == []


def test_code_counts_and_the_breaking_of_lines_does_not(translation):
    source = translation.with_name("keys.md")
    source.write_text(ENGLISH.replace("There are five.", "There\nare five."))
    assert tool.problems(translation) == []
    source.write_text(ENGLISH.replace("# no heading", "# another"))
    assert "## States" in tool.problems(translation)[0]


def test_sections_that_came_or_went_are_found(translation):
    source = translation.with_name("keys.md")
    source.write_text(ENGLISH + "\n## Probes\n\nNew.\n")
    older, shape = tool.problems(translation)
    assert "## Probes" in older
    assert shape == "keys.zh.md: its headings are not those of keys.md, from heading 4 on"
    source.write_text(ENGLISH.partition("## Import")[0])
    assert "a section that was taken out" in tool.problems(translation)[0]


@pytest.mark.parametrize(
    ("english", "chinese", "problem"),
    [
        ("Set `stop_at`.", "设置 `stop`。", ["lacks `stop_at`", "adds `stop`"]),
        ("Set `stop_at`.", "设置。", ["lacks `stop_at`"]),
        ("Take 98 %, or 1,000.", "用 89% 或 1,000。", ["lacks 98", "adds 89"]),
        ("| a | b |\n|---|---|\n| c | d |", "| 甲 | 乙 |\n|---|---|", ["lacks a row of 2 cells"]),
        ("| a | b |\n|---|---|", "| 甲 | 乙 |\n|---|---|\n| 丙 |", ["adds a row of 1 cells"]),
        ("```sh\nmake run  # it\n```", "```sh\nmake site  # 它\n```", ["lacks make run", "adds make site"]),
        (
            "See [it](keys.md).",
            "见[此处](keys.zh.md#密钥)。",
            ["lacks a link to keys.md", "adds a link to keys.md#0"],
        ),
        (
            "See [it](keys.md#import).",
            "见[此处](keys.zh.md#状态)。",
            ["lacks a link to keys.md#2", "adds a link to keys.md#1"],
        ),
    ],
    ids=["another name", "a lost name", "a figure", "a lost row", "a lost cell", "a command", "a page", "a heading"],
)
def test_what_is_not_translated_is_the_same_in_both(translation, english, chinese, problem):
    translation.with_name("keys.md").write_text(ENGLISH.replace("There are five.", english))
    translation.write_text(CHINESE.replace("五种。", chinese))
    tool.confirm(translation)
    assert tool.problems(translation) == [f"keys.zh.md: ## 状态 {one}" for one in problem]


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("Set `stop_at` to 98 %, not\nto\n3.5 s.", "`stop_at` 设为 98%。不要设为 3.5 秒。"),
        ("| a `b` |\n|---|", "| 甲 `b` |\n|---|"),
        ("```sh\n# first\nmake run        # it\n```", "```sh\n# 首先\nmake run  # 它\n```"),
        ("See [it](keys.md#import), [5](x.png).", "见[此处](keys.zh.md#导入)、[5](x.png)。"),
    ],
    ids=["prose", "a table", "comments of commands", "links"],
)
def test_a_whole_translation_has_no_problem(translation, english, chinese):
    translation.with_name("keys.md").write_text(ENGLISH.replace("There are five.", english))
    translation.write_text(CHINESE.replace("五种。", chinese))
    tool.confirm(translation)
    assert tool.problems(translation) == []


def test_a_link_leads_to_the_translation_of_a_page_where_there_is_one(translation):
    other = translation.with_name("money.md")
    other.write_text("# Money\n")
    translation.with_name("keys.md").write_text(ENGLISH + "\n[Money](money.md), [English](keys.md)\n")
    translation.write_text(CHINESE + "\n[费用](money.md)、[English](keys.md)\n")
    tool.confirm(translation)
    assert tool.problems(translation) == []
    other.with_name("money.zh.md").write_text("# 费用\n")
    assert tool.problems(translation) == ["keys.zh.md: money.md should be money.zh.md"]


def test_a_translation_says_what_it_was_made_from(translation):
    translation.write_text(CHINESE)
    assert "its first line is not `<!-- translation of keys.md" in tool.problems(translation)[0]
    translation.with_name("keys.md").unlink()
    assert tool.problems(translation) == ["keys.zh.md: there is no keys.md"]


def test_the_readme_of_another_language_is_a_translation_of_the_readme(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.zh-CN.md").write_text("# 说明\n")
    assert tool.translations(tmp_path) == [tmp_path / "README.zh-CN.md"]
    assert tool.source_of(tmp_path / "README.zh-CN.md") == tmp_path / "README.md"


def test_the_command_that_shows_the_difference_shows_it(translation):
    """In a repository of its own: from the commit that confirmed the translation."""
    folder = translation.parent

    def git(*words: str) -> None:
        name = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True, timeout=300)

    git("init")
    git("add", ".")
    git("commit", "-m", "both")
    source = folder / "keys.md"
    source.write_text(ENGLISH.replace("five", "six"))
    git("commit", "-am", "changed")
    translation.write_text(translation.read_text().replace("五", "5"))
    git("commit", "-am", "a word of the translation")
    command = tool.difference(translation).replace(tool.shown(translation), "keys.zh.md")
    command = command.replace(tool.shown(source), "keys.md")
    shown = subprocess.run(["sh", "-c", command], cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    assert "-There are five." in shown.stdout
    assert "+There are six." in shown.stdout
