"""What `make wheels` asks of a wheel that it has installed: that it is the right one, and that it serves.

    python -m tests.scenarios.installed compiled
    python -m tests.scenarios.installed "pure Python"

Takes nothing but the run-time requirements: no pytest, no SDK. Raises AssertionError if something is wrong.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import quotapool

from tests.fakes.processes import Simulator, fetch, pool_config, start_proxy_process

LISTED = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["tool"]["quotapool"]["compiled"]
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


def is_of_kind(kind: str) -> str:
    """What `quotapool --version` says."""
    package = Path(quotapool.__file__).parent
    assert package.is_relative_to(sys.prefix), f"not the installed one: {package}"
    names = [path.relative_to(package).as_posix() for path in package.rglob("*.so")]
    assert sorted(names) == [name.removesuffix(".py") + EXTENSION_SUFFIXES[0] for name in LISTED if kind == "compiled"]
    program = Path(sys.executable).with_name("quotapool")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    assert f"({kind}, " in said, f"not {kind}: {said}"
    return said


def serves() -> None:
    """An answer, a stream and what they were counted as."""
    simulator = Simulator.start(2)
    try:
        with tempfile.TemporaryDirectory(prefix="qp-", dir="/tmp") as directory:
            proxy = start_proxy_process(Path(directory), pool_config(simulator))
            try:
                status, text = fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)
                assert (status, '"usage"' in text) == (200, True), text
                status, text = fetch(f"{proxy.base_url}/chat/completions", method="POST", body={**CHAT, "stream": True})
                assert (status, text.endswith("data: [DONE]\n\n")) == (200, True), text
                assert proxy.total("quotapool_requests_total", status="200") == 2, proxy.log()
                assert proxy.stop() == 0, proxy.log()
            finally:
                proxy.process.kill()
                proxy.process.wait()
    finally:
        simulator.stop()


if __name__ == "__main__":
    version = is_of_kind(sys.argv[1])
    serves()
    print(f"{version}: serves")
