"""What `make try-tools` asks of a wheel: that each way to install it ends in an answer, and how long that takes.

    python -m tests.scenarios.installers dist/quotapool-0.1.0-py3-none-any.whl

uvx, uv tool, pipx and pip, each with nothing kept from before: all requirements are resolved and loaded as they are for
a new user. Takes uv and pipx on the PATH, the package index, and nothing else: no pytest, no lock. Raises
AssertionError if something is wrong.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

INSTALL_SECONDS = 300


class Place:
    """A home for one tool, empty at first, and what it does there."""

    def __init__(self, root: Path, wheel: Path) -> None:
        self.root, self.wheel = root, wheel
        self.environment = {
            **{name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "SSL_CERT_FILE"}},
            **{name: value for name, value in os.environ.items() if name.startswith("PIP_") or "PROXY" in name.upper()},
            "HOME": str(root),
            "TMPDIR": str(root),
            "UV_PYTHON": sys.executable,
            "UV_PYTHON_DOWNLOADS": "never",
            "PIPX_DEFAULT_PYTHON": sys.executable,
            "PIPX_HOME": str(root / "pipx"),
            "PIPX_BIN_DIR": str(root / "bin"),
            "PIPX_MAN_DIR": str(root / "man"),
            "UV_TOOL_BIN_DIR": str(root / "bin"),
        }

    def run(self, *command: str | Path) -> str:
        """What it prints."""
        run = subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
        assert run.returncode == 0, f"{command}: {run.stdout}{run.stderr}"
        return run.stdout

    def first_answer(self, *program: str | Path) -> None:
        """`quotapool demo`, until its first answer came; then it ends cleanly."""
        ports = ["--port", str(free_port()), "--admin-port", str(free_port())]
        process = subprocess.Popen(
            [*map(str, program), "demo", *ports],
            env=self.environment,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "a chat" in line:
                    break
            assert "a chat" in lines[-1], "".join(lines)
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=60)[0]
        assert process.returncode == 0, rest

    def says_version(self, *program: str | Path) -> None:
        version = self.wheel.name.split("-")[1]
        said = self.run(*program, "--version")
        assert said.startswith(f"quotapool {version} (pure Python, "), said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def uvx(place: Place) -> None:
    place.says_version("uvx", "--from", place.wheel, "quotapool")


def uvx_demo(place: Place) -> None:
    place.first_answer("uvx", "--from", place.wheel, "quotapool")


def uv_tool(place: Place) -> None:
    place.run("uv", "tool", "install", place.wheel)
    place.says_version(place.root / "bin" / "quotapool")
    place.run("uv", "tool", "uninstall", "quotapool")
    assert not (place.root / "bin" / "quotapool").exists()


def pipx(place: Place) -> None:
    place.run("pipx", "install", place.wheel)
    place.says_version(place.root / "bin" / "quotapool")
    place.first_answer(place.root / "bin" / "quotapool")
    packed = {Path(name).name for name in zipfile.ZipFile(place.wheel).namelist() if "/share/man/man1/" in name}
    linked = {path.name for path in (place.root / "man").rglob("*.1")}
    assert linked == packed, f"man pages: {linked}, but the wheel has {packed}"
    place.run("pipx", "uninstall", "quotapool")
    assert not (place.root / "bin" / "quotapool").exists()


def pip(place: Place) -> None:
    place.run(sys.executable, "-m", "venv", place.root / "venv")
    python = place.root / "venv" / "bin" / "python"
    place.run(python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", place.wheel)
    place.run(python, "-m", "pip", "check")
    program = python.with_name("quotapool")
    place.says_version(program)
    place.first_answer(program)


WAYS = {
    "uvx --version": uvx,
    "uvx, first answer": uvx_demo,
    "uv tool install, uninstall": uv_tool,
    "pipx install, first answer, uninstall": pipx,
    "venv, pip install, first answer": pip,
}


def main() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background, and then in what is started too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    wheel = Path(sys.argv[1]).resolve()
    for tool in ("uv", "uvx", "pipx"):
        assert shutil.which(tool), f"{tool} is not here"
    for name, way in WAYS.items():
        with tempfile.TemporaryDirectory(prefix="qp-", dir="/tmp", ignore_cleanup_errors=True) as directory:
            began = time.monotonic()
            way(Place(Path(directory), wheel))
            print(f"{name:<40} {time.monotonic() - began:5.1f} s", flush=True)


if __name__ == "__main__":
    main()
