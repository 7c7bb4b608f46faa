"""Without what only Linux has. Nobody promises another system, but nothing refuses one without need.

All processes of a demonstration run with the names removed that Python's own modules lack on macOS. /proc stays.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# Python's documentation, "Availability: Linux" (or not macOS), of the names of these modules.
LINUX_ONLY = {
    "os": "eventfd eventfd_read eventfd_write memfd_create pidfd_open sched_getaffinity sched_setaffinity splice setns "
    "unshare posix_fadvise posix_fallocate fdatasync getresuid copy_file_range getrandom O_DIRECT O_TMPFILE pipe2 "
    "timerfd_create listxattr getxattr setxattr waitid sched_setscheduler",
    "socket": "TCP_KEEPIDLE TCP_USER_TIMEOUT TCP_QUICKACK TCP_DEFER_ACCEPT TCP_CORK TCP_CONGESTION SO_PEERCRED SO_MARK "
    "SO_INCOMING_CPU SO_BINDTODEVICE SOCK_CLOEXEC SOCK_NONBLOCK AF_NETLINK AF_PACKET AF_VSOCK MSG_MORE EAI_ADDRFAMILY "
    "EAI_NODATA",
    "signal": "pidfd_send_signal sigtimedwait sigwaitinfo SIGPWR SIGSTKFLT SIGPOLL SIGRTMIN SIGRTMAX",
    "select": "epoll EPOLLIN EPOLLOUT EPOLLERR EPOLLHUP EPOLLEXCLUSIVE EPOLL_CLOEXEC POLLRDHUP",
}
REMOVING = "".join(
    f"import {module}\nfor name in {names.split()}:\n    {module}.__dict__.pop(name, None)\n"
    for module, names in LINUX_ONLY.items()
)
REMOVING += "if hasattr(os, 'process_cpu_count'):\n    os.process_cpu_count = os.cpu_count\n"  # asks a removed one
IMPORTING_ALL = """
import importlib, pkgutil, select, socket, sys
assert not hasattr(socket, "TCP_KEEPIDLE") and not hasattr(select, "epoll")
import quotapool
names = [found.name for found in pkgutil.walk_packages(quotapool.__path__, "quotapool.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
        if sys.modules.get("rich", "") is None:  # a worker process forbids itself to load it
            del sys.modules["rich"]
print(len(names))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of processes for whose Python there is no Linux."""
    (tmp_path / "sitecustomize.py").write_text(REMOVING)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)}


def test_every_module_can_be_imported(environment):
    command = [sys.executable, "-c", IMPORTING_ALL]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 300


def test_it_serves(environment):
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(str(free.getsockname()[1]))
    command = [sys.executable, "-m", "quotapool", "demo", "--port", ports[0], "--admin-port", ports[1]]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if "Serving until" in line:
                    break
            assert "4 active, 1 quarantined" in "".join(said)
        finally:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
