"""One hostile client at full speed, or a hostile upstream: what others notice. `SOAK_SECONDS` (60, at most) each.

Others are one HTTP client with ten requests a second and one session with ten events a second. Their p99 stays within
three times that of the quiet time before, and the worker's memory within 64 MiB. Prints a table.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import aiohttp
import pytest

from tests.fakes.processes import RunningProxy, Simulator, pool_config
from tests.fakes.running import chat_body
from tests.scenarios.hostile_client import ATTACKS
from tests.soak.test_websockets import resident_kib

SECONDS = min(60.0, float(os.environ.get("SOAK_SECONDS", "60")))
APART_S = 0.1
PATIENCE_S = 10.0
MOST_TIMES, MOST_GROWTH_MIB = 3.0, 64.0
ANN, MALLORY = "ann-client-key-0123456789", "mallory-client-key-0123456789"
CLIENTS = [{"id": "ann", "key": ANN}, {"id": "mallory", "key": MALLORY}]
OTHERS_MODELS = ("gpt-4o-mini", "gpt-realtime")
OPTIONS = {
    "limits": {"default": {"rpm": 1_000_000, "tpm": 10**9}},
    "queue": {"max_wait": "1s"},
    "drain_timeout": 1,
}
COLUMNS = "{:14} {:>8} {:>9} {:>9} {:>9} {:>9} {:>7} {:>8} {:>8}"


@dataclass
class Figures:
    """What the others saw for a while. Times in seconds; what had no answer counts as `PATIENCE_S`."""

    http: list[float] = field(default_factory=list)
    session: list[float] = field(default_factory=list)
    failed: int = 0
    most_kib: int = 0

    def p99_ms(self, kind: str) -> float:
        times = sorted(getattr(self, kind))
        return round(1000 * times[min(len(times) - 1, int(len(times) * 0.99))], 1) if times else PATIENCE_S * 1000


async def observe(proxy: RunningProxy, seconds: float) -> Figures:
    """A well-behaved client's view for so long."""
    figures, until = Figures(), time.monotonic() + seconds
    (worker,) = proxy.worker_pids()
    headers = {"Authorization": f"Bearer {ANN}"}

    async def one(http: aiohttp.ClientSession) -> None:
        began = time.monotonic()
        try:
            async with http.post(f"{proxy.base_url}/chat/completions", json=chat_body(max_tokens=5)) as answer:
                await answer.read()
                figures.failed += answer.status != 200
        except (aiohttp.ClientError, TimeoutError):
            figures.failed += 1
        figures.http.append(time.monotonic() - began)

    async def requests(http: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as group:  # in their own time, however slow the answers are
            while time.monotonic() < until:
                group.create_task(one(http))
                figures.most_kib = max(figures.most_kib, resident_kib(worker))
                await asyncio.sleep(APART_S)

    async def events(http: aiohttp.ClientSession) -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                async with http.ws_connect(f"{proxy.base_url}/realtime?model=gpt-realtime") as socket:
                    await socket.receive(PATIENCE_S)
                    while time.monotonic() < until:
                        began = time.monotonic()
                        await socket.send_json({"type": "session.update", "session": {"type": "realtime"}})
                        message = await socket.receive(PATIENCE_S)
                        if message.type is not aiohttp.WSMsgType.TEXT:
                            raise aiohttp.ClientError
                        figures.session.append(time.monotonic() - began)
                        await asyncio.sleep(APART_S)
            except (aiohttp.ClientError, TimeoutError):
                figures.failed += 1
                figures.session.append(max(PATIENCE_S, time.monotonic() - began))
                await asyncio.sleep(APART_S)

    timeout = aiohttp.ClientTimeout(PATIENCE_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        await asyncio.gather(requests(http), events(http))
    return figures


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[tuple[object, ...]]]:
    """Rows that are printed when all attacks are over."""
    rows: list[tuple[object, ...]] = []
    yield rows
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        titles = ("attack", "sent", "http ms", "attacked", "session", "attacked", "failed", "MiB", "attacked")
        print("\n\np99 of others, quiet and attacked; memory of the worker")
        print("\n".join(COLUMNS.format(*row) for row in (titles, *rows)))


@pytest.fixture
def hostile_upstream() -> Iterator[int]:
    """Its port."""
    command = [sys.executable, "-m", "tests.scenarios.hostile_upstream"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def flooded_key(simulator: Simulator) -> dict[str, object]:
    """An upstream of their own for floods that pass through, since its lag is not the proxy's. In earnest it would be
    another machine's processor, too."""
    os.setpriority(os.PRIO_PROCESS, simulator.process.pid, 19)
    upstream = {"url": simulator.url, "models": {"flooded": "flooded"}}
    return {"id": "flooded", "secret": simulator.secrets[3], "upstream": upstream}


@pytest.mark.parametrize("attack", ATTACKS)
def test_others_hardly_notice_an_attack(attack, start_simulator, start_proxy, hostile_upstream, table):
    simulator = start_simulator(3, "--rpm", "0", "--tpm", "0")
    config = pool_config(simulator, clients=CLIENTS, **OPTIONS)
    for key in config["keys"]:
        key["upstream"] = {"url": simulator.url, "models": {name: name for name in OTHERS_MODELS}}
    evil = {"url": f"http://127.0.0.1:{hostile_upstream}/v1", "models": {"evil": "evil"}}
    config["keys"] += [  # several, so that it goes on although each rests after what it did
        {"id": f"evil-{n}", "secret": f"sk-evil-{n:02d}-0123456789abcdef", "upstream": evil} for n in range(20)
    ]
    config["keys"].append(flooded_key(start_simulator(4, "--rpm", "0", "--tpm", "0")))
    proxy = start_proxy(config)
    port = proxy.config["listen"].rsplit(":", 1)[1]
    asyncio.run(observe(proxy, 2.0))  # all parts are warm
    quiet = asyncio.run(observe(proxy, SECONDS / 2))
    command = [sys.executable, "-m", "tests.scenarios.hostile_client", attack, port, MALLORY, str(SECONDS)]
    with ExitStack() as stack:
        attacker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        stack.callback(attacker.wait)
        stack.callback(attacker.kill)
        attacked = asyncio.run(observe(proxy, SECONDS))
        sent = attacker.communicate(timeout=30)[0].strip()
    kinds = ("http", "session")
    times = [figures.p99_ms(kind) for kind in kinds for figures in (quiet, attacked)]
    memory = [round(figures.most_kib / 1024, 1) for figures in (quiet, attacked)]
    table.append((attack, sent, *times, attacked.failed, *memory))
    assert attacked.failed == 0
    for kind in kinds:
        assert attacked.p99_ms(kind) <= MOST_TIMES * quiet.p99_ms(kind)
    assert memory[1] - memory[0] <= MOST_GROWTH_MIB
