"""What workers count survives them, adds up exactly, and is never half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram, values
from prometheus_client.parser import text_string_to_metric_families
from quotapool.observe.exposition import encoded
from quotapool.observe.shared_text import shared_text
from quotapool.observe.shared_values import SlotTakenError, forget_gauges, install, prepare


@pytest.fixture(autouse=True)
def _library_as_it_was(monkeypatch):
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    prepare(tmp_path / "metrics")
    return tmp_path / "metrics"


def scrape(directory: Path) -> dict[tuple[str, ...], float]:
    """(sample name, label values ...) -> value, read from the text that Prometheus reads."""
    families = text_string_to_metric_families(encoded(shared_text(directory)).decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


WORKER = """
    import sys
    from pathlib import Path
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from quotapool.observe.shared_values import install
    install(Path(sys.argv[1]), sys.argv[2])
    registry = CollectorRegistry()
    done = Counter("done_total", "d", ["who"], registry=registry).labels("all")
    busy = Gauge("busy", "b", registry=registry, multiprocess_mode="livesum")
    took = Histogram("took_seconds", "t", buckets=(1.0, 5.0), registry=registry)
"""


def start(directory: Path, slot: str, then: str) -> subprocess.Popen[str]:
    program = textwrap.dedent(WORKER) + textwrap.dedent(then)
    return subprocess.Popen([sys.executable, "-c", program, str(directory), slot], stdout=subprocess.PIPE, text=True)


def test_two_workers_counts_add_up_exactly(directory):
    count = """
        for i in range(20000):
            done.inc(); busy.inc(); took.observe(0.5 if i % 4 else 3)
        print("done", flush=True); sys.stdin.read()
    """
    workers = [start(directory, slot, count) for slot in ("0", "1")]
    for worker in workers:
        assert worker.wait(30) == 0
    found = scrape(directory)
    assert found["done_total", "all"] == 40_000
    assert found["busy",] == 40_000
    assert found["took_seconds_bucket", "1.0"] == 30_000
    assert found["took_seconds_bucket", "5.0"] == 40_000
    assert found["took_seconds_count",] == 40_000
    assert found["took_seconds_sum",] == 30_000 * 0.5 + 10_000 * 3


def test_a_killed_worker_loses_nothing_and_its_replacement_goes_on_counting(directory):
    # Given a worker that tells after each count how far it is, and is killed without warning
    endless = """
        n = 0
        while True:
            done.inc(); busy.set(7); n += 1
            sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
    """
    told = 0
    for _ in range(3):
        before = scrape(directory).get(("done_total", "all"), 0.0)
        worker = start(directory, "0", endless)
        lines = [worker.stdout.readline() for _ in range(500)]
        os.kill(worker.pid, signal.SIGKILL)
        last = [*lines, *worker.stdout][-1]
        worker.wait(10)
        # Then everything it told is there, and at most the one count it had no time to tell
        grown = scrape(directory)["done_total", "all"] - before
        assert grown - int(last) in {0, 1}
        told += int(last)
    assert told <= scrape(directory)["done_total", "all"] <= told + 3


def test_a_slot_has_one_writer_and_an_exited_one_does_not_keep_it(directory):
    worker = start(directory, "0", "print('here', flush=True)\nimport time; time.sleep(60)")
    worker.stdout.readline()
    with pytest.raises(SlotTakenError):
        install(directory, "0")
    worker.kill()
    worker.wait(10)
    install(directory, "0").close()


def test_gauges_are_about_running_workers_only(directory):
    for slot in ("0", "1"):
        assert start(directory, slot, "busy.set(5); done.inc()").wait(30) == 0
    assert scrape(directory)["busy",] == 10
    forget_gauges(directory, "1")
    assert scrape(directory)["busy",] == 5
    # a replacement starts its gauges anew, not where the dead one left them
    install(directory, "0").close()
    assert ("busy",) not in scrape(directory)
    assert scrape(directory)["done_total", "all"] == 2


def test_a_new_supervisor_starts_at_zero(directory):
    assert start(directory, "0", "done.inc()").wait(30) == 0
    prepare(directory)
    assert scrape(directory) == {}


def test_counts_stay_right_while_a_file_outgrows_its_first_size(directory, monkeypatch):
    monkeypatch.setattr("quotapool.observe.shared_values._SIZES", {"counter": 4096})
    slot = install(directory, "0")
    many = Counter("many_total", "m", ["n"], registry=None)
    first = many.labels("first")
    for n in range(3000):  # about 90 bytes each: far beyond 64 KiB
        many.labels(str(n)).inc()
        first.inc()
    found = scrape(directory)
    slot.close()
    assert found["many_total", "first"] == 3000
    assert {found["many_total", str(n)] for n in range(3000)} == {1.0}
    # and whoever reopens the slot finds them all
    slot = install(directory, "0")
    again = Counter("many_total", "m", ["n"], registry=None)
    again.labels("first").inc(5)
    again.labels("2999").inc(5)
    slot.close()
    assert scrape(directory)["many_total", "first"] == 3005
    assert scrape(directory)["many_total", "2999"] == 6


def test_a_series_written_halfway_is_never_seen(directory):
    # Given a process that died after it wrote an entry and before it published it
    slot = install(directory, "0")
    Counter("sound_total", "s", registry=None).inc(3)
    slot.close()
    file = directory / "counter_0.db"
    used = int.from_bytes(file.read_bytes()[:4], sys.byteorder)
    with file.open("r+b") as raw:
        raw.seek(used)
        raw.write(b"\xff" * 40)
    # Then a scrape does not see it and the next owner writes over it
    assert scrape(directory) == {("sound_total",): 3.0}
    slot = install(directory, "0")
    Counter("next_total", "n", registry=None).inc()
    slot.close()
    assert scrape(directory) == {("sound_total",): 3.0, ("next_total",): 1.0}


def test_a_damaged_file_costs_its_counts_and_nothing_else(directory):
    (directory / "counter_0.db").write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\x00" + b"x" * 100)
    slot = install(directory, "0")
    Counter("fresh_total", "f", registry=None).inc()
    slot.close()
    assert scrape(directory) == {("fresh_total",): 1.0}


def test_a_full_disk_stops_new_series_and_not_the_worker(directory):
    # Given a worker whose files may not grow beyond 100,000 bytes, and series for far more than that
    worker = start(
        directory,
        "0",
        """
        import resource
        done.inc()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        many = Counter("many_total", "m", ["n"], registry=registry)
        for n in range(3000):
            many.labels(str(n)).inc()
        Gauge("late", "l", registry=registry, multiprocess_mode="livemax").set(1)
        done.inc()
        print("alive")
        """,
    )
    assert worker.communicate(timeout=300)[0] == "alive\n"
    found = scrape(directory)
    assert found["done_total", "all"] == 2
    assert found["many_total", "0"] == 1
    assert ("many_total", "2999") not in found
    assert ("late",) not in found


def test_the_supervisor_may_scrape_at_any_moment_of_a_workers_start(directory):
    workers = [start(directory, str(slot), "done.inc(); took.observe(1)") for slot in range(2)]
    while any(worker.poll() is None for worker in workers):
        scrape(directory)  # I expect no error, whatever is half there
    assert scrape(directory)["done_total", "all"] == 2


@pytest.mark.parametrize("name", ["", "a_b", "../x", "a.b"])
def test_a_slot_name_the_library_would_misread_is_refused(directory, name):
    with pytest.raises(ValueError, match="letters and digits"):
        install(directory, name)


def test_a_time_stamp_and_a_set_reach_the_file(directory):
    slot = install(directory, "0")
    gauge = Gauge("level", "l", registry=None, multiprocess_mode="livemax")
    gauge.set(-2.5)
    assert gauge._value.get() == -2.5
    Histogram("empty_seconds", "e", registry=None, buckets=(1.0,))
    slot.close()
    found = scrape(directory)
    assert found["level",] == -2.5
    assert found["empty_seconds_count",] == 0
