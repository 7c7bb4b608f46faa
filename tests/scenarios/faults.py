"""What goes wrong upstream under load: what the client sees of it, and that no key is blamed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.fakes.load import STREAMS, End, Kind, Load
from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.scenarios.bookkeeping import key_row, upstream_sum

# Fewer at a time than the retry budget's floor, so that each of them is sure to be tried again.
_AT_ONCE = 2
_PROBE = 150  # requests that show that every key is still asked
# Faults that strike before anything reached the client: another attempt, and nobody notices.
UNNOTICED = {
    "error_500": {},
    "overloaded_503": {},
    "reset": {},
    "hang": {},
    "slow": {"latency_ms": 400.0},
    "stream_error": {},
}
_FIRST_BYTE_S = 3.0
# When a fault's attempts have been tried again, where that is later: 503s and errors in streams ask for two seconds.
_RETRIED_AFTER_S = {"overloaded_503": 3.0, "hang": _FIRST_BYTE_S + 1.0, "stream_error": 3.0}


@dataclass(frozen=True, slots=True)
class Figures:
    struck: dict[str, int]
    line: str


def nobody_notices(
    start_simulator: Callable[..., Simulator],
    start_proxy: Callable[..., RunningProxy],
    *,
    rounds: int = 1,
    clients: int = 8,
) -> Figures:
    """If upstream fails a few times in each way before the first byte, I expect clients to see nothing but answers,
    each failed attempt to be tried again, and every key to stay in use."""
    simulator = start_simulator(10, "--rpm", "200000", "--tpm", "0", "--latency-ms", "30")
    proxy = start_proxy(pool_config(simulator, timeouts={"first_byte": _FIRST_BYTE_S, "connect": "1s"}))
    with Load(proxy.base_url, clients=clients, seconds=60.0 * rounds) as load:
        for _ in range(rounds):
            for key, (fault, options) in enumerate(UNNOTICED.items()):
                before = key_row(simulator, key)["faulted"].get(fault, 0)
                simulator.fault(key, fault, count=_AT_ONCE, **options)
                wait_until(
                    lambda k=key, f=fault, b=before: key_row(simulator, k)["faulted"].get(f, 0) == b + _AT_ONCE,
                    fault,
                    10,
                )
                # Until they were tried again: those of several faults at once may be more than the retry budget.
                time.sleep(_RETRIED_AFTER_S.get(fault, 0.5))
        load.stop()
    struck = {fault: key_row(simulator, key)["faulted"][fault] for key, fault in enumerate(UNNOTICED)}
    # A plain response that failed is a whole answer with status "failed": upstream's word, passed on as it stands.
    failed = [r for r in load.errors if r.end is End.EVENT and r.kind is Kind.RESPONSES]
    assert len(failed) <= struck["stream_error"]
    assert load.errors == failed, load.errors[:3]
    _expect_unharmed(simulator, proxy)
    retried = sum(count for fault, count in struck.items() if fault != "slow") - len(failed)
    assert proxy.total("quotapool_retries_total") == retried
    assert upstream_sum(simulator, "attempts") == load.done + retried + _PROBE
    assert proxy.stop() == 0
    return Figures(struck, str(load))


def broken_streams_look_broken(
    start_simulator: Callable[..., Simulator],
    start_proxy: Callable[..., RunningProxy],
    *,
    seconds: float = 3.0,
    clients: int = 8,
) -> Figures:
    """If two keys' answers break off half-way, I expect streams to be cut for their clients too, never to end as if
    they were whole, and plain answers, of which nothing had been sent, to be had from another key."""
    simulator = start_simulator(10, "--rpm", "200000", "--tpm", "0", "--latency-ms", "100")
    proxy = start_proxy(pool_config(simulator))
    for key in (0, 1):
        simulator.fault(key, "reset_mid_stream", events=12)
    with Load(proxy.base_url, clients=clients, seconds=seconds) as load:
        pass
    assert set(load.ends) <= {"ok", "cut", "502"}, load
    assert load.ends["cut"] > 0
    assert {r.kind for r in load.records if r.end is End.CUT} <= STREAMS
    # Streams are cut where upstream was cut, no more and no less; a plain answer has what a retry brings.
    plain = [r for r in load.records if r.end is End.STATUS]
    assert not {r.kind for r in plain} & STREAMS
    for key in (0, 1):
        simulator.heal(key)
    _expect_unharmed(simulator, proxy)
    assert proxy.stop() == 0
    return Figures({"reset_mid_stream": sum(key_row(simulator, k)["broken_streams"] for k in (0, 1))}, str(load))


def _expect_unharmed(simulator: Simulator, proxy: RunningProxy) -> None:
    """Every key is active, rests nowhere, and gets requests."""
    before = [key_row(simulator, key)["admitted"] for key in range(10)]
    assert proxy.total("quotapool_keys", state="active") == 10
    assert proxy.total("quotapool_cooldown_seconds") == 0
    assert proxy.total("quotapool_cooldowns_total") == 0
    with Load(proxy.base_url, clients=8, seconds=10, most=_PROBE) as load:
        pass
    assert not load.errors, load.errors[:3]
    after = [key_row(simulator, key)["admitted"] for key in range(10)]
    assert all(b > a for a, b in zip(before, after, strict=True)), (before, after)
