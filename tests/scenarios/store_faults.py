"""A pool under more load than its budget, whose store fails: what clients see, what is oversold, how soon it heals."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.faulty_store import FaultyStore, faulty_store
from tests.fakes.load import MODEL, End, Kind, Load
from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, start_proxy_process, wait_until
from tests.scenarios.bookkeeping import key_row, refused_upstream, upstream_sum

ACCOUNTS = 10  # and one that dies at the start
COST = 200  # tokens of one request: OpenAI charges its max_tokens where that is more than the prompt
RATE = 20.0  # requests a second that all budgets refill together
OFFERED = 1.2
TPM = round(RATE * 60 * COST / ACCOUNTS)
SETTLING_S = 1.5  # after a fault, what happens still counts as its doing
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Counts:
    """One look at both sides. `granted`, `alone`: reservations of each replica, by the store and without it."""

    at: float
    admitted: int
    refused: int
    granted: tuple[float, ...]
    alone: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What one fault did, from its beginning until `SETTLING_S` after its end.

    `ends`: requests by their end. `oversold`: refused by upstream's own limiter, as a share of the budget of that time,
    of a minute at least. `used`: admitted by upstream, as a share of that time's budget. `back_s`: from the fault's end
    until every replica had its reservations from the store again, and from nowhere else. `silence_s`: the longest time
    without a good answer.
    """

    ends: Counter[str]
    oversold: float
    used: float
    back_s: float
    silence_s: float
    alone: int
    slowest_ms: float

    def __str__(self) -> str:
        return (
            f"{dict(self.ends)}; oversold {self.oversold:.2%}, used {self.used:.1%}, back {self.back_s:.2f} s, "
            f"silence {self.silence_s:.2f} s, alone {self.alone}, slowest {self.slowest_ms:.0f} ms"
        )

    @property
    def errors(self) -> int:
        """What clients saw beside answers and the refusals that more than the budget must bring."""
        return sum(self.ends.values()) - self.ends["ok"] - self.ends["429"]


@dataclass
class Pool:
    """Replicas on one store that can fail, under load."""

    simulator: Simulator
    store: FaultyStore
    proxies: list[RunningProxy]
    load: Load
    client_key: str

    def counts(self) -> Counts:
        def of(result: str) -> tuple[float, ...]:
            return tuple(p.total("quotapool_reservations_total", result=result) for p in self.proxies)

        granted, alone = of("granted"), of("granted_local")
        admitted = upstream_sum(self.simulator, "admitted")
        return Counts(time.monotonic(), admitted, refused_upstream(self.simulator), granted, alone)

    def suffer(
        self, begin: Callable[[], None], seconds: float, *, meanwhile: Callable[[], None] = lambda: None
    ) -> Figures:
        """Let the fault be for `seconds`, look at it at its half, heal it, and look on until all is as it was."""
        before = self.counts()
        begin()
        time.sleep(max(0.0, before.at + seconds / 2 - time.monotonic()))
        meanwhile()
        time.sleep(max(0.0, before.at + seconds - time.monotonic()))
        self.store.heal()
        healed = time.monotonic()
        back_s = self._wait_until_shared(healed)
        time.sleep(max(0.0, healed + SETTLING_S - time.monotonic()))
        after = self.counts()
        took_s = after.at - before.at
        ended = [r for r in self.load.records if before.at <= r.ended <= after.at]
        return Figures(
            Counter(str(r.status) if r.end is End.STATUS else r.end.value for r in ended),
            (after.refused - before.refused) / (RATE * max(took_s, MINUTE_S)),
            (after.admitted - before.admitted) / (RATE * took_s),
            back_s,
            self.load.longest_silence(before.at, after.at),
            int(sum(after.alone) - sum(before.alone)),
            max(r.seconds for r in ended if r.end is End.OK) * 1e3,
        )

    def _wait_until_shared(self, healed: float) -> float:
        """Seconds from `healed` until every replica was granted something by the store and nothing without it."""
        first = last = self.counts()
        while True:
            time.sleep(0.05)
            now = self.counts()
            if now.alone != last.alone:
                last = now
            elif all(g > was for g, was in zip(now.granted, last.granted, strict=True)):
                return 0.0 if last is first else last.at - healed
            assert now.at < healed + 20, "the replicas do not come back to the store"

    def metric(self, name: str, **labels: str) -> list[float]:
        return [proxy.total(name, **labels) for proxy in self.proxies]

    def still_knows_the_client(self) -> bool:
        """A client key that was made by command is let in, and none that nobody made is."""
        for proxy in self.proxies:
            known, other = (
                fetch(f"{proxy.base_url}/models", headers={"Authorization": f"Bearer {key}"})[0]
                for key in (self.client_key, "qp-somebody-else-entirely")
            )
            if known == 401 or other != 401:  # it may be refused for its turn, but not at the gate
                return False
        return True

    def died_once(self) -> bool:
        """The dead key was asked once, and never again."""
        return bool(key_row(self.simulator, ACCOUNTS)["after_death"] == 1)


@contextlib.contextmanager
def pool_under_load(
    directory: Path,
    *,
    replicas: int,
    seconds: float,
    offered: float = OFFERED,
    on_loss: str = "serve",
    max_wait: str = "1s",
    **options: Any,
) -> Iterator[Pool]:
    """Ten accounts with nearly empty budgets and one that is deactivated, offered more than their budget."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(faulty_store(directory))
        simulator = Simulator.start(ACCOUNTS + 1, "--rpm", "0", "--tpm", str(TPM), "--latency-ms", "100")
        stack.callback(simulator.stop)
        config = pool_config(simulator, redis=store.url, on_redis_loss=on_loss, queue={"max_wait": max_wait}, **options)
        proxies = []
        for n in range(replicas):
            proxy = start_proxy_process(directory / f"replica-{n}", config, wait=False)
            stack.callback(_end, proxy)
            proxies.append(proxy)
        simulator.fault(ACCOUNTS, "account_deactivated")
        wait_until(lambda: all(proxy.ready() for proxy in proxies), "the replicas become ready")
        key = _client_key(proxies[0])
        with ThreadPoolExecutor(ACCOUNTS) as threads:
            list(threads.map(lambda n: _use_up(simulator, n), range(ACCOUNTS)))
        urls = [proxy.base_url for proxy in proxies]
        load = Load(*urls, rate=RATE * offered, seconds=seconds, mix=[Kind.CHAT], max_tokens=COST, key=key)
        with load:
            pool = Pool(simulator, store, proxies, load, key)
            dead = f"key-{ACCOUNTS}"
            wait_until(
                lambda: pool.metric("quotapool_key_state", key=dead, state="removed") == [1.0] * replicas,
                "everybody knows that the key is dead",
            )
            time.sleep(2.0)  # the first guesses are corrected
            yield pool
            load.stop()


def _end(proxy: RunningProxy) -> None:
    try:
        proxy.stop()
    except Exception:
        proxy.process.kill()
        raise


def _client_key(proxy: RunningProxy) -> str:
    made = proxy.command("clients", "add", "team")
    assert made.returncode == 0, made.stderr
    return made.stdout.partition("OPENAI_API_KEY=")[2].split()[0]


def _use_up(simulator: Simulator, account: int) -> None:
    """Take all but a request's worth of the account's budget, past the proxy."""
    text = [{"role": "user", "content": "x"}]
    body = {"model": MODEL, "messages": text, "max_completion_tokens": TPM - COST}
    headers = {"Authorization": f"Bearer {simulator.secrets[account]}"}
    status, said = fetch(f"{simulator.url}/v1/chat/completions", method="POST", body=body, headers=headers)
    assert status == 200, said


def log_events(proxy: RunningProxy) -> list[str]:
    """What its log says beside requests."""
    lines = [json.loads(line) for line in proxy.log().splitlines() if line.startswith("{")]
    return [line["event"] for line in lines if line["event"] != "request"]
