"""Full-length runs: collected only when somebody names this folder (`make soak`). Shows each run's figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.conftest import start_proxy, start_simulator  # noqa: F401 - fixtures of the same name


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if any("soak" in argument for argument in config.args) else True
