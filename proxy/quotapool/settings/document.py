"""Reads one YAML file into plain values, and remembers their lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

from quotapool.settings.draft import Draft
from quotapool.settings.errors import Option, Place, Problem

_DEEPEST: Final = 20  # also ends an alias that contains itself
_LONG_QUOTE: Final = re.compile(r"(['\"])(?!<).{16,}\1")  # <block mapping start> and the like are PyYAML's own words


def read_text(path: Path) -> str:
    """The file's text without a byte-order mark. Raises ValueError, which says why it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or type(error).__name__}") from None


def read_document(path: Path, draft: Draft) -> bool:
    """Fill the draft from the file. False: it cannot be parsed at all, and the draft's problems say why."""
    try:
        text = read_text(path)
    except ValueError as error:
        draft.problems.append(Problem(str(error), place=Place(str(path))))
        return False
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        values = _Walk(loader, str(path), draft).plain(node, ()) if node else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # The full message quotes the file, and with it perhaps a secret; so may a name within `problem`.
        what = f"not valid YAML: {_LONG_QUOTE.sub('...', error.problem or 'cannot be parsed')}"
        draft.problems.append(Problem(what, place=Place(str(path), mark.line + 1 if mark else None)))
        return False
    except yaml.YAMLError:
        draft.problems.append(Problem("not valid YAML: unusual characters", place=Place(str(path))))
        return False
    if not isinstance(values, dict):
        draft.problems.append(Problem("must be a mapping (lines of name: value)", place=Place(str(path), 1)))
        return False
    draft.values = values
    return True


class _Walk:
    """From YAML nodes to values; notes every line, refuses duplicate and non-text names."""

    def __init__(self, loader: yaml.SafeLoader, source: str, draft: Draft) -> None:
        self._loader = loader
        self._source = source
        self._draft = draft

    def plain(self, node: yaml.Node, option: Option) -> Any:
        place = self._place(node)
        self._draft.places.setdefault(option, place)
        if len(option) > _DEEPEST:
            self._draft.refuse(option[:3], "is nested too deeply", place=place)
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, option)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*option, index)) for index, item in enumerate(node.value)]
        try:
            return self._loader.construct_object(node)
        except ValueError:  # it looks like a date or a number but is not one
            self._draft.refuse(option, "is not a valid value; if it is text, put quotes around it", place=place)
            return None

    def _mapping(self, node: yaml.MappingNode, option: Option) -> dict[str, Any]:
        self._refuse_duplicates(node, option)
        self._loader.flatten_mapping(node)  # resolves `<<`: its entries come first and may be overridden
        values = {}
        for name_node, value_node in node.value:
            if name_node.tag != "tag:yaml.org,2002:str":
                message = "has a name that is not text; put quotes around it"
                self._draft.refuse(option, message, place=self._place(name_node))
                continue
            name = name_node.value
            self._draft.places[*option, name] = self._place(name_node)
            values[name] = self.plain(value_node, (*option, name))
        return values

    def _refuse_duplicates(self, node: yaml.MappingNode, option: Option) -> None:
        first: dict[Any, Place] = {}
        for name_node, _ in node.value:
            place = self._place(name_node)
            name = name_node.value
            if isinstance(name, str) and name in first:
                message = f"is given twice; first on line {first[name].line}"
                self._draft.refuse((*option, name), message, place=place)
            elif isinstance(name, str):
                first[name] = place

    def _place(self, node: yaml.Node) -> Place:
        return Place(self._source, node.start_mark.line + 1)
