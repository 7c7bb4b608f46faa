"""What the dashboard's screens and the commands beside them call, on real processes."""

from __future__ import annotations

import json
import socket
import time
import urllib.request

from tests.fakes.processes import fetch, pool_config, wait_until

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100}


def bearer(proxy) -> dict[str, str]:
    return {"Authorization": f"Bearer {(proxy.state_dir / 'admin-token').read_text().strip()}"}


def call(proxy, method: str, path: str, body: object = None) -> dict:
    status, text = fetch(f"{proxy.admin_url}/admin{path}", method=method, body=body, headers=bearer(proxy))
    assert status < 300, text
    return json.loads(text)


def states(proxy) -> dict[str, str]:
    return {row["id"]: row["state"] for row in call(proxy, "GET", "/key-lines")["keys"]}


def test_many_keys_are_changed_on_the_command_line_after_a_question(start_simulator, start_proxy):
    proxy = start_proxy(pool_config(start_simulator(4)))
    asked = proxy.command("keys", "disable", "--match", "key-[12]")
    assert (asked.returncode, states(proxy)["key-1"]) == (2, "active")
    assert "disable 2 of 4 keys" in asked.stderr
    done = proxy.command("keys", "disable", "--match", "key-[12]", "--yes")
    assert (done.returncode, done.stdout) == (0, "2 keys: 2 disabled\n")
    assert states(proxy) == {"key-0": "active", "key-1": "disabled", "key-2": "disabled", "key-3": "active"}
    back = proxy.command("keys", "enable", "--state", "disabled", "-y")
    assert (back.returncode, back.stdout) == (0, "2 keys: 2 enabled\n")
    named = proxy.command("keys", "drain", "key-0", "key-3", "--yes")
    assert (named.returncode, named.stdout) == (0, "2 keys: 2 draining\n")
    nobody = proxy.command("keys", "drain", "key-0", "nobody", "--yes")
    assert (nobody.returncode, "no key 'nobody'" in nobody.stderr) == (2, True)
    nothing = proxy.command("keys", "disable")
    assert (nothing.returncode, "--match" in nothing.stderr) == (2, True)
    probed = proxy.command("keys", "probe", "--account", "key-1", "--yes")
    assert (probed.returncode, probed.stdout) == (0, "1 key: 1 valid\n")


def test_a_dry_run_tells_on_the_command_line_what_the_proxy_then_does(start_simulator, start_proxy, tmp_path):
    proxy = start_proxy(pool_config(start_simulator(1), queue={"max_wait": "0s"}))
    body = tmp_path / "body.json"
    body.write_text(json.dumps(CHAT))

    def said() -> tuple[int, str]:
        told = proxy.command("explain", "--dry-run", str(body), "--json")
        return told.returncode, json.loads(told.stdout)["verdict"]

    def done() -> int:
        return fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)[0]

    assert (said(), done()) == ((0, "served_now"), 200)
    proxy.command("keys", "disable", "key-0")
    wait_until(lambda: done() == 503, "the worker has heard of it", 10)
    assert said() == (1, "refused")
    assert call(proxy, "POST", "/dry-run", {"body": CHAT})["cause"].startswith("No key in the pool is usable")
    human = proxy.command("explain", "--dry-run", str(body))
    assert human.stdout.startswith("It would be refused. No key in the pool is usable")
    assert "key-0: disabled: operator" in human.stdout
    both = proxy.command("explain", "qp_1", "--dry-run", str(body))
    assert both.returncode == 2


def test_the_configuration_is_told_with_its_places_and_what_waits_for_a_restart(start_simulator, start_proxy):
    proxy = start_proxy(pool_config(start_simulator(1), queue={"max_wait": "5s"}))
    told = proxy.command("config", "--changed", "--json")
    rows = {row["option"]: row for row in json.loads(told.stdout)["options"]}
    assert rows["queue.max_wait"]["value"] == "5"
    assert rows["queue.max_wait"]["source"].startswith(f"{proxy.config_file}:")
    assert "retry.max_attempts" not in rows
    assert "sk-" not in told.stdout
    before = call(proxy, "GET", "/configuration")
    assert before["after_restart"] == []
    text = proxy.config_file.read_text().replace("max_wait: 5s", "max_wait: 7s") + "\nworkers: 2\n"
    proxy.config_file.write_text(text)
    wait_until(lambda: call(proxy, "GET", "/configuration")["after_restart"] == ["workers"], "the file is read", 10)
    after = {row["option"]: row["value"] for row in call(proxy, "GET", "/configuration")["options"]}
    assert after["queue.max_wait"] == "7"


def test_open_pages_do_not_delay_a_stop(start_simulator, start_proxy):
    proxy = start_proxy(pool_config(start_simulator(1)))
    host, _, port = proxy.config["admin_listen"].rpartition(":")
    token = bearer(proxy)["Authorization"]
    pages = []
    for _ in range(10):
        page = socket.create_connection((host, int(port)), 10)
        page.sendall(f"GET /admin/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\r\n".encode())
        assert b"200 OK" in page.recv(1024)
        pages.append(page)
    began = time.monotonic()
    assert proxy.stop() == 0
    assert time.monotonic() - began < 3  # measured 0.11 to 0.17 s, without pages and with ten
    for page in pages:
        page.close()


def test_a_browser_finds_the_dashboard_and_what_changes(start_simulator, start_proxy):
    proxy = start_proxy(pool_config(start_simulator(2)))
    with urllib.request.urlopen(f"{proxy.admin_url}/", timeout=10) as page:
        assert page.headers["Content-Type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    asked = urllib.request.Request(f"{proxy.admin_url}/admin/stream", headers=bearer(proxy))
    with urllib.request.urlopen(asked, timeout=10) as stream:
        assert stream.readline() == b"retry: 3000\n"  # from here on nothing is missed
        call(proxy, "POST", "/keys/key-1/disable")
        fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)
        told: dict[str, dict] = {}
        name = ""
        while not {"events", "requests"} <= set(told):
            line = stream.readline().decode().strip()
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                told.setdefault(name, json.loads(line.removeprefix("data: ")))
    assert told["events"]["events"][0]["data"]["field"] == "k/key-1"
    assert told["requests"]["requests"][0]["model"] == "gpt-4o-mini"
    users = call(proxy, "GET", "/keys/key-0/users")
    assert [(user["client"], user["requests"]) for user in users["users"]] == [("anonymous", 1)]
