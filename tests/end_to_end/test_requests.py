"""What `quotapool logs`, `explain` and the admin API say about the requests of a running pool, also after a restart."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import redis

from tests.fakes.faulty_store import faulty_store
from tests.fakes.processes import fetch, pool_config, wait_until

KEY = "a-client-key-of-our-own-0001"
CLIENT = {"id": "team-a", "key": KEY, "limits": {"rpm": 2}}


def ask(proxy) -> tuple[int, str]:
    """(status, id) of one request of team-a."""
    body = json.dumps({"model": "gpt-5.5", "messages": [{"role": "user", "content": "the-words-of-a-prompt"}]}).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{proxy.base_url}/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
            return answer.status, answer.headers["x-quotapool-request-id"]
    except urllib.error.HTTPError as error:
        return error.code, error.headers["x-quotapool-request-id"]


def logs(proxy, *options) -> list[dict]:
    ran = proxy.command("logs", "--json", *options)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def admin(proxy, path: str):
    token = (proxy.state_dir / "admin-token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    status, text = fetch(f"{proxy.admin_url}/admin/{path}", headers=headers)
    return status, json.loads(text)


def test_a_refused_request_is_found_by_its_id_and_survives_a_restart(start_simulator, start_proxy, empty_valkey):
    config = pool_config(start_simulator(1), redis=empty_valkey, clients=[CLIENT], queue={"max_wait": 0}, workers=2)
    proxy = start_proxy(config)
    # Given two requests that are served, and a third beyond the client's limit ...
    served, refused = [ask(proxy), ask(proxy)], ask(proxy)
    assert [status for status, _ in (*served, refused)] == [200, 200, 429]
    wait_until(lambda: len(logs(proxy)) >= 3, "the requests are kept")
    # ... when the operator looks, then all are there, with what they used and what refused the third. (In the order of
    # their ends: a worker may end with one after its client has sent the next to another worker.)
    rows = {row["id"]: row for row in logs(proxy, "--client", "team-a")}
    assert sorted(rows) == sorted(name for _, name in (*served, refused))
    row = rows[refused[1]]
    assert (row["code"], row["rules"]) == ("client_rate_limited", ["rpm"])
    assert row["waited_for"]["rules"][0]["limit"] == 2
    for _, name in served:
        assert rows[name]["attempts"][0]["key"] == "key-0"
        assert rows[name]["completion_tokens"] > 0
        assert rows[name]["usd"] > 0
    assert logs(proxy, "--errors") == [row]
    status, answer = admin(proxy, "requests?errors=true&limit=5")
    assert (status, answer["requests"]) == (200, [row])
    assert admin(proxy, f"requests/{refused[1]}") == (200, row)
    assert admin(proxy, "requests/qp_unknown")[0] == 404
    table = proxy.command("logs").stdout
    assert "429 client_rate_limited" in table
    assert KEY not in table
    # ... and why: which rule, since when, until when, and who used it.
    told = proxy.command("explain", refused[1])
    assert told.returncode == 0, told.stderr
    assert "client team-a had used 2 of 2 requests (rpm)" in told.stdout
    assert "team-a with gpt-5.5: 2 requests" in told.stdout
    assert "quotapool clients set team-a --rpm" in told.stdout
    status, answer = admin(proxy, f"requests/{refused[1]}/explanation")
    assert (status, answer["cause"]) == (200, "client_rule")
    assert answer["since"] < answer["until"]
    assert "attempt 1, key key-0" in proxy.command("explain", served[0][1]).stdout
    unknown = proxy.command("explain", "qp_unknown")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "the last 10,000 of the pool are, for at most 7 days" in unknown.stderr
    assert unknown.stderr.count("\n") == 1
    # No word of a prompt is in the store.
    assert not any(b"the-words" in value for value in ring(empty_valkey))
    assert proxy.stop() == 0
    again = start_proxy(config)
    assert {row["id"]: row for row in logs(again, "--last", "3")} == rows
    last = ask(again)
    wait_until(lambda: logs(again)[-1]["id"] == last[1], "the new request is kept, too")


def ring(url: str) -> list[bytes]:
    store = redis.Redis(unix_socket_path=url.removeprefix("unix://"))
    return [fields[b"r"] for _, fields in store.xrange("qp:{default:requests}:ring")]


def test_who_follows_sees_a_request_once_it_has_ended(start_simulator, start_proxy):
    proxy = start_proxy(pool_config(start_simulator(1), redis=None, clients=[CLIENT]))
    following = subprocess.Popen(
        [sys.executable, "-m", "quotapool", "logs", "-f", "--json", "--config", str(proxy.config_file)],
        stdout=subprocess.PIPE,
        text=True,
        # As in a terminal: what a shell starts in the background inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - one thread
    )
    _, name = ask(proxy)
    assert following.stdout is not None
    assert json.loads(following.stdout.readline())["id"] == name
    following.send_signal(signal.SIGINT)
    assert following.wait(10) == 0


@contextlib.contextmanager
def following(proxy, *command: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "quotapool", *command, "-f", "--json", "--config", str(proxy.config_file)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.terminate()


def test_who_follows_waits_for_a_store_that_is_away(start_simulator, start_proxy, tmp_path):
    with faulty_store(tmp_path) as store:
        proxy = start_proxy(pool_config(start_simulator(1), redis=store.url, clients=[CLIENT]))
        with following(proxy, "logs") as requests, following(proxy, "events") as events:
            _, name = ask(proxy)
            proxy.command("keys", "disable", "key-0")
            assert json.loads(requests.stdout.readline())["id"] == name
            assert {json.loads(events.stdout.readline())["kind"] for _ in range(2)} == {"state", "operator"}
            store.go()
            for process in requests, events:
                assert "Waiting for it" in process.stderr.readline()
            store.heal()
            for process in requests, events:
                assert process.stderr.readline() == "quotapool: the store is back\n"
            proxy.command("keys", "enable", "key-0")
            assert {json.loads(events.stdout.readline())["kind"] for _ in range(2)} == {"state", "operator"}
            wait_until(lambda: ask(proxy)[0] == 200, "the proxy serves again", 20)
            assert json.loads(requests.stdout.readline())["client"] == "team-a"


def test_who_follows_ends_with_its_reader_and_says_nothing_of_it(start_simulator, start_proxy):
    proxy = start_proxy(pool_config(start_simulator(1), redis=None, clients=[{**CLIENT, "limits": {}}]))
    with following(proxy, "logs") as process:
        process.stdout.close()
        wait_until(lambda: ask(proxy)[0] == 200 and process.poll() is not None, "it has ended", 20)
        assert (process.returncode, process.stderr.read()) == (1, "")
