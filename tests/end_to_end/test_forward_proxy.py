"""The product behind a corporate forward proxy: requests, `check`, and a login gone bad."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import yaml

from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.processes import fetch, pool_config, wait_until

LOGIN = "jane:a-password-of-jane"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


@contextlib.contextmanager
def in_a_thread(proxy: ForwardProxy) -> Iterator[None]:
    loop, up = asyncio.new_event_loop(), threading.Event()
    ending = asyncio.Event()

    async def run() -> None:
        async with proxy.running():
            up.set()
            await ending.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert up.wait(5)
    yield
    loop.call_soon_threadsafe(ending.set)
    thread.join(5)
    loop.close()


def test_everything_goes_through_the_proxy_that_the_environment_names(start_simulator, start_proxy):
    simulator = start_simulator(2)
    corporate = ForwardProxy(login=LOGIN, leads_to=int(simulator.url.rpartition(":")[2]))
    with in_a_thread(corporate):
        # Given an upstream whose name only the forward proxy can resolve,
        config = pool_config(simulator) | {"upstream": "http://openai.invalid"}
        proxy = start_proxy(config, env={"http_proxy": corporate.url(LOGIN)})
        # I expect requests and `check` to reach it, with nothing seen by the forward proxy but where to.
        assert fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)[0] == 200
        assert corporate.tunnels >= 1
        before = corporate.tunnels
        checked = proxy.command("check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert corporate.tunnels > before
        assert all(head.startswith(b"CONNECT openai.invalid:80 HTTP/1.1\r\n") for head in corporate.asked)
        assert not any(secret.encode() in head for head in corporate.asked for secret in simulator.secrets)
    written = proxy.log() + checked.stdout + checked.stderr + fetch(f"{proxy.admin_url}/metrics")[1]
    assert "a-password-of-jane" not in written
    # Once it is gone, the answer says where the trouble is.
    status, text = fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)
    assert status == 502
    assert "upstream_unreachable" in text


def test_a_proxy_that_refuses_our_login_costs_no_key(start_simulator, start_proxy):
    simulator = start_simulator(3)
    corporate = ForwardProxy(login="jane:another")
    with in_a_thread(corporate):
        config = pool_config(simulator, upstream_proxy=corporate.url(LOGIN))
        proxy = start_proxy(config)
        for _ in range(4):
            status, text = fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)
            assert (status, "407" in text, "forward proxy" in text) == (502, True, True), text
        wait_until(lambda: proxy.total("quotapool_egress_trouble") == 1, "the alarm is raised")
        assert proxy.total("quotapool_keys", state="active") == 3
        assert proxy.total("quotapool_keys_removed_total") == 0
        said = proxy.command("check", "--json")
        # Given the right login in the file, I expect that the next requests get through, without a restart.
        options = proxy.config | {"upstream_proxy": corporate.url("jane:another")}
        proxy.config_file.write_text(yaml.safe_dump(options))
        url = f"{proxy.base_url}/chat/completions"
        wait_until(lambda: fetch(url, method="POST", body=CHAT)[0] == 200, "the new login is used")
    assert "407" in said.stdout + said.stderr
    assert said.returncode == 2  # nothing is known about the keys
    assert "a-password-of-jane" not in text + proxy.log() + said.stdout + said.stderr
