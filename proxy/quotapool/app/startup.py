"""What a start needs of the machine: sockets, the state directory, the admin token, the files to watch."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from quotapool.settings import Address, Settings

_BACKLOG: Final = 4096


class CannotStart(Exception):
    """Why `quotapool serve` ends with exit code 2, in words for the person who started it."""


def bind(option: str, address: Address, stack: contextlib.AsyncExitStack) -> socket.socket:
    """A listening socket, closed with `stack`. Raises CannotStart."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    stack.callback(sock.close)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address.host, address.port))
        sock.listen(_BACKLOG)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise CannotStart(f"{option}: cannot listen on {address}: {why}. Is another process using it?") from error
    sock.setblocking(False)
    return sock


def make_state_dir(path: Path) -> None:
    """Raises CannotStart."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"state_dir: cannot create {path}: {error.strerror}") from error


def admin_token(settings: Settings) -> str:
    """The configured one, else the one made at first start, readable by its owner only."""
    if settings.admin_token is not None:
        return settings.admin_token.get_secret_value()
    path = settings.state_dir / "admin-token"
    try:
        with contextlib.suppress(FileNotFoundError):
            if token := path.read_text(encoding="ascii").strip():
                return token
        token = secrets.token_urlsafe(32)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token + "\n")
    except OSError as error:
        raise CannotStart(f"state_dir: cannot keep the admin token in {path}: {error.strerror}") from error
    return token


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """What changes when a file does, or is replaced."""
    seen = []
    for file in files:
        with contextlib.suppress(OSError):
            found = file.stat()
            seen.append((str(file), found.st_ino, found.st_mtime_ns, found.st_size))
    return seen
