"""Processes that are killed under load: what may be lost, how soon it heals, what must not be forgotten."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from quotapool.simulator import simulated_secret
from quotapool.store.valkey_process import is_alive

from tests.fakes.load import End, Load
from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until
from tests.scenarios.bookkeeping import (
    expect_equal_books,
    key_row,
    levels,
    proxy_book,
    refused_upstream,
    upstream_book,
    upstream_sum,
)

FAST = "gpt-4.1-mini"  # plenty of budget in `two_paces`
SLOW = "gpt-4o-mini"  # 60 requests a minute for each key


@dataclass(frozen=True, slots=True)
class Figures:
    """`healed_s`: until the dead process's work went on. `lost`: requests whose clients noticed."""

    healed_s: float
    lost: int
    line: str


def two_paces(start_simulator: Callable[..., Simulator], directory: Path, keys: int) -> Simulator:
    """An upstream where one model is scarce, so that budgets matter, and another is not, so that much is going on."""
    accounts = [
        {
            "id": f"account-{n:02d}",
            "keys": [simulated_secret(n)],
            "rpm": 60,
            "tpm": 200_000,
            "models": {FAST: {"rpm": 200_000, "tpm": 200_000_000}},
        }
        for n in range(keys)
    ]
    file = directory / "upstream.yaml"
    file.write_text(yaml.safe_dump({"accounts": accounts}))
    return start_simulator(keys, "--config", str(file), "--latency-ms", "20")


# ---- a worker


def a_worker_is_killed(
    start_simulator: Callable[..., Simulator],
    start_proxy: Callable[..., RunningProxy],
    *,
    kills: int = 1,
    apart_s: float = 1.0,
    clients: int = 16,
) -> list[Figures]:
    """If one of two workers is killed, I expect only the connections it held to break, another worker soon after, and
    the books to lack no more than what was under way in the dead one."""
    simulator = start_simulator(10, "--rpm", "200000", "--tpm", "0", "--tokens-per-second", "200")
    proxy = start_proxy(pool_config(simulator, workers=2))
    figures = []
    lost_before = 0
    with Load(proxy.base_url, clients=clients, seconds=(30.0 + apart_s) * kills) as load:
        for _ in range(kills):
            time.sleep(apart_s)
            counted = proxy_book([proxy])
            pids = set(proxy.worker_pids())
            held = {pid: ports_of(proxy, pid) for pid in pids}
            victim = max(held, key=lambda pid: len(held[pid]))
            os.kill(victim, signal.SIGSTOP)  # so that what it holds does not change between the look and the kill
            held_ports = ports_of(proxy, victim)
            began = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda p=pids: len(set(proxy.worker_pids()) - p) == 1, "a new worker", 20)
            (new,) = set(proxy.worker_pids()) - pids
            wait_until(lambda n=new: _accepts(proxy, n), "the new worker accepts connections", 20)
            healed_s = time.monotonic() - began
            assert proxy_book([proxy]).attempts >= counted.attempts, "what the dead worker counted is kept"
            time.sleep(0.5)
            errors = load.errors[lost_before:]
            lost_before += len(errors)
            assert {e.end for e in errors} <= {End.LOST, End.CUT}, errors[:3]
            assert {e.port for e in errors} <= held_ports, "only its own connections"
            assert len(errors) <= len(held_ports)
            figures.append(Figures(healed_s, len(errors), ""))
        load.stop()
    wait_until(lambda: upstream_sum(simulator, "open_streams") == 0, "upstream's streams end", 10)
    wait_until(lambda: proxy.total("quotapool_requests_in_flight") == 0, "nothing is in flight", 10)
    assert len(load.errors) == lost_before
    # An answer may have reached its client an instant before its worker died and could count it.
    missing = upstream_book(simulator).attempts - proxy_book([proxy]).attempts
    assert 0 <= missing <= lost_before + kills, missing
    assert proxy.total("quotapool_worker_restarts_total") == kills
    assert proxy.stop() == 0
    return [*figures, Figures(0.0, 0, str(load))]


def _accepts(proxy: RunningProxy, pid: int) -> bool:
    """Whether a fresh connection was accepted by process `pid`."""
    host, _, port = str(proxy.config["listen"]).rpartition(":")
    with socket.create_connection((host, int(port))) as fresh:
        time.sleep(0.01)
        return fresh.getsockname()[1] in ports_of(proxy, pid)


def ports_of(proxy: RunningProxy, pid: int) -> set[int]:
    """The clients' ports of the connections that process `pid` has accepted on the clients' listener."""
    port = int(str(proxy.config["listen"]).rpartition(":")[2])
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote, inode = fields[1], fields[2], fields[9]
        if inode in inodes and int(local.rpartition(":")[2], 16) == port and fields[3] == "01":
            ports.add(int(remote.rpartition(":")[2], 16))
    return ports


# ---- the embedded store


def the_store_is_killed(
    start_simulator: Callable[..., Simulator],
    start_proxy: Callable[..., RunningProxy],
    directory: Path,
    *,
    kills: int = 1,
    apart_s: float = 2.0,
    workers: int = 2,
    keys: int = 4,
) -> list[Figures]:
    """If the embedded store is killed, I expect nothing but a pause of at most two seconds: no error, no removed key
    back, no budget refilled."""
    simulator = two_paces(start_simulator, directory, keys)
    proxy = start_proxy(pool_config(simulator, workers=workers))
    simulator.fault(0, "account_deactivated")
    figures = []
    with (
        Load(proxy.base_url, clients=8, seconds=(30.0 + apart_s) * kills, model=FAST) as busy,
        Load(proxy.base_url, clients=2 * keys, seconds=(30.0 + apart_s) * kills, model=SLOW) as scarce,
    ):
        wait_until(lambda: proxy.total("quotapool_key_state", key="key-0", state="removed") == 1, "removed", 10)
        wait_until(lambda: _used_up(proxy, alive=keys - 1), "the scarce budgets are used up", 20)
        dead = key_row(simulator, 0)["after_death"]
        for _ in range(kills):
            old = proxy.store_pid()
            began = time.monotonic()
            os.kill(old, signal.SIGKILL)
            wait_until(lambda o=old: proxy.store_pid() != o and _is_up(proxy), "the store is back", 20)
            level = sum(levels(proxy, model=SLOW).values())
            healed_s = time.monotonic() - began
            assert level < 3 * keys + keys * (healed_s + 0.5), f"budgets were refilled: {level}"
            time.sleep(apart_s)
            silence = busy.longest_silence(began - 0.5, time.monotonic())
            figures.append(Figures(silence, 0, f"store up again after {healed_s:.2f} s, level {level:.1f}"))
        busy.stop()
        scarce.stop()
    assert not busy.errors, busy.errors[:3]
    assert not scarce.errors, scarce.errors[:3]
    assert key_row(simulator, 0)["after_death"] == dead
    assert proxy.total("quotapool_key_state", key="key-0", state="removed") == 1
    attempts = expect_equal_books(simulator, proxy).attempts
    assert refused_upstream(simulator) <= attempts * 0.001, refused_upstream(simulator)
    assert all(figure.healed_s <= 2.0 for figure in figures), figures
    assert proxy.stop() == 0
    return [*figures, Figures(0.0, 0, f"busy {busy}; scarce {scarce}")]


def _used_up(proxy: RunningProxy, alive: int) -> bool:
    known = levels(proxy, model=SLOW)
    return len(known) >= alive and sum(known.values()) < 3 * alive


def _is_up(proxy: RunningProxy) -> bool:
    return proxy.total("quotapool_store_up") == 1


# ---- the supervisor


def the_supervisor_is_killed(
    start_simulator: Callable[..., Simulator],
    start_proxy: Callable[..., RunningProxy],
    directory: Path,
    *,
    workers: int = 2,
    keys: int = 4,
) -> Figures:
    """If the supervisor is killed and started again at once with the same configuration, I expect it to start, to
    remember states and levels, and the dead one's workers to end by themselves."""
    simulator = two_paces(start_simulator, directory, keys)
    proxy = start_proxy(pool_config(simulator, workers=workers))
    simulator.fault(0, "account_deactivated")
    simulator.fault(1, "insufficient_quota")
    with Load(proxy.base_url, clients=2 * keys, seconds=30, model=SLOW) as load:
        for key, state in (("key-0", "removed"), ("key-1", "quarantined")):
            wait_until(lambda k=key, s=state: proxy.total("quotapool_key_state", key=k, state=s) == 1, state, 10)
        wait_until(lambda: _used_up(proxy, alive=keys - 2), "the budgets are used up", 20)
        orphans, store = proxy.worker_pids(), proxy.store_pid()
        began = time.monotonic()
        proxy.process.kill()
        proxy.process.wait(5)
        again = start_proxy(proxy.config)
        healed_s = time.monotonic() - began
        level = sum(levels(again, model=SLOW).values())
        assert level < 3 * keys + keys * (healed_s + 0.5), f"budgets were refilled: {level}"
        load.stop()
    assert again.store_pid() == store, "the store of the dead supervisor is adopted"
    assert again.total("quotapool_key_state", key="key-0", state="removed") == 1
    assert again.total("quotapool_key_state", key="key-1", state="quarantined") == 1
    dead = {n: key_row(simulator, n)["after_death"] for n in (0, 1)}
    with Load(again.base_url, clients=8, seconds=1.5, model=FAST) as afterwards:
        pass
    assert not afterwards.errors, afterwards.errors[:3]
    assert {n: key_row(simulator, n)["after_death"] for n in (0, 1)} == dead
    wait_until(lambda: not any(map(is_alive, orphans)), "orphaned workers end", 30)
    refused, attempts = refused_upstream(simulator), upstream_book(simulator).attempts
    assert refused <= attempts * 0.001, f"{refused} of {attempts} refused upstream"
    assert again.stop() == 0
    assert not is_alive(store), "an adopted store is stopped like one's own"
    return Figures(healed_s, len(load.errors), str(load))


# ---- a stop


def it_is_stopped(
    start_simulator: Callable[..., Simulator],
    start_proxy: Callable[..., RunningProxy],
    *,
    workers: int = 2,
    clients: int = 16,
    tokens_per_second: float = 32.0,
) -> Figures:
    """If it is told to stop under load, I expect each open request to be answered, clients on kept connections to be
    told to go, no client to see an error, the books to agree at the end, and exit code 0 in time."""
    simulator = start_simulator(
        10, "--rpm", "200000", "--tpm", "0", "--tokens-per-second", str(tokens_per_second), "--latency-ms", "5"
    )
    proxy = start_proxy(pool_config(simulator, workers=workers, drain_timeout="15s"))
    with Load(proxy.base_url, clients=clients, seconds=30) as load:
        time.sleep(2.0)
        load.open_no_more()
        began = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert fetch(f"{proxy.admin_url}/readyz")[0] == 503, "it says that it is draining"
        code = proxy.process.wait(20)
        took_s = time.monotonic() - began
    assert not load.errors, load.errors[:3]
    assert code == 0
    assert took_s < 15.0
    assert upstream_sum(simulator, "completed") == load.ends["ok"], "nothing was cut"
    assert upstream_sum(simulator, "cut_streams") == 0
    return Figures(took_s, 0, str(load))
