"""Help texts: a person finds the command, and the words for values are the same everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from quotapool.cli.commands import app
from typer.core import TyperGroup, TyperOption
from typer.testing import CliRunner


def every_command() -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(words, command, context), of groups and their commands, too."""
    root: Any = typer.main.get_command(app)
    waiting = [((), root, root.make_context("quotapool", [], resilient_parsing=True))]
    while waiting:
        words, command, context = waiting.pop()
        yield words, command, context
        if isinstance(command, TyperGroup):
            for name in command.list_commands(context):
                child: Any = command.get_command(context, name)
                below = child.context_class(child, info_name=name, parent=context, **child.context_settings)
                waiting.append(((*words, name), child, below))


COMMANDS = list(every_command())


def shown(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), prog_name="quotapool", env={"COLUMNS": "80", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return done.output


def test_the_list_of_commands_fits_a_screen_with_a_line_for_each():
    lines = shown("--help").splitlines()
    assert len(lines) <= 48
    first = {words[0] for words, _, _ in COMMANDS if len(words) == 1}
    listed = [found[1] for line in lines if (found := re.match(r"│ (\w+) +\S", line))]
    assert set(listed) == first
    assert len(listed) == len(first)


def test_it_is_ordered_by_task():
    panels = re.findall(r"╭─ (.+?) ─+╮", shown("--help"))
    assert panels == ["Options", "Start", "Look", "Keys, clients, accounts", "For clients, containers and tests"]


@pytest.mark.parametrize("words", [(), ("init",), ("keys",), ("keys", "add"), ("usage",), ("clients", "set")])
def test_h_is_help_everywhere(words: tuple[str, ...]):
    assert shown(*words, "-h") == shown(*words, "--help")


def test_the_simulator_has_h_too():
    done = subprocess.run(
        [sys.executable, "-m", "quotapool", "simulate", "-h"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0
    assert "--port" in done.stdout


@pytest.mark.parametrize(("words", "command", "context"), COMMANDS, ids=[" ".join(words) for words, _, _ in COMMANDS])
def test_everything_is_explained_in_sentences(words: tuple[str, ...], command: Any, context: Any):
    assert re.match(r"[A-Z].*[.:]$", command.help.splitlines()[0])
    if len(words) == 1 and not isinstance(command, TyperGroup):
        assert len(command.help.splitlines()[0]) <= 62, "wraps in the list of commands"
    for param in command.get_params(context):
        if getattr(param, "hidden", False):
            continue
        assert re.match(r"""['"A-Z0-9].*\.$|.*…$""", param.help), (words, param.name, param.help)
        if isinstance(param, TyperOption):
            assert re.fullmatch(r"[A-Z:_]+|" if param.is_flag else r"[A-Z:_]+", param.metavar), (words, param.name)


@pytest.mark.parametrize("name", ["python -m quotapool", "a script"])
def test_it_calls_itself_quotapool_however_it_was_started(name: str):
    code = "import sys; sys.argv = ['x', '--help']; from quotapool.__main__ import main; main()"
    command = ["-m", "quotapool", "--help"] if name.startswith("python") else ["-c", code]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert "Usage: quotapool [OPTIONS] COMMAND" in done.stdout
