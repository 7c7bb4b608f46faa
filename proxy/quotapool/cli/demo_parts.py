"""The processes of `quotapool demo`: an upstream and Quotapool itself, each ended with its `with` block."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

START_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 10.0  # for what is about to happen
_ERASED: Final = ("QUOTAPOOL_", "OPENAI_")  # what is set for a real pool must not reach this one
_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy"})  # nothing here leaves this machine


class Problem(Exception):
    """Why the demonstration cannot go on, in words for the person who started it."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """What stands for OpenAI. `command` prints one line that ends with its URL, then serves until SIGTERM."""

    name: str
    command: list[str]
    keys: list[str]
    model: str
    at_once: int  # calls of the part in which many come together
    is_simulated: bool  # and can be told to refuse a key


Process = subprocess.Popen[str]


@contextlib.contextmanager
def child(command: list[str], output: int | None) -> Iterator[Process]:
    """A process in a session of its own, so that Ctrl-C reaches only us, and we end the parts in order."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_ERASED) and name.lower() not in _PROXIES
    }
    process = subprocess.Popen(  # noqa: S603 - our own programs
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output == subprocess.PIPE else output,
        start_new_session=True,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def started_upstream(upstream: Upstream) -> Iterator[tuple[Process, str]]:
    """The process and its URL."""
    with child(upstream.command, subprocess.PIPE) as process:
        first_line = process.stdout.readline() if process.stdout else ""
        if "listening on" not in first_line:
            raise Problem("the upstream did not start; what it said is above")
        yield process, first_line.split()[-1]


@contextlib.contextmanager
def started_proxy(config_file: Path, log_file: Path, ready: Callable[[], bool]) -> Iterator[Process]:
    command = [sys.executable, "-m", "quotapool", "serve", "--config", str(config_file)]
    with log_file.open("w") as log, child(command, log.fileno()) as process:
        if not eventually(lambda: process.poll() is not None or ready(), START_SECONDS) or process.poll() is not None:
            raise Problem(f"quotapool did not start:\n{log_file.read_text()[-4000:]}")
        yield process


def check_free(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            advice = f"Another one: --{option} {port + 10000 if port < 50000 else port - 10000}"
            raise Problem(f"port {port}: {(error.strerror or str(error)).lower()}. {advice}") from error


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    until = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    return done
