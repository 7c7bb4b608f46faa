"""Quotapool beside other proxies, in front of one upstream: CPU, latency and memory, in interleaved rounds.

    python benchmarks/side_by_side.py                                  # everything: five rounds, below ten minutes
    python benchmarks/side_by_side.py --only aiohttp,all-on --rounds 3
    python benchmarks/side_by_side.py --json run.json --markdown run.md --plots docs/img
    python benchmarks/side_by_side.py --from run.json --markdown run.md     # the tables of an earlier run once more

All targets are started once and stay; each round measures one after the other, every second round backwards. What is
measured, and what the figures are worth, is in docs/performance.md. Everything stays on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from quotapool.store.valkey_process import valkey_binary
from rig import certificates, plots, report
from rig.processes import HERE, Load, Running, cores, free_port, raise_file_limit, spent_us, wait_for
from rig.targets import ALL, REFERENCE, Rig, Skipped, Target

EVENTS, GAP_MS, CLIENTS = 50, 10, 32
START_S, MOST_FIRST_S = 60.0, 60.0
ROUNDS_OF_KEYS = 3  # requests for each key before the first round: by chance 95 % of the keys have had one by then
SETTLE_S = 0.15  # what a request leaves behind (a settle, log lines) is done within this time


def store(directory: Path, port: int) -> Running:
    """A Valkey of its own for those who reach theirs over TCP, with the persistence of the embedded one."""
    command = [str(valkey_binary()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--loglevel", "warning"]
    return Running.start(command, cores()[1], directory / "log")


def upstream(files: tuple[Path, ...] = ()) -> tuple[Running, int]:
    running = Running.start([sys.executable, str(HERE / "upstream.py"), *map(str, files)], cores()[1])
    assert running.process.stdout
    return running, int(running.process.stdout.readline())


class Bench:
    """The targets that run, and the load on them."""

    def __init__(self, given: argparse.Namespace, directory: Path, stack: contextlib.ExitStack) -> None:
        self.given = given
        self.directory = directory
        self.stack = stack
        self.running: dict[str, tuple[Target, Running | None, int]] = {}
        self.memory: dict[str, dict[str, Any]] = {}
        self.skipped: dict[str, str] = {}
        self.samples: list[report.Sample] = []

    def start(self) -> None:
        given = self.given
        ca_file, *pair = certificates.make(self.directory)
        plain, port = upstream()
        self.stack.callback(plain.stop)
        secret, port_tls = upstream(tuple(pair))
        self.stack.callback(secret.stop)
        (self.directory / "store").mkdir()
        store_port = free_port()
        shared = store(self.directory / "store", store_port)
        self.stack.callback(shared.stop)
        self.load = Load(cores()[1])
        self.stack.callback(self.load.running.stop)
        rig = Rig(self.directory, port, port_tls, ca_file, store_port, shared.process.pid, given.rolter, given.litellm)
        wanted = set(given.only.split(",")) if given.only else {target.name for target in ALL}
        for target in ALL:
            if target.name in wanted | {"direct"}:
                self._start(target, rig)

    def _start(self, target: Target, rig: Rig) -> None:
        if target.start is None:
            self.running[target.name] = target, None, rig.upstream
            return
        place, port = self.directory / target.name, free_port()
        place.mkdir()
        try:
            running = target.start(rig, place, port)
            self.stack.callback(running.stop)
            wait_for(running, port, target.key, START_S)
            running.move_stores(cores()[1])
        except (Skipped, RuntimeError, OSError) as problem:
            self.skipped[target.name] = str(problem)
            print(f"skipped {target.name}: {problem}", flush=True)
            return
        time.sleep(SETTLE_S)
        self.memory[target.name] = {
            "idle": _resident(running.memory()),
            "worker_idle": _per_worker(running.memory()),
        }
        self.running[target.name] = target, running, port
        left, until = ROUNDS_OF_KEYS * target.keys * (not self.given.cold), time.monotonic() + MOST_FIRST_S
        while left > 0 and time.monotonic() < until:
            self.load.order("whole", port=port, key=target.key, clients=CLIENTS, requests=min(left, 1_000))
            left -= 1_000

    def rounds(self) -> None:
        """As many as were asked for, or as the time allows."""
        deadline, longest = self.given.started + self.given.budget_s - 60 * bool(self.given.hold), 0.0
        for turn in range(self.given.rounds):
            began = time.monotonic()
            if began + longest > deadline:
                print(f"{turn} rounds: the time for more is up", flush=True)
                break
            names = list(self.running)[:: -1 if turn % 2 else 1]
            for name in names:
                sample = {"target": name, "round": turn}
                try:
                    sample |= self.measure(*self.running[name])
                except RuntimeError as problem:
                    sample |= {"problem": str(problem), "errors": 1}
                self.samples.append(sample)
                shown = {k: round(v, 1) for k, v in sample.items() if k in {"cpu_us", "event_us", "p50_us", "rps"}}
                print(f"round {turn} {name:13} {shown}", flush=True)
            longest = max(longest, time.monotonic() - began)

    def measure(self, target: Target, running: Running | None, port: int) -> report.Sample:
        """One round of one target. CPU is counted around a number of requests, so that idle time costs nothing."""
        given, to = self.given, {"port": port, "key": target.key, "unique": target.unique}
        warm = self.load.order("whole", clients=CLIENTS, requests=given.warm_up, **to)
        number = max(given.least, int(given.seconds * warm["requests"] / warm["seconds"]))
        said, cpu = self._around(running, "whole", clients=CLIENTS, requests=number, **to)
        sample: report.Sample = {
            "requests": number,
            "errors": said["errors"] + warm["errors"],
            "rps": said["requests"] / said["seconds"],
        }
        if cpu is not None:
            sample |= {f"{part}_us": cpu[part] / number for part in ("worker", "main", "store") if part in cpu}
            sample["cpu_us"] = (cpu.get("worker", 0.0) + cpu.get("main", 0.0)) / number
        one = self.load.order("whole", clients=1, requests=given.single, **to)
        sample |= {name: one[name] for name in ("p50_us", "p99_us")}
        first = self.load.order("streams", clients=1, requests=max(5, given.single // 8), gap_ms=1, events=2, **to)
        sample |= {"first_p50_us": first["first_p50_us"], "first_p99_us": first["first_p99_us"]}
        said, cpu = self._around(
            running, "streams", clients=CLIENTS, requests=given.streams, gap_ms=GAP_MS, events=EVENTS, **to
        )
        sample["errors"] += one["errors"] + first["errors"] + said["errors"]
        if cpu is not None and said["events"]:
            sample["event_us"] = (cpu.get("worker", 0.0) + cpu.get("main", 0.0)) / said["events"]
            sample["event_store_us"] = cpu["store"] / said["events"] if "store" in cpu else None
        return sample

    def _around(
        self, running: Running | None, mode: str, **order: Any
    ) -> tuple[dict[str, Any], dict[str, float] | None]:
        if running is None:
            return self.load.order(mode, **order), None
        before = running.cpu()
        said = self.load.order(mode, **order)
        time.sleep(SETTLE_S)
        return said, spent_us(before, running.cpu())

    def hold(self) -> None:
        """Memory after the load, and with many streams open at once."""
        for name, (target, running, port) in self.running.items():
            if running is None:
                continue
            memory = self.memory[name]
            before = running.memory()
            memory["after"] = _resident(before)
            if not target.holds or not self.given.hold:
                continue
            try:
                said = self.load.order(
                    "hold", clients=self.given.hold, gap_ms=1000, events=60, port=port, key=target.key
                )
                held = running.memory()
                memory |= {"held": _resident(held), "worker_held": _per_worker(held), "streams": said["open"]}
                memory["kib_per_stream"] = (_own(held) - _own(before)) * 1024 / max(1, said["open"])
                self.load.order("release")
            except RuntimeError as problem:
                print(f"{name}: {problem}", flush=True)
            print(f"held {name:13} {memory}", flush=True)


def _resident(memory: dict[str, dict[str, float]]) -> float:
    return sum(part["rss"] for name, part in memory.items() if name != "store")


def _own(memory: dict[str, dict[str, float]]) -> float:
    return sum(part["pss"] for name, part in memory.items() if name != "store")


def _per_worker(memory: dict[str, dict[str, float]]) -> float | None:
    return memory["worker"]["rss"] / memory["worker"]["processes"] if "worker" in memory else None


def installed(program: str) -> Path | None:
    """Beside this Python's own environment, where `make bench` puts it, or on the PATH."""
    beside = Path(sys.prefix, program, "bin", program)
    found = shutil.which(str(beside)) or shutil.which(program)
    return Path(found) if found else None


def about(given: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """Where and how the figures came about."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=HERE, capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "benchmarks/side_by_side.py", *given.words]),
        "commit": commit.stdout.strip(),
        "machine": f"{model or platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        "python": platform.python_version(),
        "load_average": f"{os.getloadavg()[1]:.1f}",
        "rounds": 1 + max((s["round"] for s in bench.samples), default=-1),
        "skipped": bench.skipped,
        "notes": {target.name: target.note for target in ALL},
    }


def show(run: dict[str, Any], given: argparse.Namespace) -> None:
    figures = report.Figures(run["samples"])
    found = report.tables(figures, run["memory"], run["about"]["notes"], REFERENCE)
    where = run["about"]
    head = (
        f"{where['date']}, commit {where['commit']}, {where['rounds']} rounds; {where['machine']}; "
        f"Python {where['python']}; load average over the last five minutes {where['load_average']}"
    )
    missing = [f"Not measured: {name}: {why}" for name, why in where["skipped"].items()]
    print("\n".join(["", head, *missing, *map(report.plain, found)]))
    if given.markdown:
        parts = [head + ".", *missing, f"Command: `{where['command']}`", *map(report.markdown, found)]
        given.markdown.write_text("\n\n".join(parts), encoding="utf-8")
    if given.plots:
        for picture in plots.write(figures, given.plots):
            print(f"wrote {picture}")


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="names of targets, with commas between: " + ", ".join(t.name for t in ALL))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget-s", type=float, default=540, help="no round begins that would not end within this")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement of requests")
    parser.add_argument("--least", type=int, default=500, help="requests of one measurement at least")
    parser.add_argument("--warm-up", type=int, default=300, help="requests before each measurement")
    parser.add_argument("--cold", action="store_true", help="do not use each key before the first round")
    parser.add_argument("--single", type=int, default=300, help="requests by one client")
    parser.add_argument("--streams", type=int, default=64, help="streams of one measurement")
    parser.add_argument("--hold", type=int, default=1000, help="streams held at once; 0: none")
    for program in ("rolter", "litellm"):
        parser.add_argument(f"--{program}", type=Path, default=installed(program), help="it, if it is elsewhere")
    parser.add_argument("--json", type=Path, help="write the samples there")
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    parser.add_argument("--plots", type=Path, help="write SVG pictures into this folder")
    parser.add_argument("--from", dest="earlier", type=Path, help="measure nothing, show this run again")
    given = parser.parse_args(words)
    given.words = words
    given.started = time.monotonic()
    return given


def main(words: list[str]) -> int:
    given = arguments(words)
    if given.earlier:
        show(json.loads(given.earlier.read_text(encoding="utf-8")), given)
        return 0
    raise_file_limit()
    with contextlib.ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="qp-bench-", ignore_cleanup_errors=True)
        directory = Path(stack.enter_context(folder))
        bench = Bench(given, directory, stack)
        bench.start()
        bench.rounds()
        bench.hold()
    run = {"about": about(given, bench), "samples": bench.samples, "memory": bench.memory}
    if given.json:
        given.json.write_text(json.dumps(run, indent=1), encoding="utf-8")
    show(run, given)
    return 1 if any(sample.get("errors") for sample in bench.samples) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
