"""This machine: where state and counters are kept, and how many files may be open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import resource
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from quotapool.app.command_socket import Answer
from quotapool.doctor.finding import Check, Finding, ok, problem, warning
from quotapool.observe.metrics_dir import PREFIX
from quotapool.settings import Settings
from quotapool.store.runtime_dir import RuntimeDirUnsafe, socket_path

_GIB: Final = 2**30
_MIB: Final = 2**20
_LITTLE: Final = _GIB  # free, where an append-only file grows
_NONE_LEFT: Final = 64 * _MIB
_FOR_FILES: Final = _MIB  # where the store is elsewhere: a token, a log of changes
_COUNTERS: Final = 16 * _MIB  # of all workers together
_OTHER_FILES: Final = 40  # docs/sizing.md#file-descriptors


async def check(settings: Settings, proxy: Answer | None) -> AsyncIterator[Finding]:
    """Disks are asked in a thread each: one that hangs is found out by the time that there is for everything."""
    for part in (
        lambda: list(_state_dir(settings, proxy)),
        lambda: list(_temporary()),
        lambda: [_files(settings, proxy)],
    ):
        for finding in await asyncio.to_thread(part):
            yield finding


# ---- directories


def _state_dir(settings: Settings, proxy: Answer | None) -> Iterator[Finding]:
    check: Check = "state_dir"
    place = settings.state_dir
    try:
        there = next(path for path in (place, *place.parents) if path.exists())
        if not there.is_dir():
            yield problem(check, f"{there} is not a directory", "Choose another state_dir")
            return
        status = there.stat()
        if there == place and status.st_uid != os.geteuid() and os.geteuid() != 0:
            owner = _user(status.st_uid)
            yield problem(
                check, f"{place} belongs to {owner}", f"Run this as {owner}, as the proxy is: sudo -u {owner} …"
            )
            return
        _write_into(there)
    except PermissionError:  # of a file that was made to try it, or of what is above
        yield problem(check, f"{place} is closed to this user", _WRITABLE)
        return
    except OSError as error:
        yield problem(check, f"{place} cannot be written to: {(error.strerror or str(error)).lower()}", _WRITABLE)
        return
    made = "" if there == place else f", and is made with the first start: {there} can be written to"
    if there == place and stat.S_IMODE(status.st_mode) & 0o077:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        yield warning(check, f"{place} has mode {mode}: others may enter it", f"chmod 700 {place}")
    else:
        yield ok(check, f"{place}{made or ' can be written to'}")
    yield _space(there, is_store=settings.redis is None)
    if settings.redis is None and proxy is None:
        yield _socket_place(settings)
    for name in ("admin-token", "master-key"):
        yield from _private_file(place / name)


_WRITABLE: Final = (
    "Make it writable for the user of the proxy: its owner, a volume that is not mounted read-only, ReadWritePaths= of "
    "a unit"
)


def _write_into(directory: Path) -> None:
    """Raises OSError."""
    with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=directory) as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())


def _space(directory: Path, *, is_store: bool) -> Finding:
    check: Check = "state_dir.space"
    file_system = os.statvfs(directory)
    free = file_system.f_bavail * file_system.f_frsize
    text = f"{_size(free)} are free on the disk of {directory}"
    remedy = "Make room there, or move state_dir"
    is_full = free < (_NONE_LEFT if is_store else _FOR_FILES)
    if is_full or (file_system.f_files and not file_system.f_favail):
        what = text if is_full else f"no file can be made on the disk of {directory}: it has no inodes left"
        return problem(check, what, remedy)
    if is_store and free < _LITTLE:
        return warning(check, f"{text}; the embedded store's file grows there until it is rewritten", remedy)
    return ok(check, text)


def _socket_place(settings: Settings) -> Finding:
    """Of the embedded store."""
    try:
        place = socket_path(settings.state_dir).parent
    except (RuntimeDirUnsafe, OSError) as error:
        return problem("state_dir.socket", str(error), "Set XDG_RUNTIME_DIR to a directory of this user's own")
    with contextlib.suppress(OSError):
        place.rmdir()  # unless somebody uses it
    return ok("state_dir.socket", f"the embedded store's socket is in {place}")


def _private_file(path: Path) -> Iterator[Finding]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return
    if mode & 0o077:
        yield warning("state_dir.mode", f"others may read {path} (mode {mode:04o})", f"chmod 600 {path}")


def _temporary() -> Iterator[Finding]:
    """Where the processes of a proxy share their counters."""
    check: Check = "metrics_dir"
    remedy = "Set TMPDIR to a directory that can be written to, or mount one at /tmp"
    try:
        place = Path(tempfile.gettempdir())
        with tempfile.TemporaryDirectory(prefix=f"{PREFIX}doctor-") as made:
            _write_into(Path(made))
        file_system = os.statvfs(place)
    except OSError as error:
        yield problem(check, f"counters cannot be kept: {error.strerror or error}", remedy)
        return
    free = file_system.f_bavail * file_system.f_frsize
    text = f"counters are kept in {place}, which has {_size(free)} free"
    yield problem(check, text, remedy) if free < _COUNTERS else ok(check, text)


# ---- limits


def _files(settings: Settings, proxy: Answer | None) -> Finding:
    """Of one worker: a client and its connection upstream take one each."""
    upstreams = {settings.upstream, *(key.upstream.url for key in settings.keys if key.upstream is not None)}
    most = settings.upstream_connections * len(upstreams)
    needed = settings.max_concurrent + min(most, settings.max_concurrent) + _OTHER_FILES
    allowed = _allowed_files(proxy)
    whose = "a worker" if proxy is None else f"process {proxy.pid}"
    takes = f"max_concurrent ({settings.max_concurrent:,}) may take {needed:,}"
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        shown = "as many files as it wants" if allowed == resource.RLIM_INFINITY else f"{allowed:,} open files"
        return ok("file_limit", f"{whose} may have {shown}; {takes}")
    return warning(
        "file_limit",
        f"{whose} may have {allowed:,} open files, and {takes}",
        "Raise the hard limit (LimitNOFILE= of a unit, ulimit -Hn, --ulimit nofile= of a container), or lower it: a "
        "worker that has none left resets new connections",
    )


def _allowed_files(proxy: Answer | None) -> int:
    """Those of a running proxy; else what `serve` would raise it to."""
    if proxy is not None:
        try:
            lines = Path(f"/proc/{proxy.pid}/limits").read_text(encoding="ascii").splitlines()
            soft = next(line.split()[3] for line in lines if line.startswith("Max open files"))
        except (OSError, StopIteration, IndexError):
            pass
        else:
            return resource.RLIM_INFINITY if soft == "unlimited" else int(soft)
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _size(size: float) -> str:
    return f"{size / _GIB:,.1f} GiB" if size >= _GIB else f"{size / _MIB:,.0f} MiB"
