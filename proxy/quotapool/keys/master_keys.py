"""Which master keys this installation has: configured ones, or the one it creates for its embedded store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from quotapool.keys.seal import MasterKey, new_master_key
from quotapool.settings import Settings
from quotapool.store.owner import give_to_owner

_OWN_FILE: Final = "master-key"


class NoMasterKey(Exception):
    """Why there is no usable one, in words for an operator."""


def own_file(settings: Settings) -> Path:
    """Where the embedded store's master key is kept."""
    return settings.state_dir / _OWN_FILE


def master_keys(settings: Settings, on_secret: Callable[[str], object] = lambda _: None) -> list[MasterKey]:
    """All that are accepted, the one to start with first. `on_secret` receives each text, for the redactor.

    Read again each time: a file may have been changed. Raises NoMasterKey if a configured one cannot be used.
    """
    texts = [settings.master_key.get_secret_value()] if settings.master_key is not None else []
    if settings.master_key_file is not None:
        texts += lines_of(settings.master_key_file)
    if settings.redis is None and own_file(settings).exists():
        texts += lines_of(own_file(settings))
    keys = []
    for text in texts:
        on_secret(text)
        try:
            keys.append(MasterKey(text))
        except ValueError as error:
            raise NoMasterKey(f"the master key cannot be used: {error}") from None
    return keys


def first_master_key(settings: Settings, on_secret: Callable[[str], object] = lambda _: None) -> MasterKey:
    """The one that an empty vault starts with: a configured one, or a new one for the embedded store. Raises
    NoMasterKey."""
    if found := master_keys(settings, on_secret):
        return found[0]
    if settings.redis is not None:
        raise NoMasterKey(
            "keys in a shared store need a master key that every replica has, and none is configured. Make one "
            "(openssl rand -base64 32), give it to all by master_key: ${NAME} or master_key_file: PATH, and try again"
        )
    text = new_master_key()
    on_secret(text)
    write(own_file(settings), text)
    return MasterKey(text)


def read_file(path: Path) -> str:
    """The one master key in a file. Raises NoMasterKey."""
    lines = lines_of(path)
    if len(lines) != 1:
        raise NoMasterKey(f"{path} must hold one line, the master key")
    return lines[0]


def write(path: Path, *texts: str) -> None:
    """Write a file of master keys that only its owner can read, replaced as a whole. Raises NoMasterKey."""
    new = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            give_to_owner(descriptor, path.parent)
            file.write("".join(f"{text}\n" for text in texts))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise NoMasterKey(f"cannot keep the master key in {path}: {error.strerror}") from None


def lines_of(path: Path) -> list[str]:
    """Every master key in a file. Raises NoMasterKey."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise NoMasterKey(f"the master key in {path} cannot be read: {why}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
