"""What a worker does not carry: each of these packages would take its memory once for every worker."""

from __future__ import annotations

import subprocess
import sys

# MiB: the price data, the HTTP server and client of the supervisor, and what only commands show.
HEAVY = {"genai_prices": 20, "aiohttp": 8, "typer": 4, "rich.console": 4, "pygments": 1}


def test_a_worker_imports_nothing_heavy_that_others_need():
    imported = f"import sys, quotapool.app.worker_process; print(sorted(set({list(HEAVY)}) & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
