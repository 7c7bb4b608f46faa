"""The directory in which a proxy's processes share their metrics.

It is removed when they exit, or, if they were killed, when the next proxy starts: a temporary directory may be in
memory, which leftovers would fill.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PREFIX: Final = "quotapool-metrics-"
_LOCK: Final = "in-use"  # locked while its creator runs; the kernel releases it however that ends


@contextlib.contextmanager
def metrics_dir() -> Iterator[Path]:
    """A new directory, for the time of the context. Raises OSError if none can be created."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as made:
        directory = Path(made)
        hidden = directory / f".{_LOCK}"
        lock = os.open(hidden, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            hidden.rename(directory / _LOCK)  # only now, so that nobody finds it unlocked
            yield directory
        finally:
            os.close(lock)


def _sweep(place: Path) -> None:
    """Remove what killed proxies of this user left. Directories of other users, of running proxies, and those just
    being created stay."""
    for directory in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = directory.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                _remove_if_abandoned(directory)


def _remove_if_abandoned(directory: Path) -> None:
    """Raises OSError if its creator is running, or had not created the lock yet."""
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(lock)
