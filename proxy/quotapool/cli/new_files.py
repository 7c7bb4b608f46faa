"""Writes several files of one directory all together or not at all, and overwrites none unless told to."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_HELD: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Draft:
    """New files under their names, but in a directory of their own, `path`, until they are published."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: list[str] = []

    def add(self, name: str, text: str, mode: int | None = None) -> None:
        """`mode` None: what the umask leaves of 0666. Raises OSError."""
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        self._names.append(name)

    def publish(self, *, force: bool) -> None:
        """Move all files to the directory above, the last one last. Raises OSError; FileExistsError unless `force`."""
        reserved: list[Path] = []
        with _signals_held():
            try:
                for name in self._names:
                    target = self.path.parent / name
                    if not force:
                        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                        reserved.append(target)  # the name is ours now
                    (self.path / name).replace(target)
            except BaseException:
                for target in reserved:
                    target.unlink(missing_ok=True)
                raise


@contextmanager
def drafted(directory: Path) -> Iterator[Draft]:
    """A draft of files of `directory`, which is made if need be. Nothing is left of one that was not published."""
    missing = [one for one in (directory, *directory.parents) if not one.exists()]  # the deepest first
    directory.mkdir(parents=True, exist_ok=True)
    draft = Draft(Path(tempfile.mkdtemp(prefix=".quotapool-init-", dir=directory)))
    handlers = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield draft
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)
        for made in missing:
            with suppress(OSError):  # it has files now
                made.rmdir()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Ctrl-C and the like take effect afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
