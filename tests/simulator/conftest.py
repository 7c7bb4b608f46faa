"""A simulator on a loopback port, with the official SDK and its control API."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec
import pytest
from openai import AsyncOpenAI
from quotapool.simulator import SimulatorConfig, build_app, simulated_secret


class Simulation:
    """`sdk(index)` is an OpenAI client with the key `index`; the rest drives the control API."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    def sdk(self, index: int = 0, **options: Any) -> AsyncOpenAI:
        options.setdefault("api_key", simulated_secret(index))
        return AsyncOpenAI(base_url=f"{self.url}/v1", max_retries=0, **options)

    async def control(self, method: str, path: str, **document: Any) -> tuple[int, Any]:
        async with self.session.request(method, f"{self.url}/_sim/{path}", json=document or None) as answer:
            return answer.status, await answer.json()

    async def fault(self, name: str, key: int | str = 0, **options: Any) -> None:
        status, answer = await self.control("POST", f"keys/{key}/fault", fault=name, **options)
        assert status == 200, answer

    async def account(self, index: int = 0) -> dict[str, Any]:
        _, stats = await self.control("GET", "stats")
        return stats["accounts"][index]

    async def post(self, path: str, document: Any, index: int = 0, **headers: str) -> tuple[Any, bytes]:
        """A raw POST: (answer, body)."""
        named = {"Authorization": f"Bearer {simulated_secret(index)}", **headers}
        async with self.session.post(self.url + path, json=document, headers=named) as answer:
            return answer, await answer.read()


@pytest.fixture
async def simulate(aiohttp_server):
    """simulate(accounts=[{...}], charging=...) starts one; without accounts there are two unlimited ones."""
    session = aiohttp.ClientSession()

    async def start(accounts: list[dict[str, Any]] | None = None, **settings: Any) -> Simulation:
        described = [{}, {}] if accounts is None else accounts
        defaults = [
            {"id": f"account-{index:02d}", "keys": (simulated_secret(index),), **account}
            for index, account in enumerate(described)
        ]
        config = msgspec.convert({"accounts": defaults, **settings}, SimulatorConfig)
        server = await aiohttp_server(build_app(config), shutdown_timeout=0.1)
        return Simulation(str(server.make_url("")).rstrip("/"), session)

    yield start
    await session.close()


@pytest.fixture
async def simulation(simulate):
    return await simulate()
