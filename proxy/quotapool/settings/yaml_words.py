"""What is wrong with a text that is not YAML: where, and what to do, in words for whoever wrote it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import yaml

from quotapool.settings.characters import FULL_WIDTH, QUOTES, invisible, named

TEMPLATE: Final = "{{ }} is not filled in here; write ${NAME} for the value of an environment variable"
_NO_BLANK: Final = re.compile(r"\s*(?:- +)?[A-Za-z_]\w*:(?=[^\s/])")
_VALUE: Final = re.compile(r"[\w.\"'-]+: +\S")
_QUOTED: Final = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'")

# What the parser says -> what to do about it. {line}: where the list, mapping or text that it was reading begins.
_WORDS: Final = (
    (r"sequence entries are not allowed", "a list begins on a line of its own, below its name"),
    (r"expected ',' or '\]'", "a comma or the closing ] is missing in the list that begins on line {line}"),
    (r"expected ',' or '\}'", "a comma or the closing } is missing in the mapping that begins on line {line}"),
    (r"escape character|escape sequence", "has a \\ in double quotes that YAML does not know; use single quotes"),
    (r"undefined alias", "begins with *, which refers to an anchor (&) that is not in this file; put quotes around it"),
    (r"alphabetic or numeric character", "begins with * or &, which have a meaning in YAML; put quotes around it"),
    (r"chomping or indentation", "begins with | or >, which have a meaning in YAML; put quotes around it"),
    (r"cannot start any token", "begins with a character that has a meaning in YAML; put quotes around it"),
    (r"single document", "a second document begins here (---); a file has one"),
    (r"constructor for the tag|tag handle|scanning a tag", ("has a tag (!), which means nothing here; "
     "put quotes around text, and write ${NAME} for the value of an environment variable")),
)  # fmt: skip
_OTHERWISE: Final = "cannot be read as YAML from here on; look at the indentation, the quotes and the brackets"


@dataclass(frozen=True, slots=True)
class Fault:
    """`line` and `column` from 1."""

    message: str
    line: int
    column: int


def fault_at(text: str, index: int, message: str) -> Fault:
    """A fault at this character of the text."""
    return Fault(message, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def unreadable(text: str, error: yaml.reader.ReaderError) -> Fault:
    """A character that YAML does not allow at all."""
    return fault_at(text, error.position, f"has {named(text[error.position])}; delete it")


def no_mapping(text: str) -> Fault:
    """A text that is YAML, but no mapping: often only one line, with a colon that is none."""
    begin = len(text) - len(text.lstrip())
    end = yaml.error.MarkedYAMLError(problem_mark=None)
    seen = _Seen(text, end, begin, begin)
    faults = (*_characters(seen), *_no_blank(seen), seen.fault(begin, "must be a mapping (lines of name: value)"))
    return faults[0]


def in_words(text: str, error: yaml.MarkedYAMLError) -> Fault:
    """Never shows the text, which may be a secret; so may be a name within the parser's own message."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Fault(_OTHERWISE, 1, 1)
    seen = _Seen(text, error, mark.index, (error.context_mark or mark).index)
    return next(fault for look in _LOOKS for fault in look(seen))


@dataclass(frozen=True, slots=True)
class _Seen:
    """`at`: where the parser stopped; `since`: where what it was reading begins."""

    text: str
    error: yaml.MarkedYAMLError
    at: int
    since: int

    @property
    def problem(self) -> str:
        return self.error.problem or ""

    def line_at(self, index: int) -> tuple[int, str]:
        """(its first character, its text)"""
        begin = self.text.rfind("\n", 0, index) + 1
        end = self.text.find("\n", index)
        return begin, self.text[begin : end if end >= 0 else None]

    def lines(self) -> Iterator[tuple[int, str]]:
        """The line where the parser stopped, and the last one before it that has anything: often the wrong one."""
        begin, line = self.line_at(self.at)
        yield begin, line
        if above := self.text[:begin].rstrip():
            yield self.line_at(len(above) - 1)

    def number(self, index: int) -> int:
        return self.text.count("\n", 0, index) + 1

    def fault(self, index: int, message: str) -> Fault:
        return fault_at(self.text, index, message)


def _tabs(seen: _Seen) -> Iterator[Fault]:
    for begin, line in seen.lines():
        indentation = line[: len(line) - len(line.lstrip(" \t"))]
        if "\t" in indentation and line.strip():
            yield seen.fault(begin + line.index("\t"), "uses a tab as indentation; YAML wants spaces")
    if seen.text[seen.at : seen.at + 1] == "\t":
        yield seen.fault(seen.at, "uses a tab; YAML wants spaces")


def _characters(seen: _Seen) -> Iterator[Fault]:
    for begin, line in seen.lines():
        plain = _QUOTED.sub(lambda quoted: " " * len(quoted[0]), line.partition(" #")[0])
        odd = invisible(plain) or next((one for one in plain if one in QUOTES | FULL_WIDTH), None)
        if odd is not None:
            what = "write the plain character" if odd in QUOTES | FULL_WIDTH else "delete it, or write a plain space"
            yield seen.fault(begin + plain.index(odd), f"has {named(odd)}; {what}")


def _placeholders(seen: _Seen) -> Iterator[Fault]:
    before = seen.text.rfind("${", seen.since, seen.at + 2)
    if before >= 0 and "}" not in seen.text[before : seen.at]:
        yield seen.fault(before, '${NAME} within { } or [ ] needs quotes: "${NAME}"')


def _quotes(seen: _Seen) -> Iterator[Fault]:
    if "quoted scalar" in (seen.error.context or "") and "unexpected" in seen.problem:
        yield seen.fault(seen.since, "the quote that begins here is not closed")


def _no_blank(seen: _Seen) -> Iterator[Fault]:
    for begin, line in seen.lines():
        if found := _NO_BLANK.match(line):
            yield seen.fault(begin + found.end(), "needs a blank after the colon")


def _colons(seen: _Seen) -> Iterator[Fault]:
    if "mapping values are not allowed" not in seen.problem and "expected ':'" not in seen.problem:
        return
    yield from _no_blank(seen)
    begin, line = seen.line_at(seen.since)
    if "expected ':'" in seen.problem:
        yield seen.fault(begin + len(line) - len(line.lstrip()), "has no colon; write name: value")
    begin, line = seen.line_at(seen.at)
    if _VALUE.search(line[: seen.at - begin]):
        yield seen.fault(seen.at, "has a second colon with a blank after it; put quotes around the value")
    yield seen.fault(
        begin + len(line) - len(line.lstrip()), "is indented deeper than the line above, which has its value already"
    )


def _indentation(seen: _Seen) -> Iterator[Fault]:
    if "<block end>" not in seen.problem:
        return
    begin, line = seen.line_at(seen.at)
    if line[: seen.at - begin].strip():
        yield seen.fault(seen.at, "something follows the value; put quotes around all of it")
        return
    indent, levels = seen.at - begin, _levels(seen.text[:begin])
    if levels and indent not in levels:
        *most, last = map(str, sorted(levels))
        allowed = f"{', '.join(most)} or {last}" if most else last
        yield seen.fault(seen.at, f"is indented by {indent}; after the lines above it can be {allowed} spaces")
    elif line[indent:].startswith("-"):
        yield seen.fault(seen.at, "is an entry of a list (-), among lines of name: value; indent it differently")
    elif levels:
        deeper = min((level for level in levels if level > indent), default=indent)
        how = f", or indent it by {deeper} spaces" if deeper > indent else ""
        yield seen.fault(seen.at, f"is no entry of the list that it stands in; begin it with -{how}")


def _levels(above: str) -> set[int]:
    """How far a line may be indented after these lines."""
    levels: set[int] = set()
    lowest = len(above)
    for line in reversed(above.splitlines()):
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        if not text or text.startswith("#") or indent >= lowest:
            continue
        lowest = indent
        levels.add(indent)
        if text.startswith("- "):
            levels.add(indent + len(text) - len(text[1:].lstrip(" ")))
        if not indent:
            break
    return levels


def _others(seen: _Seen) -> Iterator[Fault]:
    for pattern, message in _WORDS:
        if re.search(pattern, f"{seen.error.context} {seen.problem}"):
            at = seen.since if "alphabetic" in seen.problem else seen.at
            yield seen.fault(at, message.replace("{line}", str(seen.number(seen.since))))
    yield seen.fault(seen.at, _OTHERWISE)


_LOOKS: Final[tuple[Callable[[_Seen], Iterator[Fault]], ...]] = (
    _tabs, _placeholders, _quotes, _characters, _colons, _indentation, _others,
)  # fmt: skip
