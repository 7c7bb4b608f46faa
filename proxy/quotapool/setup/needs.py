"""What a configuration needs from outside, so that a service or a container can be given it: variables and files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

from quotapool.settings import Settings

_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# Options that are one file, and the variable that overrides each.
_FILES: Final = {
    ("keys_file",): "QUOTAPOOL_KEYS_FILE",
    ("master_key_file",): "QUOTAPOOL_MASTER_KEY_FILE",
    ("tls", "cert_file"): "QUOTAPOOL_TLS__CERT_FILE",
    ("tls", "key_file"): "QUOTAPOOL_TLS__KEY_FILE",
    ("ca_file",): "QUOTAPOOL_CA_FILE",
}


@dataclass(frozen=True, slots=True)
class NeededFile:
    """A file that an option names: `path` is absolute; `variable` overrides the option, None: nothing does."""

    option: str
    path: Path
    variable: str | None


@dataclass(frozen=True, slots=True)
class Needs:
    """`variables`: names that the environment must have. `files`: without the configuration itself."""

    variables: tuple[str, ...]
    files: tuple[NeededFile, ...]

    def moved(self, old: Path, new: Path) -> Needs:
        """The same, with the files of directory `old` in directory `new`."""
        files = [
            replace(file, path=new / file.path.relative_to(old)) if file.path.is_relative_to(old) else file
            for file in self.files
        ]
        return Needs(self.variables, tuple(files))


def needs_of(values: dict[str, Any], settings: Settings) -> Needs:
    """Of a configuration, as it is written (`written`) and as it was loaded. Keys that it does not name are in
    OPENAI_API_KEYS."""
    names = dict.fromkeys(name for text in _texts(values) for name in _REFERENCE.findall(text))
    if not values.get("keys") and not values.get("keys_file"):
        names["OPENAI_API_KEYS"] = None
    files = []
    for option, variable in _FILES.items():
        path = _at(settings, option)
        if isinstance(path, Path):
            files.append(NeededFile(".".join(option), path, variable))
    for index, key in enumerate(key for key in settings.keys if key.secret_file is not None):
        files.append(NeededFile(f"keys[{index}].secret_file", key.secret_file or Path(), None))
    return Needs(tuple(names), tuple(files))


def written(text: str) -> dict[str, Any]:
    """The values of a configuration that was loaded before, with its ${NAME}s as they are."""
    values = yaml.safe_load(text)
    return values if isinstance(values, dict) else {}


def _at(settings: Settings, option: tuple[str, ...]) -> object:
    found: object = settings
    for name in option:
        found = getattr(found, name, None)
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(item)
