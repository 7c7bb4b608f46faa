"""Writes docs/cli.md and packaging/quotapool.1 from the commands' own help texts: `make manual`.

Both are committed; a test compares them with what this would write.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main
from quotapool import __version__
from quotapool.cli.commands import app
from quotapool.simulator.command import parser as simulator_parser
from typer.core import TyperArgument, TyperGroup, TyperOption

ROOT = Path(__file__).parents[1]
MARKDOWN = ROOT / "docs" / "cli.md"
MAN = ROOT / "packaging" / "quotapool.1"

_COMMON_FROM = 10  # commands that have an option with these words: then it is explained once
_DATE = "2026-11-29"  # of the page; raise it with the version

_INTRODUCTION = (
    "quotapool serves clients, shows how the pool of OpenAI keys stands, and changes keys, clients and teams while the "
    "proxy runs. Every command has --help (-h). Results go to standard output, what is wrong to standard error."
)
EXIT_CODES = (
    ("0", "Done; of `check` and the like: all is well."),
    ("1", "Done, and the answer is no: a key is not usable, a line was not taken, the proxy is not healthy."),
    (
        "2",
        "Not done: a wrong option or configuration, or the store cannot be reached. The reason is on standard error.",
    ),
    ("130", "Interrupted by Ctrl-C."),
)
VARIABLES = (
    ("OPENAI_API_KEYS", "Upstream keys of the pool, separated by commas, in addition to those of the configuration."),
    ("QUOTAPOOL_CONFIG", "The configuration file, where --config is not given."),
    (
        "QUOTAPOOL_OPTION",
        "Any option: QUOTAPOOL_WORKERS=4, QUOTAPOOL_QUEUE__MAX_WAIT=5s. Two underscores go one level down.",
    ),
    ("OPENAI_BASE_URL, OPENAI_API_KEY", "Of a client: where `quotapool me` asks, and with which key."),
)
EXAMPLES = (
    ("Write a configuration, and serve:", ("quotapool init", "quotapool serve --config quotapool.yaml")),
    ("Nothing but keys:", ("OPENAI_API_KEYS=sk-...,sk-... quotapool serve",)),
    ("Who spent what, this month:", ("quotapool usage --by client --config quotapool.yaml",)),
    ("A key for a client, with a budget:", ('quotapool clients add app --budget "usd=50/month"',)),
)
FILES = (
    ("quotapool.yaml", "The configuration. config/quotapool.example.yaml of the sources explains every option."),
    ("~/.local/state/quotapool", "Where state is kept, unless state_dir says otherwise."),
)


@dataclass(frozen=True)
class Option:
    """An option or argument: `forms` as they are typed, `value` as it is shown; "" for none."""

    forms: tuple[str, ...]
    value: str
    help: str


@dataclass(frozen=True)
class Entry:
    """A command: its words, what it does in paragraphs, and what it takes."""

    words: tuple[str, ...]
    panel: str
    about: tuple[str, ...]
    usage: str
    arguments: tuple[Option, ...]
    options: tuple[Option, ...]
    is_group: bool

    @property
    def name(self) -> str:
        return " ".join(self.words)


def entries() -> list[Entry]:
    """Every command in the order of `quotapool --help`, a group before its commands; the first is quotapool itself."""
    root: Any = typer.main.get_command(app)
    return list(_walk(root, root.make_context("quotapool", [], resilient_parsing=True), ("quotapool",), ""))


def _walk(command: Any, context: Any, words: tuple[str, ...], panel: str) -> Iterator[Entry]:
    shown = [one for one in command.get_params(context) if not getattr(one, "hidden", False)]
    arguments = [one for one in shown if isinstance(one, TyperArgument)]
    options = [
        Option(_forms(one), _value(one, context), _help(one, context)) for one in shown if isinstance(one, TyperOption)
    ]
    if words[1:] == ("simulate",):
        options = _simulator_options()
    is_group = isinstance(command, TyperGroup)
    usage = " ".join([*words, *(["[OPTIONS]"] if options else []), *map(_in_usage, arguments)])
    yield Entry(
        words,
        panel,
        tuple(" ".join(paragraph.split()) for paragraph in (command.help or "").split("\n\n")),
        usage + (" COMMAND" if is_group else ""),
        tuple(Option((_argument_name(one),), "", _help(one, context)) for one in arguments),
        tuple(options),
        is_group,
    )
    if is_group:
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                below = child.context_class(child, info_name=name, parent=context, **child.context_settings)
                yield from _walk(child, below, (*words, name), child.rich_help_panel or panel)


def _simulator_options() -> list[Option]:
    """The simulator imports nothing of the rest, and reads its options by itself."""
    actions = simulator_parser()._actions  # noqa: SLF001  nothing public lists them
    return [
        Option(
            tuple(sorted(action.option_strings, key=len)),
            "" if action.nargs == 0 else str(action.metavar or action.dest.upper()),
            _sentence((action.help or "") % {"default": action.default}),
        )
        for action in actions
        if action.option_strings
    ]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _argument_name(argument: TyperArgument) -> str:
    name = argument.metavar or argument.name.upper().rstrip("_")
    return f"{name}..." if argument.nargs != 1 and not argument.metavar else name


def _in_usage(argument: TyperArgument) -> str:
    name = _argument_name(argument)
    return name if argument.required else f"[{name}]"


def _forms(option: TyperOption) -> tuple[str, ...]:
    return tuple(sorted(option.opts, key=len))


def _value(option: TyperOption, context: Any) -> str:
    return "" if option.is_flag else str(option.display_type_rich(ctx=context))


def _help(param: Any, context: Any) -> str:
    text = " ".join((param.help or "").split())
    value = param._extract_default_help_str(ctx=context)  # noqa: SLF001  nothing public says what --help shows
    is_text = isinstance(param.show_default, str)
    if is_text or (value is not None and param.show_default):
        shown = param._get_default_string(ctx=context, show_default_is_str=is_text, default_value=value)  # noqa: SLF001
        if shown:
            text += f" Default: {shown.strip('()')}."
    least, most = getattr(param, "min", None), getattr(param, "max", None)
    if least is not None and most is not None:
        text += f" From {least:,} to {most:,}."
    elif least is not None:
        text += f" At least {least:,}."
    return text


def common(all_entries: Sequence[Entry]) -> list[Option]:
    """Options that many commands have with the same words."""
    seen = Counter(option for entry in all_entries for option in entry.options)
    return [option for option, count in seen.items() if count >= _COMMON_FROM]


# ---- Markdown


def markdown(all_entries: Sequence[Entry]) -> str:
    """docs/cli.md."""
    shared = common(all_entries)
    root, *commands = all_entries
    parts = [
        "# Command line",
        "<!-- Made by packaging/manual.py from the commands' help texts: make manual -->",
        _INTRODUCTION.replace("--help (-h)", "`--help` (`-h`)"),
        *_index(commands),
        "## Options of most commands",
        _table("option", shared),
        "## Options of quotapool itself",
        _table("option", [option for option in root.options if option not in shared]),
        "## Exit codes",
        _rows(("code", "meaning"), EXIT_CODES),
        "## Environment",
        _rows(("variable", "meaning"), [(f"`{name}`", text) for name, text in VARIABLES]),
    ]
    panel = ""
    for entry in commands:
        if entry.panel != panel:
            panel = entry.panel
            parts.append(f"## {panel}")
        parts += _section(entry, shared)
    return "\n\n".join(parts) + "\n"


def _index(commands: Sequence[Entry]) -> Iterator[str]:
    panels: dict[str, list[str]] = {}
    for entry in commands:
        if len(entry.words) == 2:
            link = f"[{entry.words[1]}](#{entry.name.replace(' ', '-')})"
            panels.setdefault(entry.panel, []).append(link)
    yield _rows(("task", "commands"), [(panel, ", ".join(links)) for panel, links in panels.items()])


def _section(entry: Entry, shared: Sequence[Option]) -> Iterator[str]:
    yield f"{'#' * (len(entry.words) + 1)} {entry.name}"
    yield from map(_markdown_text, entry.about)
    if entry.is_group:
        return
    yield f"```\n{entry.usage}\n```"
    own = [option for option in entry.options if option not in shared]
    if entry.arguments or own:
        yield _table("argument or option" if entry.arguments else "option", [*entry.arguments, *own])
    if used := [
        f"`{option.forms[-1]}`" for option in entry.options if option in shared and "--help" not in option.forms
    ]:
        yield f"And {', '.join(used)}."


def _table(title: str, options: Sequence[Option]) -> str:
    return _rows(
        (title, "meaning"),
        [
            (f"`{', '.join(option.forms)}{' ' if option.value else ''}{option.value}`", option.help)
            for option in options
        ],
    )


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_markdown_text(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _markdown_text(text: str) -> str:
    """Outside of code, `*`, `<` and `|` would mean something."""
    parts = re.split(r"(`[^`]*`)", text)
    escaped = [part if part.startswith("`") else re.sub(r"([*<])", r"\\\1", part) for part in parts]
    return "".join(escaped).replace("|", "\\|")


# ---- the man page


def man(all_entries: Sequence[Entry]) -> str:
    """packaging/quotapool.1, in man(7)."""
    shared = common(all_entries)
    root, *commands = all_entries
    lines = [
        ".\\\" Made by packaging/manual.py from the commands' help texts: make manual",
        f'.TH QUOTAPOOL 1 {_DATE} "quotapool {__version__}" "User Commands"',
        ".SH NAME",
        f"quotapool \\- {_roff(root.about[0][0].lower() + root.about[0][1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        ".B quotapool",
        "[\\fIOPTIONS\\fR]",
        "\\fICOMMAND\\fR",
        "[\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        _roff(_INTRODUCTION),
        ".SH OPTIONS",
        *_man_options([option for option in root.options if option not in shared]),
        ".PP",
        "Most commands have these:",
        *_man_options(shared),
    ]
    panel = ""
    for entry in commands:
        if entry.panel != panel:
            panel = entry.panel
            lines.append(f".SH {_roff(f'COMMANDS: {panel}'.upper())}")
        lines += _man_section(entry, shared)
    lines += [".SH EXIT STATUS", *_man_terms(EXIT_CODES), ".SH ENVIRONMENT", *_man_terms(VARIABLES)]
    lines += [".SH FILES", *_man_terms(FILES), ".SH EXAMPLES"]
    for number, (text, typed) in enumerate(EXAMPLES):
        lines += [*([".PP"] if number else []), _roff(text), ".PP", ".nf", ".RS", *map(_roff, typed), ".RE", ".fi"]
    lines += [".SH SEE ALSO", "https://github.com/quotapool/quotapool"]
    return "\n".join(_wrapped(lines)) + "\n"


def _wrapped(lines: Sequence[str]) -> Iterator[str]:
    """Each sentence begins a line, and none is longer than 80 bytes. Requests, and the tags of .TP, stay one line."""
    before = ""
    for line in lines:
        if line.startswith(".") or before == ".TP":
            yield line
        else:
            for sentence in re.split(r"(?<=[a-z)0-9`R][.?!:]) (?=[A-Z\\])", line):
                for part in textwrap.wrap(sentence, 79, break_long_words=False, break_on_hyphens=False):
                    yield f"\\&{part}" if part.startswith((".", "'")) else part
        before = line


def _man_section(entry: Entry, shared: Sequence[Option]) -> Iterator[str]:
    yield f".SS {_roff(entry.name)}"
    if not entry.is_group:
        yield f".B {_roff(entry.name)}"
        rest = entry.usage.removeprefix(entry.name).split()
        yield from (_italic_word(word) for word in rest)
        yield ".PP"
    for number, paragraph in enumerate(entry.about):
        if number:
            yield ".PP"
        yield _roff(paragraph)
    own = [option for option in entry.options if option not in shared]
    yield from _man_options([*entry.arguments, *own])
    if used := [option.forms[-1] for option in entry.options if option in shared and "--help" not in option.forms]:
        yield ".PP"
        yield _roff(f"And {', '.join(used)}.")


def _italic_word(word: str) -> str:
    bare = word.strip("[]")
    return f"{'[' if word.startswith('[') else ''}\\fI{_roff(bare)}\\fR{']' if word.endswith(']') else ''}"


def _man_options(options: Sequence[Option]) -> Iterator[str]:
    for option in options:
        is_argument = not option.forms[0].startswith("-")
        forms = ", ".join(f"\\f{'I' if is_argument else 'B'}{_roff(form)}\\fR" for form in option.forms)
        yield ".TP"
        yield forms + (f" \\fI{_roff(option.value)}\\fR" if option.value else "")
        yield _roff(option.help)


def _man_terms(terms: Sequence[tuple[str, str]]) -> Iterator[str]:
    for term, text in terms:
        yield from (".TP", f"\\fB{_roff(term)}\\fR", _roff(text))


def _roff(text: str) -> str:
    """Plain text as man(7) has to have it; `code` is bold."""
    text = (
        text.replace("\\", "\\(rs")
        .replace("-", "\\-")
        .replace("…", "\\&...")
        .replace("~", "\\(ti")
        .replace("^", "\\(ha")
    )
    text = text.replace("'", "\\(aq")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return f"\\&{text}" if text.startswith(".") else text


WRITTEN: tuple[tuple[Path, Callable[[Sequence[Entry]], str]], ...] = ((MARKDOWN, markdown), (MAN, man))


def main() -> int:
    """Write both."""
    found = entries()
    for path, make in WRITTEN:
        path.write_text(make(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
