"""Counts what a worker's event loop is given to do, and the calls that the interpreter makes.

Python imports a module of this name before it runs anything, so a worker counts when this folder is on its PYTHONPATH.
On SIGUSR1 it begins to count: the first time only what its loop does, then also calls, which makes it slow. On SIGUSR2
it writes what was counted into $TMPDIR/counts-<pid>.json.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_KINDS = {
    "create_task": "tasks",
    "create_future": "futures",
    "call_soon": "callbacks",
    "call_later": "timers",
    "call_at": "timers",
}
_CALLS = {"call": "calls of Python functions", "c_call": "calls of built-in functions"}


def _counted(method: Callable[..., Any], kind: str, counts: collections.Counter[str]) -> Callable[..., Any]:
    def counting(*args: Any, **named: Any) -> Any:
        counts[kind] += 1
        return method(*args, **named)

    return counting


def _count() -> None:
    import uvloop

    counts: collections.Counter[str] = collections.Counter()
    methods = {name: _counted(getattr(uvloop.Loop, name), kind, counts) for name, kind in _KINDS.items()}
    loop = type("Loop", (uvloop.Loop,), methods)
    uvloop.run.__kwdefaults__["loop_factory"] = loop

    begun = [0]

    def see(_frame: Any, event: str, _argument: Any) -> None:
        if event in _CALLS:
            counts[_CALLS[event]] += 1

    def begin(*_: Any) -> None:
        begun[0] += 1
        counts.clear()
        if begun[0] > 1:
            sys.setprofile(see)

    def write(*_: Any) -> None:
        sys.setprofile(None)
        file = Path(tempfile.gettempdir()) / f"counts-{os.getpid()}.json"
        file.with_suffix(".part").write_text(json.dumps(counts))
        file.with_suffix(".part").rename(file)

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, write)


if any(word.endswith("app.worker_process") for word in sys.orig_argv):
    _count()
