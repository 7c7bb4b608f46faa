"""The demonstration's parts: an upstream and Quotapool as child processes, each ended with its `with` block."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MODEL_SERVER = Path(__file__).with_name("model_server.py")
START_SECONDS = 30.0
PATIENCE_SECONDS = 10.0  # for what is about to happen


class Problem(Exception):
    """Why the demonstration cannot go on, in words for the person who started it."""


@contextlib.contextmanager
def child(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, so that Ctrl-C reaches only us, and we end the parts in order."""
    process = subprocess.Popen(command, text=True, stdin=subprocess.DEVNULL, start_new_session=True, **options)
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
def upstream(model: str | None, keys: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL, which it says in its first line."""
    if model:
        command = [sys.executable, str(MODEL_SERVER), "--port", "0", "--keys", ",".join(keys), "--threads", "1"]
    else:
        command = [sys.executable, "-m", "quotapool.simulator", "--port", "0", "--keys", str(len(keys))]
        command += ["--latency-ms", "30", "--tokens-per-second", "200"]
    with child(command, stdout=subprocess.PIPE) as process:
        first_line = process.stdout.readline() if process.stdout else ""
        if "listening on" not in first_line:
            raise Problem("the upstream did not start; what it said is above")
        yield process, first_line.split()[-1]


@contextlib.contextmanager
def quotapool(config_file: Path, log_file: Path, ready: Callable[[], bool]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "quotapool", "serve", "--config", str(config_file)]
    with log_file.open("w") as log, child(command, stdout=log, stderr=log) as process:
        if not eventually(lambda: process.poll() is not None or ready(), START_SECONDS) or process.poll() is not None:
            raise Problem(f"quotapool did not start:\n{log_file.read_text()}")
        yield process


def check_free(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            advice = f'Another one: make run DEMO="--{option} {port + 10000}"'
            raise Problem(f"port {port} is in use by another program. {advice}") from error


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    until = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    return done
