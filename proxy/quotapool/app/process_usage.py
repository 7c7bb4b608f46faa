"""What our processes use, as Linux counts it: memory, processor time, open files. Elsewhere nothing is shown."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quotapool.observe.metrics import SUPERVISOR, WORKER, PoolMetrics

_TICKS: Final = os.sysconf("SC_CLK_TCK")  # of processor time, a second
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")  # bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process since its start: resident memory in bytes, processor time in seconds, open descriptors."""

    memory: int
    cpu_s: float
    files: int


def usage_of(pid: int, proc: Path = Path("/proc")) -> Usage | None:
    """None if there is no such process, or it cannot be seen."""
    try:
        # The second field is the program's name in parentheses, which may hold blanks; proc(5) counts from 1.
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        pages = int((proc / str(pid) / "statm").read_text().split()[1])
        with os.scandir(proc / str(pid) / "fd") as entries:
            files = sum(1 for _ in entries)
    except (OSError, IndexError):
        return None
    return Usage(pages * _PAGE, (int(fields[11]) + int(fields[12])) / _TICKS, files)


class ProcessUsage:
    """Shows the supervisor's own use, and that of the workers together, in `metrics`."""

    def __init__(self, metrics: PoolMetrics) -> None:
        self._metrics = metrics
        self._cpu_s: dict[int, float] = {}  # of each process, as it was seen last

    def show(self, workers: Sequence[int]) -> None:
        """At a scrape, in a thread: thousands of open files take milliseconds. `workers`: their process ids."""
        ours = os.getpid()
        found = {pid: usage for pid in (ours, *workers) if (usage := usage_of(pid)) is not None}
        if not found:
            return
        self._count_cpu(ours, {pid: usage.cpu_s for pid, usage in found.items()})
        of_workers = [usage for pid, usage in found.items() if pid != ours]
        memory: dict[str, float] = {WORKER: sum(usage.memory for usage in of_workers)}
        files: dict[str, float] = {WORKER: max((usage.files for usage in of_workers), default=0)}
        if ours in found:
            memory[SUPERVISOR], files[SUPERVISOR] = found[ours].memory, found[ours].files
        self._metrics.memory.show(memory)
        self._metrics.open_files.show(files)
        self._metrics.open_files_limit.set(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def _count_cpu(self, ours: int, now: Mapping[int, float]) -> None:
        """Only what was used since the last scrape, so that a worker's end does not take its time away."""
        for pid, cpu_s in now.items():
            used = cpu_s - self._cpu_s.get(pid, 0.0)
            self._metrics.cpu[SUPERVISOR if pid == ours else WORKER].inc(max(0.0, used))
        self._cpu_s = dict(now)
