"""Writes the Grafana dashboards of config/grafana.

    python packaging/grafana [DIRECTORY]

A test compares them, runs each of their queries in a real Prometheus, and holds them against Grafana's own schema.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import clients
import keys
import overview
import store_and_process

PAGES: Final = {
    "overview.json": overview.PAGE,
    "keys.json": keys.PAGE,
    "clients.json": clients.PAGE,
    "store-and-process.json": store_and_process.PAGE,
}


def main(directory: Path) -> None:
    for name, page in PAGES.items():
        (directory / name).write_text(page.text(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[2] / "config" / "grafana")
