"""The documents keep their word: links lead somewhere, commands and make targets exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from quotapool.cli.commands import app
from quotapool.simulator.command import parser as simulator_parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OUR_HOME = "https://github.com/quotapool/quotapool/blob/main/"

FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the page's headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


def resolve(page: Path, link: str) -> str:
    """What is wrong with a link of `page`; "" where it leads somewhere."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.is_relative_to(ROOT) or not target.exists():
        return f"{link}: no such file"
    if anchor and anchor not in anchors(target):
        return f"{link}: no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path):
    links = [link for link in LINK.findall(FENCE.sub("", page.read_text())) if "://" not in link]
    assert [problem for link in links if (problem := resolve(page, link))] == []


@pytest.mark.parametrize(
    "file",
    [p for folder in ("proxy", "config") for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".yml"}],
    ids=name,
)
def test_every_pointer_into_the_documents_leads_somewhere(file: Path):
    for pointer in re.findall(r"(?:docs/[\w/-]+\.md)(?:#[\w-]+)?", file.read_text()):
        assert resolve(ROOT / "README.md", pointer) == ""


def test_a_broken_link_would_be_found():
    assert resolve(ROOT / "README.md", "docs/nowhere.md") == "docs/nowhere.md: no such file"
    assert resolve(ROOT / "README.md", "docs/operations.md#nowhere") == "docs/operations.md#nowhere: no such heading"
    assert resolve(ROOT / "README.md", "docs/operations.md#the-store-is-down") == ""
    chinese = ROOT / "docs" / "errors.zh.md"
    assert resolve(chinese, "keys.zh.md#model-not-for-this-account") == (
        "keys.zh.md#model-not-for-this-account: no such heading"
    )
    assert resolve(chinese, "keys.zh.md#模型该账户不可用") == ""


# ---- commands ----


def commands_in(page: Path) -> Iterator[list[str]]:
    """Words after `quotapool` in code blocks and inline code; `a|b` stands for two commands."""
    text = page.read_text()
    snippets = [line for block in FENCE.findall(text) for line in block.splitlines()[1:-1]]
    snippets += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))
    for snippet in snippets:
        found = re.search(r"(?:^|\s|bin/)quotapool (?=[a-z])(.+?)(?: && .*)?$", snippet.partition("  #")[0])
        if found:
            first, *rest = shlex.split(found[1])
            for choice in rest[0].split("|") if rest else [""]:
                yield [first, choice, *rest[1:]] if rest else [first]


def problem_with(words: list[str]) -> str:
    """What `quotapool WORDS` gets wrong about the program; "" where nothing."""
    command: Any = typer.main.get_command(app)
    said = "quotapool " + " ".join(words)
    for position, word in enumerate(words):
        if not hasattr(command, "commands"):
            rest = words[position:]
            break
        if word not in command.commands:
            return f"{said}: no command {word}"
        command = command.commands[word]
    else:
        rest = []
    known = {option for parameter in command.params for option in (*parameter.opts, "--help")}
    if command.name == "simulate":
        known |= set(simulator_parser()._option_string_actions)
    unknown = [word for word in rest if word.startswith("-") and word != "-" and word not in known]
    return f"{said}: no option {unknown[0]}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_and_option_exists(page: Path):
    assert [problem for words in commands_in(page) if (problem := problem_with(words))] == []


def test_a_command_that_does_not_exist_would_be_found():
    assert problem_with(["money", "list"]) == "quotapool money list: no command money"
    assert problem_with(["check", "--jsn"]) == "quotapool check --jsn: no option --jsn"
    assert problem_with(["clients", "revoke", "NAME", "--config", "FILE"]) == ""
    assert len(list(commands_in(ROOT / "README.md"))) >= 5


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=name)
def test_every_make_target_exists(page: Path):
    makefiles = [ROOT / "Makefile", ROOT / "packaging" / "release.mk"]
    targets = {name for file in makefiles for name in re.findall(r"^([a-z-]+):", file.read_text(), re.MULTILINE)}
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named
    assert named <= targets
