"""Writes several files of one directory all together or not at all, and overwrites none unless told to."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


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
        with _handled(_too_late, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
    try:
        draft = Draft(Path(tempfile.mkdtemp(prefix=".quotapool-init-", dir=directory)))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(directory)) from error
    with ended_by_signals():
        try:
            yield draft
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)
            for made in missing:
                with suppress(OSError):  # it has files now
                    made.rmdir()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is done here as an exception, as Ctrl-C does: what has to be undone is undone."""
    with _handled(_end, signal.SIGTERM, signal.SIGHUP):
        yield


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _too_late(_number: int, _: object) -> None:
    """Moving files takes no time, and ends with all of them in place."""


@contextmanager
def _handled(handler: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
