"""Reads one YAML file into plain values, and remembers their lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from quotapool.settings import yaml_words
from quotapool.settings.characters import QUOTES, around, invisible, named
from quotapool.settings.draft import Draft, is_free_text
from quotapool.settings.errors import Option, Place, Problem
from quotapool.settings.yaml_words import TEMPLATE, Fault, fault_at

_DEEPEST: Final = 20  # also ends an alias that contains itself
_TEXT: Final = "tag:yaml.org,2002:str"


def read_text(path: Path) -> str:
    """The file's text without a byte-order mark. Raises ValueError, which says why it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        if error.object.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError("is UTF-16 text; save it as UTF-8") from None
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not UTF-8 text (see line {line}); save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or type(error).__name__}") from None


def read_document(path: Path, draft: Draft) -> bool:
    """Fill the draft from the file. False: it cannot be parsed at all, and the draft's problems say why."""
    try:
        text = read_text(path)
    except ValueError as error:
        draft.problems.append(Problem(str(error), place=Place(str(path))))
        return False
    values: Any = {}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        walk = _Walk(loader, text, str(path), draft)
        if node:
            values = walk.plain(node, ())
    except yaml.MarkedYAMLError as error:
        return _refuse(draft, path, yaml_words.in_words(text, error))
    except yaml.reader.ReaderError as error:
        return _refuse(draft, path, yaml_words.unreadable(text, error))
    except RecursionError:
        return _refuse(draft, path, Fault("is nested too deeply", 1, 1))
    if not isinstance(values, dict):
        return _refuse(draft, path, yaml_words.no_mapping(text))
    draft.values = values
    return not walk.is_misread


def _refuse(draft: Draft, path: Path, fault: Fault) -> bool:
    draft.problems.append(Problem(fault.message, place=Place(str(path), fault.line, fault.column)))
    return False


class _Walk:
    """From YAML nodes to values; notes every place, refuses duplicate and non-text names. `is_misread`: a character
    that is not seen makes the structure another one than was meant, so that nothing else should be told of it."""

    def __init__(self, loader: yaml.SafeLoader, text: str, source: str, draft: Draft) -> None:
        self._loader = loader
        self._text = text
        self._source = source
        self._draft = draft
        self.is_misread = False

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
        if place.line is not None and place.line >= (self._draft.places[option].line or 0):  # else: an anchor's
            self._draft.value_places[option] = place
        if node.tag == _TEXT and option and not is_free_text(option):
            self._check_characters(node, option)
        try:
            return self._loader.construct_object(node)
        except ValueError:  # it looks like a date or a number but is not one
            self._draft.refuse(option, "is not a valid value; if it is text, put quotes around it", place=place)
            return None

    def _check_characters(self, node: yaml.Node, option: Option) -> None:
        """Refuse what was pasted with a value from a formatted text. An escape ("\\u200b") is meant."""
        if odd := around(node.value):
            self._refuse_character(
                node, option, odd, f"is within typographic quotes, such as {named(odd)}; write plain ones"
            )
        elif odd := invisible(node.value):
            self._refuse_character(node, option, odd, f"has {named(odd)}; delete it")

    def _refuse_character(self, node: yaml.Node, option: Option, odd: str, message: str) -> bool:
        index = self._text.find(odd, node.start_mark.index, node.end_mark.index)
        if index >= 0:
            fault = fault_at(self._text, index, message)
            self._draft.refuse(option, message, place=Place(self._source, fault.line, fault.column))
        return index >= 0

    def _mapping(self, node: yaml.MappingNode, option: Option) -> dict[str, Any]:
        self._refuse_duplicates(node, option)
        self._loader.flatten_mapping(node)  # resolves `<<`: its entries come first and may be overridden
        values = {}
        for name_node, value_node in node.value:
            if name_node.tag != _TEXT:
                before = name_node.start_mark.index
                is_template = self._text[max(before - 1, 0) : before + 1] == "{{"
                message = TEMPLATE if is_template else "has a name that is not text; put quotes around it"
                self._draft.refuse(option, message, place=self._place(name_node))
                continue
            name = name_node.value
            self._draft.places[*option, name] = self._place(name_node)
            odd = invisible(name) or next((one for one in name if one in QUOTES), None)
            if odd and self._refuse_character(name_node, (*option, name), odd, _about(name, odd)):
                self.is_misread = True
                continue
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
        return Place(self._source, node.start_mark.line + 1, node.start_mark.column + 1)


def _about(name: str, odd: str) -> str:
    if odd in QUOTES:
        return f"has {named(odd)} in its name; write plain quotes or none"
    if name.startswith(odd):
        return f"begins with {named(odd)}; delete it, and indent with plain spaces"
    return f"has {named(odd)} in its name; delete it"
