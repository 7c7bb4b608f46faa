"""What the field found, with real processes: one worker and four, with client keys and without, HTTP and WebSocket."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config

KEY = "a-client-key-of-sixteen"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(params=[(1, False), (4, True)], ids=["one worker, anonymous", "four workers, client keys"])
def deployed(request, start_simulator, start_proxy):
    """(the simulated OpenAI with three accounts, a proxy before it, the client's headers)."""
    workers, keyed = request.param
    simulator = start_simulator(3)
    clients = {"clients": [{"id": "app", "key": KEY}]} if keyed else {}
    proxy = start_proxy(pool_config(simulator, workers=workers, **clients))
    return simulator, proxy, {"Authorization": f"Bearer {KEY}"} if keyed else {}


def ask(proxy: RunningProxy, headers: dict[str, str], **more: Any) -> int:
    return fetch(f"{proxy.base_url}/chat/completions", method="POST", body={**CHAT, **more}, headers=headers)[0]


def fault_all(simulator: Simulator, name: str, **options: Any) -> None:
    for key in range(3):
        simulator.fault(key, name, **options)


def test_a_model_that_each_account_refused_once_goes_on_serving_everybody(deployed):
    simulator, proxy, headers = deployed
    assert [ask(proxy, headers) for _ in range(12)] == [200] * 12
    fault_all(simulator, "model_not_found", count=1)
    first = ask(proxy, headers)
    assert first in {200, 403}  # the simulated OpenAI refuses a model of another project with 403
    assert [ask(proxy, headers) for _ in range(24)].count(200) >= 22  # at most what is left of the three refusals


def test_a_session_opens_although_each_account_refused_the_model_once(deployed):
    simulator, proxy, headers = deployed
    fault_all(simulator, "model_not_found", count=1)
    address = f"{proxy.base_url.replace('http', 'ws')}/realtime?model=gpt-realtime"
    results = [opens(address, headers) for _ in range(4)]
    assert results.count("open") >= 3
    assert set(results) <= {"open", "403"}  # the first may meet all three refusals


def opens(address: str, headers: dict[str, str]) -> str:
    try:
        with connect(address, additional_headers=headers, open_timeout=10):
            return "open"
    except InvalidStatus as refused:
        return str(refused.response.status_code)
