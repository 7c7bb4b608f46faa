"""Keys that run out of money or die under load leave the pool before a client notices, and stay out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.fakes.load import Load
from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.scenarios.bookkeeping import after_deaths, key_row

# key index -> fault, and what the pool makes of it
DEATHS = {
    0: ("insufficient_quota", "quarantined"),
    1: ("account_deactivated", "removed"),
    2: ("access_terminated_403", "removed"),
    3: ("access_terminated_429", "removed"),
}
# Upstream refuses a dead key at once, so what still comes was under way: nothing may come later than this.
_UNDER_WAY_S = 0.5


@dataclass(frozen=True, slots=True)
class Figures:
    """Per dead key: attempts after its death, and milliseconds from the first of these to the last."""

    after_death: dict[int, int]
    window_ms: dict[int, int]
    line: str


def four_keys_die(
    start_simulator: Callable[..., Simulator],
    start_proxy: Callable[..., RunningProxy],
    *,
    workers: int = 1,
    replicas: int = 1,
    redis: str | None = None,
    seconds: float = 3.0,
    clients: int = 12,
) -> Figures:
    """Given steady load on ten keys, if four of them die, I expect no client to see an error, nothing to reach a dead
    key but what was under way, all of it to be told, and all of it to be still so after a restart."""
    simulator = start_simulator(10, "--rpm", "100000", "--tpm", "0", "--latency-ms", "30")
    shared = {"redis": redis} if redis else {}
    proxies = _together(start_proxy, [pool_config(simulator, workers=workers, **shared)] * replicas)
    urls = [proxy.base_url for proxy in proxies]
    step_s = min(0.3, seconds / 10)
    with Load(*urls, clients=clients, seconds=seconds + 10) as load:
        time.sleep(step_s)
        for index, (fault, _) in DEATHS.items():
            simulator.fault(index, fault)
            time.sleep(step_s)
        time.sleep(_UNDER_WAY_S)
        at_rest = after_deaths(simulator, DEATHS)
        time.sleep(max(0.0, seconds - step_s * 5 - _UNDER_WAY_S))
        load.stop()
    assert not load.errors, load.errors[:3]
    assert all(at_rest.values()), f"each death was met by somebody: {at_rest} {load}"
    rows = {index: key_row(simulator, index) for index in DEATHS}
    windows = {index: row["after_death_last"] - row["after_death_first"] for index, row in rows.items()}
    _expect_no_more(simulator, at_rest, trials=int(seconds // 60) + 1 if seconds > 60 else 0)
    assert all(count <= clients for count in at_rest.values()), at_rest
    _expect_told(proxies)
    for proxy in proxies:
        proxy.process.terminate()
    assert [proxy.stop() for proxy in proxies] == [0] * replicas
    again = _together(start_proxy, [proxy.config for proxy in proxies])
    before = after_deaths(simulator, DEATHS)
    with Load(*[proxy.base_url for proxy in again], clients=clients, seconds=1.0) as load:
        pass
    assert not load.errors, load.errors[:3]
    assert after_deaths(simulator, DEATHS) == before
    _expect_states(again)
    return Figures(at_rest, {i: round(window * 1000) for i, window in windows.items()}, str(load))


def _together(start_proxy: Callable[..., RunningProxy], configurations: Sequence[dict[str, Any]]) -> list[RunningProxy]:
    """One for each configuration, all of which start at the same time."""
    proxies = [start_proxy(config, wait=False) for config in configurations]
    wait_until(lambda: all(proxy.ready() for proxy in proxies), "the replicas become ready")
    return proxies


def _expect_no_more(simulator: Simulator, at_rest: dict[int, int], *, trials: int) -> None:
    """Removed keys get nothing more. A quarantined one gets a trial at most once a minute, and the first after one."""
    later = after_deaths(simulator, DEATHS)
    for index, (_, state) in DEATHS.items():
        more = later[index] - at_rest[index]
        assert more <= (trials if state == "quarantined" else 0), (index, more)


def _expect_told(proxies: Sequence[RunningProxy]) -> None:
    """The log has one line for each change, whichever process saw it first; metrics and `check` show the state."""
    lines = [json.loads(line) for proxy in proxies for line in proxy.log().splitlines() if line.startswith("{")]
    for index, (fault, state) in DEATHS.items():
        told = [line for line in lines if line["event"].endswith(f"is {state}") and f"key-{index}" in line.values()]
        assert len(told) == 1, (fault, told)
    for name, count in (("quotapool_keys_removed_total", 3), ("quotapool_keys_quarantined_total", 1)):
        assert sum(proxy.total(name) for proxy in proxies) == count, name
    _expect_states(proxies)


def _expect_states(proxies: Sequence[RunningProxy]) -> None:
    for proxy in proxies:
        for index, (_, state) in DEATHS.items():
            key = f"key-{index}"
            wait_until(lambda k=key, s=state, p=proxy: p.total("quotapool_key_state", key=k, state=s) == 1, key, 15)
    with ThreadPoolExecutor() as threads:
        checks = list(threads.map(lambda proxy: proxy.command("check", "--json"), proxies))
    for checked in checks:
        assert checked.returncode == 1, checked.stderr
        rows: dict[str, dict[str, Any]] = {row["id"]: row for row in json.loads(checked.stdout)["keys"]}
        for index in range(10):
            wanted = DEATHS[index][1] if index in DEATHS else "active"
            assert rows[f"key-{index}"]["state"] == wanted
            assert rows[f"key-{index}"]["usable"] == (wanted == "active")
