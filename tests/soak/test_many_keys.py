"""A pool of thousands: imported and checked in one command in under a minute, in memory that does not grow with it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.processes import RunningProxy, fetch, wait_until

COUNT = 5_000
MOST_S = 60.0
MOST_GROWTH_MB = 30  # between a quarter of the import and its end


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def run(proxy: RunningProxy, *arguments: str) -> tuple[int, str, float, list[float]]:
    """(exit code, output, seconds, memory as it went) of one command."""
    command = [sys.executable, "-m", "quotapool", *arguments, "--config", str(proxy.config_file)]
    begun, memory = time.monotonic(), []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None:
        try:
            memory.append(resident_mb(process.pid))
        except (OSError, StopIteration):  # it is just ending
            break
        time.sleep(0.2)
    output, _ = process.communicate(timeout=MOST_S)
    return process.returncode, output, time.monotonic() - begun, memory


def states(proxy: RunningProxy) -> dict[str, str]:
    token = (proxy.state_dir / "admin-token").read_text().strip()
    _, text = fetch(f"{proxy.admin_url}/admin/keys", headers={"Authorization": f"Bearer {token}"})
    return {row["id"]: row["state"] for row in json.loads(text)["keys"]}


def test_five_thousand_keys_are_imported_and_checked_in_a_minute_and_outlive_a_restart(
    start_simulator, start_proxy, tmp_path
):
    simulator = start_simulator(COUNT)
    config = {"upstream": simulator.url, "keys": []}
    proxy = start_proxy(config)
    file = tmp_path / "keys"
    file.write_text("".join(f"{secret}\n" for secret in simulator.secrets))

    code, output, seconds, memory = run(proxy, "keys", "import", str(file))
    assert (code, output) == (0, f"{COUNT:,} lines: {COUNT:,} added\n")
    assert seconds < MOST_S
    assert memory[-1] - memory[len(memory) // 4] < MOST_GROWTH_MB
    wait_until(lambda: len(states(proxy)) == COUNT, "the running proxy has them", 10)

    code, output, seconds, _ = run(proxy, "check")
    assert code == 0
    assert seconds < MOST_S
    assert len(output.splitlines()) < 10  # nothing is wrong, so there is little to read
    assert f"{COUNT} of {COUNT} keys usable" in output

    one = min(states(proxy))
    run(proxy, "keys", "disable", one)
    before = states(proxy)
    assert before[one] == "disabled"
    proxy.stop()
    again = start_proxy({**config, "state_dir": proxy.config["state_dir"]})
    assert states(again) == before
