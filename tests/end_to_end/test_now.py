"""`quotapool now`, `room` and `savings`, and the admin API's first page, of a running pool and after its end."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request

from tests.fakes.processes import fetch, pool_config, wait_until

MODEL = "gpt-5.5"


def ask(proxy, tokens: int = 100) -> int:
    words = {"role": "user", "content": "hello " * tokens}
    body = json.dumps({"model": MODEL, "messages": [words], "max_completion_tokens": 50}).encode()
    request = urllib.request.Request(f"{proxy.base_url}/chat/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def admin(proxy, path: str):
    token = (proxy.state_dir / "admin-token").read_text().strip()
    status, text = fetch(f"{proxy.admin_url}/admin/{path}", headers={"Authorization": f"Bearer {token}"})
    assert status == 200, text
    return json.loads(text)


def test_what_the_first_page_shows_is_true_and_outlives_the_proxy(start_simulator, start_proxy, empty_valkey):
    simulator = start_simulator(2)
    # Given a dead key, and two alive that may use 60 requests a minute each
    keys = [
        {"id": "dead", "secret": "sk-proj-of-nobody-000000000000000000000"},
        *({"id": f"key-{n}", "secret": secret} for n, secret in enumerate(simulator.secrets)),
    ]
    config = pool_config(simulator, redis=empty_valkey, limits={"default": {"rpm": 60}}, queue={"max_wait": 20})
    proxy = start_proxy(config | {"keys": keys})
    statuses: list[int] = []

    def load() -> None:
        with contextlib.suppress(OSError):  # the proxy is stopped under it
            statuses.extend(ask(proxy) for _ in range(20))

    # when 8 clients send 160 requests, which is more than there is
    threads = [threading.Thread(target=load, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    # then some wait, and the page says who and for what
    wait_until(lambda: sum(row["waiting"] for row in admin(proxy, "now")["waiting"]) >= 4, "requests wait", seconds=60)
    wait_until(lambda: admin(proxy, "now")["room"], "there is a sample", seconds=20)
    now = admin(proxy, "now")
    (row,) = [row for row in now["waiting"] if row["waiting"]]
    assert (row["model"], row["dimension"], row["client"], row["rule"]) == (MODEL, "rpm", "anonymous", "")
    rpm = next(row for row in now["room"] if row["dimension"] == "rpm")
    assert (rpm["model"], rpm["limit"], rpm["accounts"]) == (MODEL, 120, 2)
    assert rpm["remaining"] <= 120
    # ... the dead key is the first thing to look at, and requests were rescued from it and by the queue.
    assert now["attention"][0]["ids"] == ["dead"]
    assert (now["keys"]["removed"], now["usable_keys"]) == (1, 2)
    assert now["sentence"].startswith("Serving: 2 of 3 keys.")
    wait_until(lambda: admin(proxy, "savings")["queued"] > 0, "some were served after a wait", seconds=20)
    assert admin(proxy, "savings")["rescued"]["key"] >= 1
    wait_until(lambda: any(admin(proxy, "samples")["waiting"]), "a sample with a queue", seconds=20)
    shown = proxy.command("now")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("Serving: 2 of 3 keys.")
    assert "in the queue" in shown.stdout
    proxy.stop()
    # What was kept is there without a proxy.
    again = json.loads(proxy.command("now", "--json").stdout)
    assert (again["keys"]["removed"], again["room"][0]["model"]) == (1, MODEL)
    room = json.loads(proxy.command("room", MODEL, "--json").stdout)
    assert {row["account"] for row in room["accounts"]} == {"key-0", "key-1"}
    assert proxy.command("room", "gpt-unheard-of").returncode == 2
    assert json.loads(proxy.command("savings", "--json").stdout)["rescued"]["key"] >= 1
    assert "waited in the queue instead of being refused" in proxy.command("savings").stdout
    # And a new one goes on where it was.
    after = start_proxy(config | {"keys": keys})
    samples = admin(after, f"samples?model={MODEL}&minutes=60")
    assert samples["at"] == sorted(samples["at"])
    assert {one["model"] for one in samples["series"]} == {MODEL}
    assert all(len(one[name]) == len(samples["at"]) for one in samples["series"] for name in ("remaining", "used"))
    assert admin(after, "samples?model=gpt-unheard-of")["series"] == []
