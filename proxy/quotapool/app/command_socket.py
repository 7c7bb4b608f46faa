"""The Unix socket by which commands find the proxy of a state_dir: where it is, what it says, and how it is asked.

    state_dir/command.sock      mode 0600, as long as the proxy runs

Nothing is read from a caller. Who connects gets `Head` as a line of JSON; once the proxy is ready the settings in force
follow, with their secrets. Then the connection ends. The proxy answers its own user and root; a command believes its
own user, and as root the owner of the state_dir. In front of both checks are the modes of the files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from quotapool.store.runtime_dir import LONGEST_BYTES

FILE: Final = "command.sock"
KEYS: Final = "OPENAI_API_KEYS"
STATE_DIR: Final = "QUOTAPOOL_STATE_DIR"
PREFIX: Final = "QUOTAPOOL_"
STARTING: Final = "starting"
STOPPING: Final = "stopping"
PATIENCE_S: Final = 5.0  # for an answer, from a supervisor that may be busy
_LARGEST: Final = 128 * 2**20  # bytes of an answer; 30,000 keys have 8 MB
_AGAIN_S: Final = 0.05


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a proxy says of itself, without secrets."""

    pid: int
    release: str
    phase: str  # STARTING, "" or STOPPING; settings follow with "" only
    state_dir: str
    listen: str = ""
    admin_listen: str = ""
    pool: str = ""
    store: str = ""  # where the shared store is, without login; "": it is embedded
    embedded_url: str = ""
    environment: dict[str, str] = {}  # `given_in` of its environment
    places: dict[str, str] = {}  # as settings.Origin has them, as the next two
    warnings: tuple[str, ...] = ()
    loaded_at: float = 0.0
    settings_bytes: int = 0  # that follow


@dataclass(frozen=True, slots=True)
class Answer:
    """`wire`: the settings in force, as `settings.from_wire` reads them; empty unless asked for. `pid` of the proxy and
    its `state_dir`, as they are called here; a container may call them 1 and /var/lib/quotapool."""

    head: Head
    wire: bytes
    pid: int
    state_dir: Path

    @property
    def embedded_url(self) -> str:
        """Of its embedded store, also if the proxy has a /tmp of its own, as systemd and containers give it."""
        url = self.head.embedded_url
        path = url.removeprefix("unix://")
        return url if Path(path).exists() else f"unix:///proc/{self.pid}/root{path}"


class NotAllowed(Exception):
    """There may be a proxy, but it is another user's."""


class Silent(Exception):
    """A proxy is there that does not answer. `pid` is 0 if unknown."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.pid = pid


def given_in(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that make a configuration, each with the SHA-256 of its value. Not among them: STATE_DIR, which
    only says where to look, and OPENAI_API_KEY, in which clients have their own key."""
    return {
        name: hashlib.sha256(value.strip().encode(errors="surrogateescape")).hexdigest()
        for name, value in environment.items()
        if (name == KEYS or (name.startswith(PREFIX) and name != STATE_DIR)) and value.strip()
    }


def listening(state_dir: Path) -> socket.socket:
    """The socket of this process, in the place of what a killed proxy left behind. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    new = FILE + ".new"  # nobody finds it before it has its mode and is listened to
    try:
        (state_dir / new).unlink(missing_ok=True)
        with _short(state_dir, new) as path:
            sock.bind(path)
        (state_dir / new).chmod(0o600)
        sock.listen(64)
        sock.setblocking(False)
        (state_dir / new).replace(state_dir / FILE)
    except OSError:
        sock.close()
        raise
    return sock


def may_ask(connection: socket.socket) -> bool:
    """Whether the caller is root or our own user."""
    peer = _peer(connection)
    return peer is None or peer[1] in {0, os.geteuid()}


def ask(state_dir: Path, *, with_settings: bool, patience_s: float = PATIENCE_S) -> Answer | None:
    """What the proxy of this state_dir says; None: there is none. Blocks. Raises NotAllowed and Silent."""
    deadline = time.monotonic() + patience_s
    pid = 0
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(max(0.01, deadline - time.monotonic()))
                with _short(state_dir, FILE) as path:
                    sock.connect(path)
                peer = _peer(sock)
                pid = peer[0] if peer else 0
                if peer is not None and not _is_believed(peer[1], state_dir):
                    raise NotAllowed
                if (answer := _read(sock, deadline, with_settings=with_settings)) is not None:
                    head, wire = answer
                    return Answer(head, wire, pid or head.pid, state_dir)
        except (BlockingIOError, ConnectionResetError, BrokenPipeError):
            pass  # many callers at once, or it is about to end
        except PermissionError as error:
            raise NotAllowed from error
        except TimeoutError as error:
            raise Silent(pid) from error
        except OSError:  # no directory, no socket, or nobody listens to it any more
            return None
        if time.monotonic() > deadline:
            raise Silent(pid)
        time.sleep(_AGAIN_S)


def _read(sock: socket.socket, deadline: float, *, with_settings: bool) -> tuple[Head, bytes] | None:
    """The head and the settings; None: it ended before it was complete. Raises TimeoutError and OSError."""
    received = bytearray()
    head: Head | None = None
    first = 0  # bytes of the first line, with its end
    while len(received) <= _LARGEST:
        if head is not None and (not with_settings or len(received) >= first + head.settings_bytes):
            wire = bytes(received[first : first + head.settings_bytes]) if with_settings else b""
            return head, wire
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        sock.settimeout(left)
        if not (some := sock.recv(256 * 1024)):
            return None
        received += some
        if head is None and (first := received.find(b"\n") + 1):
            try:
                head = msgspec.json.decode(received[:first], type=Head)
            except msgspec.DecodeError:
                return None
    return None


def _is_believed(uid: int, state_dir: Path) -> bool:
    me = os.geteuid()
    return uid == me or (me == 0 and uid == state_dir.stat().st_uid)


def _peer(sock: socket.socket) -> tuple[int, int] | None:
    """Process and user at the other end, as the kernel knows them; None where it does not tell: there, the modes of the
    files decide alone."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid


@contextlib.contextmanager
def _short(directory: Path, name: str) -> Iterator[str]:
    """The file's path, through a descriptor of its directory if it is longer than a socket's may be (Linux)."""
    path = directory / name
    if len(os.fsencode(path)) <= LONGEST_BYTES:
        yield str(path)
        return
    descriptor = os.open(directory, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
