"""The benchmark's own promises: its arithmetic, its upstream and load, and a run of all its parts in miniature.

Nothing here says how fast anything is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.rig.plots import write
from benchmarks.rig.processes import HERE, Load, Running, cores, spent_us
from benchmarks.rig.report import Figures, markdown, plain, tables

SCRIPT = HERE.parent / "side_by_side.py"
SAMPLES = [
    {"target": "direct", "round": 0, "p50_us": 50.0, "errors": 0},
    {"target": "aiohttp", "round": 0, "cpu_us": 100.0, "p50_us": 250.0, "errors": 0},
    {"target": "all-on", "round": 0, "cpu_us": 150.0, "p50_us": 550.0, "errors": 0},
    {"target": "direct", "round": 1, "p50_us": 100.0, "errors": 0},
    {"target": "aiohttp", "round": 1, "cpu_us": 300.0, "p50_us": 900.0, "errors": 0},
    {"target": "all-on", "round": 1, "cpu_us": 600.0, "p50_us": 1100.0, "errors": 2},
    {"target": "all-on", "round": 2, "cpu_us": 5000.0, "errors": 0},  # a round in which nobody else was measured
]


# ---- arithmetic


def test_a_ratio_is_taken_within_each_round_and_only_then_is_the_median():
    ratio = Figures(SAMPLES).ratio("all-on", "cpu_us", "aiohttp")

    assert ratio is not None
    # 150/100 and 600/300; of the medians over the rounds it would be 600/200.
    assert (ratio.middle, ratio.least, ratio.most) == (1.75, 1.5, 2.0)


def test_added_latency_is_what_the_same_round_has_over_no_proxy():
    added = Figures(SAMPLES).added("all-on", "p50_us")

    assert added is not None
    assert (added.middle, added.least, added.most) == (750.0, 500.0, 1000.0)


def test_errors_of_all_rounds_are_shown_and_what_was_not_measured_is_a_dash():
    found = tables(Figures(SAMPLES), {"all-on": {"idle": 140.0}}, {}, "aiohttp")
    row = next(line for line in plain(found[0]).splitlines() if line.startswith("all-on"))

    assert row.split()[-1] == "2"
    assert "| all-on | 140 | - |" in markdown(found[3])


def test_cpu_is_added_up_by_part_and_a_thread_that_began_in_between_counts_from_zero():
    before = {("worker", 1, 1): 5_000, ("worker", 1, 2): 1_000, ("store", 9, 9): 70_000}
    after = {("worker", 1, 1): 8_000, ("worker", 1, 3): 2_000, ("store", 9, 9): 71_000}

    assert spent_us(before, after) == {"worker": 5.0, "store": 1.0}


def test_the_pictures_are_xml_with_a_row_for_each_proxy(tmp_path: Path):
    files = write(Figures(SAMPLES), tmp_path)

    assert [file.name for file in files] == ["cpu-per-request.svg", "added-latency.svg"]  # no streams were measured
    words = {element.text for element in ET.fromstring(files[0].read_text()).iter()}
    assert {"aiohttp", "all-on"} <= words


# ---- its processes


@pytest.fixture
def load():
    started = Load(cores()[1])
    yield started
    started.running.stop()


@pytest.fixture
def port():
    upstream = Running.start([sys.executable, str(HERE / "upstream.py")], cores()[1])
    assert upstream.process.stdout
    yield int(upstream.process.stdout.readline())
    upstream.stop()
    assert upstream.process.poll() is not None


def test_the_load_sends_the_requests_it_was_told_and_sees_each_event(load: Load, port: int):
    whole = load.order("whole", port=port, clients=3, requests=20)
    streams = load.order("streams", port=port, clients=2, requests=4, gap_ms=1, events=5)

    assert (whole["requests"], whole["errors"]) == (20, 0)
    # Of each stream: the role, five words, the end, the usage, and [DONE].
    assert (streams["requests"], streams["errors"], streams["events"]) == (4, 0, 4 * 9)
    assert 0 < streams["first_p50_us"] < streams["p50_us"]


def test_held_streams_stay_open_until_they_are_released(load: Load, port: int):
    assert load.order("hold", port=port, clients=30, gap_ms=1000, events=60) == {"open": 30}
    assert load.order("release") == {}


def test_a_load_that_cannot_be_made_is_a_problem_and_not_a_figure(load: Load):
    with pytest.raises(RuntimeError, match="ConnectionRefused"):
        load.order("whole", port=1, clients=1, requests=1)


def test_a_busy_process_is_seen_to_be_busy_and_a_waiting_one_is_not():
    busy = Running.start([sys.executable, "-c", "while True: pass"], cores()[0])
    idle = Running.start([sys.executable, "-c", "import time; time.sleep(60)"], cores()[1])
    try:
        time.sleep(0.5)  # their start is over
        before = busy.cpu(), idle.cpu()
        time.sleep(0.3)
        spent = [spent_us(*pair) for pair in zip(before, (busy.cpu(), idle.cpu()), strict=True)]
    finally:
        busy.stop()
        idle.stop()

    assert spent[0]["main"] > 10 * spent[1]["main"]
    assert busy.process.poll() is not None


def run(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"said": done.stdout}


def test_all_its_parts_work_together_and_say_what_they_skipped(tmp_path: Path):
    result, page = tmp_path / "run.json", tmp_path / "run.md"

    said = run(
        *("--only", "aiohttp,rolter,litellm,all-on-tcp,all-on-tls", "--rounds", "1"),
        *("--rolter", str(tmp_path / "none"), "--litellm", str(tmp_path / "none")),
        *("--seconds", "0.02", "--least", "20", "--warm-up", "32", "--single", "10", "--streams", "32", "--hold", "0"),
        *("--json", str(result), "--markdown", str(page), "--plots", str(tmp_path / "img")),
    )["said"]

    assert "skipped rolter: rolter is not installed" in said
    assert "skipped litellm: LiteLLM is not installed" in said
    samples = {sample["target"]: sample for sample in json.loads(result.read_text())["samples"]}
    assert set(samples) == {"direct", "aiohttp", "all-on-tcp", "all-on-tls"}
    assert all(sample["errors"] == 0 for sample in samples.values())
    for name in ("all-on-tcp", "all-on-tls"):  # a worker, what watches it, and a store whose part is told apart
        assert min(samples[name][part] for part in ("worker_us", "store_us", "event_us")) > 0
    assert "side_by_side.py --only aiohttp" in page.read_text()  # the figures come with their command
    assert len(list((tmp_path / "img").glob("*.svg"))) == 3
