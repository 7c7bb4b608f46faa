"""The metrics directory is removed with its proxy, and a killed proxy's when the next one starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from quotapool.observe.metrics_dir import PREFIX, metrics_dir

HOLD = """
import sys, time
from quotapool.observe.metrics_dir import metrics_dir
with metrics_dir() as made:
    (made / "counter").write_text("1")
    print(made, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def holder() -> tuple[subprocess.Popen[str], Path]:
    """Another proxy, with its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_removed_with_its_proxy(place):
    with metrics_dir() as made:
        assert made.parent == place
        assert made.stat().st_mode & 0o777 == 0o700
    assert list(place.iterdir()) == []


def test_a_killed_proxys_is_removed_when_the_next_one_starts(place):
    process, left = holder()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (left / "counter").exists()
    with metrics_dir() as made:
        assert [path.name for path in place.iterdir()] == [made.name]


def test_a_running_proxys_stays(place):
    process, theirs = holder()
    with metrics_dir():
        assert (theirs / "counter").exists()
    process.communicate()
    assert process.returncode == 0
    assert list(place.iterdir()) == []


def test_nothing_else_is_touched(place):
    others = place / "precious"
    others.mkdir()
    (others / "in-use").touch()
    (place / f"{PREFIX}link").symlink_to(others)
    (place / f"{PREFIX}file").touch()
    (place / f"{PREFIX}being-made").mkdir()
    before = sorted(place.rglob("*"))
    with metrics_dir():
        pass
    assert sorted(place.rglob("*")) == before
