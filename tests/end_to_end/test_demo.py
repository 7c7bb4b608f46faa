"""`quotapool demo`, as somebody runs it who has just installed the package, whatever else is set."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.processes import fetch, wait_until

REAL_KEY = "sk-a-real-key-that-must-not-be-used"
START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def demo(place: Path, port: int, admin_port: int) -> Iterator[subprocess.Popen[str]]:
    """The command, with a real pool's variables around it and a forward proxy that is not there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "quotapool", "demo", "--port", str(port), "--admin-port", str(admin_port)],
        env=os.environ
        | {"TMPDIR": str(place), "OPENAI_API_KEYS": REAL_KEY, "QUOTAPOOL_UPSTREAM": "http://127.0.0.1:9"}
        | {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def told(process: subprocess.Popen[str]) -> str:
    """What it prints until it says that it serves, or ends."""
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if "Serving until Ctrl-C" in line:
            break
    return "".join(lines)


def counted(said: str, title: str, what: str) -> dict[str, int]:
    """Pairs `WORD NUMBER` or `NUMBER WORD` of a line, after `what`."""
    (line,) = [line for line in said.splitlines() if line.startswith(f"  {title} ")]
    pairs = [pair.split() for pair in line.partition(what)[2].split(", ")]
    return {word: int(number) for word, number in (sorted(pair, reverse=True) for pair in pairs)}


def test_it_shows_what_the_cache_saves_and_what_goes_upstream_all_the_same(tmp_path):
    port, admin_port = free_port(), free_port()
    with demo(tmp_path, port, admin_port) as process:
        said = told(process)
        # each of these went upstream
        assert sum(counted(said, "many at once", "attempts: ").values()) == 20
        again = counted(said, "the same again", "stream: ")
        assert (again.pop("miss"), sum(again.values())) == (1, 11)
        assert again["hit"] >= 8
        assert "4 texts, 3 of them embedded before: hit=3, miss=1" in said
        (line,) = [line for line in said.splitlines() if "saved by the cache" in line]
        saved = re.fullmatch(r"  saved by the cache +11 calls, ([\d,]+) tokens, \$(0\.\d+)", line)
        assert saved is not None, line

        (stats,) = re.findall(r"^  the cache +(.+)$", said, re.MULTILINE)

        def today() -> dict[str, Any]:
            command = [*shlex.split(stats), "--json"]
            return json.loads(subprocess.check_output(command, text=True, timeout=START_SECONDS))["today"]

        wait_until(lambda: today()["saved_requests"] == 11, "what was saved is in the store", START_SECONDS)
        sums = today()
        assert sums["hit"] + sums["coalesced"] == 11
        assert f"{sums['prompt_tokens'] + sums['completion_tokens']:,}" == saved[1]
        assert float(saved[2]) == pytest.approx(sums["usd"], abs=0.0001)
        assert "quotapool advise --config" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_shows_answers_and_a_key_that_runs_dry_serves_and_leaves_nothing_behind(tmp_path, number):
    port, admin_port = free_port(), free_port()
    with demo(tmp_path, port, admin_port) as process:
        said = told(process)
        assert "a stream" in said, said + (process.communicate()[1] if process.poll() is not None else "")
        assert "20 answers, no error" in said
        assert "4 active, 1 quarantined" in said
        (directory,) = tmp_path.glob("quotapool-demo-*")
        config = yaml.safe_load((directory / "quotapool.yaml").read_text())
        assert config["upstream"].startswith("http://127.0.0.1:")
        assert f"base_url=http://127.0.0.1:{port}/v1" in said
        status, text = fetch(f"http://127.0.0.1:{port}/v1/models")
        assert (status, "gpt-4o-mini" in text) == (200, True)
        log = (directory / "quotapool.log").read_text()

        process.send_signal(number)
        output, errors = process.communicate(timeout=START_SECONDS)

    assert (process.returncode, errors) == (0, "")
    assert "stopped" in output
    assert REAL_KEY not in said + output + log
    assert list(tmp_path.iterdir()) == []
    for closed in (port, admin_port, int(config["upstream"].rpartition(":")[2])):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", closed), timeout=5)


def test_a_port_in_use_is_said_with_the_option_that_helps(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with demo(tmp_path, port, free_port()) as process:
            assert told(process) == ""
            errors = process.stderr.read() if process.stderr is not None else ""
    assert process.returncode == 2
    assert errors.startswith(f"quotapool demo: port {port}: address already in use. Another one: --port ")
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_dies_ends_it_with_the_reason(tmp_path):
    port = free_port()
    with demo(tmp_path, port, free_port()) as process:
        told(process)
        (directory,) = tmp_path.glob("quotapool-demo-*")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        simulator = next(pid for pid in children if "simulator" in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(int(simulator), signal.SIGKILL)
        errors = process.communicate(timeout=START_SECONDS)[1]
    assert process.returncode == 2
    assert "the upstream has ended" in errors
    assert not directory.exists()
