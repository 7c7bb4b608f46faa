"""Processes that are started here: what CPU and memory they take, by part, and how they end."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = os.sysconf("SC_PAGESIZE")
Tasks = dict[tuple[str, int, int], int]  # (part, process, thread) -> nanoseconds on a core


def raise_file_limit() -> None:
    """A thousand held streams are three thousand sockets; children inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cores() -> tuple[set[int], set[int]]:
    """(for the target, for everything else); the same where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return ({usable[0]}, set(usable[1:])) if len(usable) > 1 else (set(usable), set(usable))


@dataclass
class Running:
    """One started program and all it starts. `stores`: servers that count as its store, wherever they hang."""

    process: subprocess.Popen[str]
    log: Path | None = None
    stores: list[int] = field(default_factory=list)

    @classmethod
    def start(
        cls, command: list[str], on: set[int], log: Path | None = None, env: dict[str, str] | None = None
    ) -> Running:
        """`log` None: standard output is a pipe, for who speaks to it."""
        output = log.open("ab") if log else None
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if log else subprocess.PIPE,
                stdout=output or subprocess.PIPE,
                stderr=output,
                text=True,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        finally:
            if output:
                output.close()
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, on)  # before it has children, who inherit it
        return cls(process, log)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log else ""

    def parts(self) -> Iterator[tuple[str, int]]:
        """("store" | "worker" | "main", process id) of each process alive."""
        seen: set[int] = set()
        for pid in [*self.stores, *_tree(self.process.pid)]:
            if pid in seen:
                continue
            seen.add(pid)
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                store = pid in self.stores or b"valkey-server" in line
                yield "store" if store else "worker" if b"quotapool.app.worker" in line else "main", pid

    def move_stores(self, on: set[int]) -> None:
        """An embedded store began where its proxy is: there each would wake the other up in the middle of its work."""
        for part, pid in self.parts():
            for task in Path(f"/proc/{pid}/task").iterdir() if part == "store" else ():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task.name), on)

    def cpu(self) -> Tasks:
        """The scheduler's own count, kernel time included: not rounded to ticks."""
        tasks: Tasks = {}
        for part, pid in self.parts():
            for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    tasks[part, pid, int(file.parent.name)] = int(file.read_text().split()[0])
        return tasks

    def memory(self) -> dict[str, dict[str, float]]:
        """MiB by part: resident (shared pages counted in each process) and proportional (counted once)."""
        found: dict[str, dict[str, float]] = {}
        for part, pid in self.parts():
            mine = found.setdefault(part, {"rss": 0.0, "pss": 0.0, "processes": 0})
            with contextlib.suppress(OSError):
                mine["rss"] += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 2**20
                mine["processes"] += 1
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                mine["pss"] += int(rollup.partition("\nPss:")[2].split()[0]) / 1024
        return found

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to whatever of it is left after five seconds."""
        if self.process.poll() is not None:
            return
        everything = _tree(self.process.pid)
        if self.process.stdin:
            self.process.stdin.close()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
            return
        for pid in everything:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(5)


def spent_us(before: Tasks, after: Tasks) -> dict[str, float]:
    """Microseconds by part between two counts. A thread that ended in between is not seen any more."""
    spent: dict[str, float] = {}
    for task, count in after.items():
        spent[task[0]] = spent.get(task[0], 0.0) + (count - before.get(task, 0)) / 1e3
    return spent


def _tree(root: int) -> list[int]:
    """`root` and its descendants."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(file.parent.name))
    found, left = [], [root]
    while left:
        found.append(pid := left.pop())
        left += children.get(pid, [])
    return found


class Load:
    """`load.py`, which takes orders."""

    def __init__(self, on: set[int]) -> None:
        self.running = Running.start([sys.executable, str(HERE / "load.py")], on)

    def order(self, mode: str, **order: Any) -> dict[str, Any]:
        """Raises RuntimeError where the load itself could not be made."""
        stdin, stdout = self.running.process.stdin, self.running.process.stdout
        assert stdin
        assert stdout
        stdin.write(json.dumps({"mode": mode, **order}) + "\n")
        stdin.flush()
        answer = stdout.readline()
        said: dict[str, Any] = json.loads(answer) if answer else {"problem": "the load generator ended"}
        if "problem" in said:
            raise RuntimeError(said["problem"])
        return said


def wait_for(running: Running, port: int, key: str, seconds: float) -> None:
    """Until a chat completion is answered with 200. Raises RuntimeError."""
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hello"}]}'
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    deadline = time.monotonic() + seconds
    answer = b""
    while time.monotonic() < deadline and running.process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as probe:
            probe.settimeout(5)
            probe.sendall(head.encode() + body)
            answer = probe.recv(4096)
            if answer.startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.1)
    raise RuntimeError(f"not ready after {seconds:.0f} s: {answer[:300]!r} {running.said()[-600:]}")
