"""Thirty thousand keys: started, scraped and reloaded, while health is answered at once and memory stays within the
formula of docs/operations.md."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.fakes.processes import RunningProxy, fetch, wait_until
from tests.soak.test_many_keys import resident_mb

COUNT = 30_000
MOST_LATE_S = 0.1
SUPERVISOR_MB = 1.5 * (90 + 0.006 * COUNT)
WORKER_MB = 1.5 * (75 + 0.006 * COUNT)


def latest_health(proxy: RunningProxy, work: Callable[[], object]) -> tuple[float, float]:
    """(seconds that `work` took, the longest that /healthz took meanwhile)."""
    waits: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            began = time.monotonic()
            assert fetch(f"{proxy.admin_url}/healthz")[0] == 200
            waits.append(time.monotonic() - began)

    looking = threading.Thread(target=look)
    looking.start()
    began = time.monotonic()
    work()
    took = time.monotonic() - began
    done.set()
    looking.join()
    return took, max(waits)


def test_thirty_thousand_keys_are_served_without_anything_being_late(start_proxy, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("".join(f"sk-proj-a-secret-of-a-large-pool-{n:08}\n" for n in range(COUNT)))
    proxy = start_proxy({"upstream": "http://127.0.0.1:9", "keys_file": str(keys)})

    scrapes = [latest_health(proxy, lambda: fetch(f"{proxy.admin_url}/metrics")) for _ in range(5)]
    assert min(seconds for seconds, _ in scrapes) < 1.0  # the best of five: what else the machine does only adds
    assert min(latest for _, latest in scrapes) < MOST_LATE_S
    assert proxy.total("quotapool_keys", state="active") == COUNT

    def reload() -> None:
        before = proxy.log().count("configuration reloaded")
        with keys.open("a") as file:
            file.write(f"sk-proj-one-more-secret-of-a-large-pool-{before}\nnot a secret\n")
        wait_until(lambda: proxy.log().count("configuration reloaded") > before, "it is reloaded")

    assert min(latest_health(proxy, reload)[1] for _ in range(3)) < MOST_LATE_S
    assert proxy.total("quotapool_keys", state="active") == COUNT + 3
    assert f"{keys}:{COUNT + 2}: secret: contains spaces" in proxy.log()

    assert resident_mb(proxy.process.pid) < SUPERVISOR_MB
    assert all(resident_mb(pid) < WORKER_MB for pid in proxy.worker_pids())
