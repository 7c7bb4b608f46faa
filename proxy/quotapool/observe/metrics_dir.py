"""The folder in which a proxy's processes share their metrics.

It goes with them, or, where they were killed, when the next proxy starts: in a temporary folder that is memory, what
they leave would fill it.
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
_LOCK: Final = "in-use"  # locked while its maker lives; the kernel lets go of it, however that ends


@contextlib.contextmanager
def metrics_dir() -> Iterator[Path]:
    """A new one, for the time of the context. Raises OSError where none can be made."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as made:
        directory = Path(made)
        unseen = directory / f".{_LOCK}"
        lock = os.open(unseen, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unseen.rename(directory / _LOCK)  # only now: nobody is to find it unlocked
            yield directory
        finally:
            os.close(lock)


def _sweep(place: Path) -> None:
    """Remove what killed proxies of this user left. Another's, a living one's, and one being made stay."""
    for directory in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = directory.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                _remove_if_abandoned(directory)


def _remove_if_abandoned(directory: Path) -> None:
    """Raises OSError where its maker lives, or had not come so far."""
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(lock)
