"""Commands as the documents print them, for tests that run them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def section(page: str, heading: str) -> str:
    """What stands below a heading of docs/PAGE, up to the next one of any level; code may hold lines with `#`."""
    text = (DOCS / page).read_text()
    found = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)", mask(text), re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no heading {heading!r}"
    return text[found.start(1) : found.end(1)]


def mask(text: str) -> str:
    """The same length, without what could be a heading inside code."""
    return re.sub(r"^```.*?^```$", lambda block: block[0].replace("\n#", "\n "), text, flags=re.DOTALL | re.MULTILINE)


def blocks(page: str, heading: str, language: str = "sh") -> list[str]:
    """The blocks of code below a heading."""
    return re.findall(rf"^```{language}\n(.*?)^```$", section(page, heading), re.DOTALL | re.MULTILINE)


def run(block: str, directory: Path, *, timeout: float = 30, **environment: str) -> subprocess.CompletedProcess[str]:
    """A block as a reader pastes it, in `directory`; a command that fails ends it. Raises AssertionError."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done
