"""A pool at work for those who look at it: several clients, short budgets, keys in trouble, credit that runs out.

python -m tests.scenarios.busy_pool 5 --minutes 5     prints where it is, and works until Ctrl-C or its time is over
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from tests.fakes.processes import RunningProxy, Simulator, pool_config
from tests.fakes.running import running_proxy, running_simulator

CLIENTS = ("search", "chat-web", "batch-tagger", "ide", "evals")
MODELS = ("gpt-5.4", "gpt-5.4-mini", "gpt-4o")
PROMPT = "Say something about pools of keys. "
REPEATING = {"search": 0.3, "evals": 0.8}  # the part of a client's requests that are of a few, asked again and again


def key_of(client: str) -> str:
    return f"a-client-key-of-{client}"


def configuration(simulator: Simulator, **more: Any) -> dict[str, Any]:
    """Two configured accounts with credit, five clients with rules, one of them of a team."""
    today = datetime.now(UTC).date()
    config = pool_config(simulator)
    for key in config["keys"][: 2 if len(config["keys"]) > 2 else 1]:
        key["account"] = "acme"
    config["keys"] = config["keys"][:50]  # the others are imported
    clients: list[dict[str, Any]] = [{"id": name, "key": key_of(name)} for name in CLIENTS]
    search, chat, batch, ide, evals = clients
    search |= {"limits": {"rpm": 3000, "tpm": 2_000_000}, "budgets": [{"usd": 40, "per": "month"}], "team": "product"}
    chat |= {"budgets": [{"usd": 5, "per": "day"}], "team": "product"}
    batch |= {"priority": "batch"}
    ide |= {"budgets": [{"requests": 8, "per": "day"}]}
    evals |= {"expires_on": (today + timedelta(days=3)).isoformat()}
    grant = {"usd": 120, "granted_on": today.isoformat(), "expires_on": (today + timedelta(days=21)).isoformat()}
    return {
        **config,
        "clients": clients,
        "teams": {"product": {"budgets": [{"usd": 400, "per": "month"}]}},
        "accounts": {"acme": {"grants": [grant], "monthly_limit_usd": 300}},
        "queue": {"max_wait": "4s"},
        "cache": {"models": ["gpt-5.4*"]},
        "advice": {"enabled": True},
        **more,
    }


@contextlib.contextmanager
def busy_pool(directory: Path, keys: int, **more: Any) -> Iterator[tuple[RunningProxy, Simulator]]:
    """The proxy and its upstream. Of `keys` keys the first 50 are configured and the others imported."""
    tpm = str(max(3_000, 30_000 // keys))
    with (
        running_simulator(keys, "--rpm", "3000", "--tpm", tpm, "--latency-ms", "80") as simulator,
        running_proxy(directory, configuration(simulator, **more)) as proxy,
    ):
        if len(simulator.secrets) > 50:
            file = directory / "keys.csv"
            rows = (f"{secret},key-{n}" for n, secret in enumerate(simulator.secrets) if n >= 50)
            file.write_text("\n".join(["secret,id", *rows]) + "\n")
            done = proxy.command("keys", "import", str(file), "--no-check")
            assert done.returncode == 0, done.stderr
        yield proxy, simulator


def trouble(simulator: Simulator) -> None:
    """Two keys out of credit and one for good: where there are so many."""
    keys = len(simulator.secrets)
    if keys >= 5:
        simulator.fault(keys - 1, "insufficient_quota")
        simulator.fault(keys - 2, "account_deactivated")


class Traffic:
    """Requests of all clients, `per_second` of them, until stopped. `statuses` counts the answers."""

    def __init__(self, proxy: RunningProxy, *, per_second: float, seed: int = 1) -> None:
        self.statuses: dict[int, int] = {}
        self._url = proxy.base_url
        self._per_second = per_second
        self._random = random.Random(seed)

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
            while loop.time() < end:
                group.create_task(self._ask(http))
                await asyncio.sleep(self._random.expovariate(self._per_second))

    async def _ask(self, http: aiohttp.ClientSession) -> None:
        client = self._random.choices(CLIENTS, (3, 2, 6, 1, 1))[0]
        model = self._random.choices(MODELS, (4, 2, 1))[0]
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT * self._random.randint(1, 60)}],
            "max_completion_tokens": self._random.randint(16, 200),
        }
        if self._random.random() < REPEATING.get(client, 0):
            text = PROMPT * self._random.randint(1, 5)
            body |= {"messages": [{"role": "user", "content": text}], "max_completion_tokens": 200}
        if self._random.random() < 0.4:
            body["stream"] = True
        with contextlib.suppress(aiohttp.ClientError):
            headers = {"Authorization": f"Bearer {key_of(client)}"}
            async with http.post(f"{self._url}/chat/completions", json=body, headers=headers) as answer:
                await answer.read()
                self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("keys", type=int)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--per-second", type=float, default=8)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        busy_pool(Path(directory), given.keys) as (proxy, simulator),
    ):
        trouble(simulator)
        print(f"{proxy.admin_url}/ token {(proxy.state_dir / 'admin-token').read_text().strip()}", flush=True)
        traffic = Traffic(proxy, per_second=given.per_second)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(traffic.run(60 * given.minutes))
        print(traffic.statuses)


if __name__ == "__main__":
    main()
