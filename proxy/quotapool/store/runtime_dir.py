"""Where the embedded store's socket is: a short path, in a directory that only we can enter."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

# A socket's path has 108 bytes in the kernel, with the closing zero; macOS has 104.
LONGEST_BYTES: Final = 99
_SOCKET: Final = "valkey.sock"


class RuntimeDirUnsafe(Exception):
    """The directory for the socket belongs to somebody else, or cannot be made."""


def socket_path(state_dir: Path) -> Path:
    """The socket for `state_dir`, in a directory that exists, is ours and has mode 0700.

    Tried in turn: $XDG_RUNTIME_DIR, /tmp, `state_dir` itself if its path is short, /dev/shm (writable in
    containers whose root file system is not). Raises RuntimeDirUnsafe.
    """
    name = f"quotapool-{os.geteuid()}-{_short_hash(state_dir)}"
    parents = [
        Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp"),  # noqa: S108 - a name of our own in it, see below
        Path("/tmp"),  # noqa: S108 - mode 0700, and refused if it is not ours
        state_dir.resolve(),
        Path("/dev/shm"),  # noqa: S108 - as above
    ]
    for parent in parents:
        socket = parent / name / _SOCKET
        fits = parent.is_absolute() and len(os.fsencode(socket)) <= LONGEST_BYTES
        if not fits or not os.access(parent, os.W_OK | os.X_OK):
            continue
        socket.parent.mkdir(mode=0o700, exist_ok=True)
        make_private(socket.parent)
        return socket
    raise RuntimeDirUnsafe(
        "no writable directory with a short path for the embedded store's socket: "
        "set XDG_RUNTIME_DIR to one, or make /tmp writable"
    )


def make_private(directory: Path) -> None:
    """Give `directory` mode 0700. Raises RuntimeDirUnsafe unless it is a real directory that we own."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise RuntimeDirUnsafe(
            f"{directory} is not a directory of user {os.geteuid()}. Somebody else made it: "
            "remove it, or set XDG_RUNTIME_DIR to a directory of your own"
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        directory.chmod(0o700)


def is_private(directory: Path) -> bool:
    """Whether nobody else can put a socket into `directory`."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return ours and not stat.S_IMODE(status.st_mode) & 0o077


def _short_hash(state_dir: Path) -> str:
    return hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:10]
