"""Limits and budgets from the command line to the SDK: what operators set is kept, and both sides see the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until
from tests.fakes.running import raw, running_proxy, running_simulator

DOCUMENT = Path(__file__).parents[2] / "docs" / "client-budgets.md"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}
PAGE = "https://app.example.com"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(1) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    config = pool_config(
        simulator,
        workers=2,
        queue={"max_wait": 0},
        allowed_origins=[PAGE],
        clients=[{"id": "operator", "key": "a-client-key-of-the-operator"}],
        teams={"fixed": {"limits": {"rpm": 1000}}},
    )
    with running_proxy(tmp_path_factory.mktemp("budgets"), config) as running:
        yield running


def ran(proxy: RunningProxy, *words: str) -> str:
    done = proxy.command(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def add(proxy: RunningProxy, name: str, *more: str) -> str:
    """A new client's key, which all workers serve at once."""
    made = ran(proxy, "clients", "add", name, *more)
    key = str(re.findall(r"^export OPENAI_API_KEY=(.*)$", made, re.MULTILINE)[0])
    assert {me(proxy, key).status for _ in range(20)} == {200}
    return key


def admin(proxy: RunningProxy, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    token = (proxy.state_dir / "admin-token").read_text().strip()
    url, headers = f"{proxy.admin_url}/admin{path}", {"Authorization": f"Bearer {token}"}
    status, text = fetch(url, method=method, body=body, headers=headers)
    return status, json.loads(text)


def me(proxy: RunningProxy, key: str, **headers: str) -> Any:
    return raw(proxy.base_url, "GET", "/quotapool/me", {"Authorization": f"Bearer {key}", **headers})


def me_command(proxy: RunningProxy, key: str, *words: str, url: str = "") -> subprocess.CompletedProcess[str]:
    """`quotapool me`, as on a client's machine: no configuration, only the two variables."""
    plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env = {**plain, "OPENAI_BASE_URL": url or proxy.base_url, "OPENAI_API_KEY": key}
    command = [sys.executable, "-m", "quotapool", "me", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=30)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def figures(rules: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Used, held and left of each budget, by subject and id; rates change while one looks."""
    return {(r["subject"], r["id"]): (r["used"], r["held"], r["left"]) for r in rules if "/" in r["id"]}


def seen_by_all(proxy: RunningProxy, name: str, key: str) -> list[dict[tuple[str, str], tuple[float, float, float]]]:
    """The same rules from each place that shows them."""
    return [
        figures(json.loads(me(proxy, key).body)["rules"]),
        figures(json.loads(me_command(proxy, key, "--json").stdout)["rules"]),
        figures(json.loads(ran(proxy, "clients", "show", name, "--json"))["rules"]),
        figures(admin(proxy, "GET", f"/clients/{name}")[1]["rules"]),
        figures(next(c for c in admin(proxy, "GET", "/clients")[1]["clients"] if c["id"] == name)["rules"]),
    ]


def test_what_was_used_is_the_sum_of_the_answers_wherever_one_looks(proxy):
    ran(proxy, "teams", "add", "red", "--budget", "tokens=1M/month", "--budget", "usd=100/month", "--title", "Red")
    keys = {
        name: add(proxy, name, "--team", "red", "--budget", "tokens=50k/day", "--budget", "requests=100/total")
        for name in ("app", "web")
    }
    used = dict.fromkeys(keys, 0)
    for name, key in keys.items():
        with OpenAI(base_url=proxy.base_url, api_key=key, max_retries=0) as client:
            for n in range(4):
                if n % 2:
                    stream = client.chat.completions.create(
                        **CHAT, max_tokens=50, stream=True, stream_options={"include_usage": True}
                    )
                    used[name] += sum(chunk.usage.total_tokens for chunk in stream if chunk.usage)
                else:
                    used[name] += client.chat.completions.create(**CHAT, max_tokens=50).usage.total_tokens
    total = sum(used.values())

    def settled() -> bool:
        own = figures(json.loads(me(proxy, keys["web"]).body)["rules"])
        return own["client web", "tokens/day"][0] == used["web"] and own["team red", "tokens/month"] == (
            *(total, 0, 1_000_000 - total),
        )

    wait_until(settled, "all is settled", 15)
    time.sleep(1.1)  # each worker keeps an answer for a second
    for name, key in keys.items():
        for seen in seen_by_all(proxy, name, key):
            assert seen["client " + name, "tokens/day"] == (used[name], 0, 50_000 - used[name])
            assert seen["client " + name, "requests/total"] == (4, 0, 96)
            assert seen["team red", "tokens/month"] == (total, 0, 1_000_000 - total)
            usd, held, left = seen["team red", "usd/month"]
            assert 0 < usd < 0.01
            assert (held, left) == (0, pytest.approx(100 - usd))

    # The team's money is what the bill says of its clients.
    def booked() -> float:
        rows = admin(proxy, "GET", "/usage?by=client")[1]["rows"]
        return sum(row["exact_usd"] + row["estimated_usd"] for row in rows if row["client"] in keys)

    usd = figures(json.loads(me(proxy, keys["app"]).body)["rules"])["team red", "usd/month"][0]
    wait_until(lambda: booked() == pytest.approx(usd, abs=1.1e-6), "it is booked", 5)  # rows are in micro-dollars
    row = json.loads(ran(proxy, "clients", "show", "app", "--json"))
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", row["last_seen"])
    listed = ran(proxy, "clients", "list")
    assert re.search(r"app .* red .* 100 requests in total +4 %", listed)
    assert "Red" in ran(proxy, "teams", "show", "red")
    assert "app, web" in ran(proxy, "teams", "list")


def test_a_budget_that_is_used_up_is_a_rate_limit_error_until_it_is_raised(proxy):
    key = add(proxy, "small", "--budget", "requests=2/total")
    with OpenAI(base_url=proxy.base_url, api_key=key, max_retries=0) as client:
        for _ in range(2):
            client.chat.completions.create(**CHAT, max_tokens=5)
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(**CHAT, max_tokens=5)
        assert raised.value.code == "client_budget_exhausted"
        assert raised.value.response.headers["x-should-retry"] == "false"

        def refusals() -> list[dict[str, Any]]:
            return list(json.loads(me(proxy, key).body)["refusals"])

        wait_until(refusals, "the refusal is shown", 15)
        time.sleep(1.1)  # each worker keeps an answer for a second
        (refusal,) = refusals()
        assert (refusal["code"], refusal["rules"], refusal["count"]) == (
            "client_budget_exhausted",
            ["requests/total"],
            1,
        )
        assert refusal["message"] == raised.value.body["message"]
        shown = me_command(proxy, key).stdout
        assert re.search(r"client small +2 requests in total +2 +0 +0 +100 %", shown)
        assert "client_budget_exhausted" in shown

        ran(proxy, "clients", "set", "small", "--budget", "requests=3/total")
        wait_until(lambda: json.loads(me(proxy, key).body)["rules"][0]["limit"] == 3, "the new budget is known", 15)
        wait_until(lambda: served(client), "there is room again", 15)
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**CHAT, max_tokens=5)
        ran(proxy, "clients", "set", "small", "--budget", "")
        wait_until(lambda: served(client), "there is no budget any more", 15)
        wait_until(lambda: json.loads(me(proxy, key).body)["rules"] == [], "and none is shown", 15)

        # One of the same name begins anew.
        ran(proxy, "clients", "revoke", "small")
    with OpenAI(
        base_url=proxy.base_url, api_key=add(proxy, "small", "--budget", "requests=2/total"), max_retries=0
    ) as c:
        c.chat.completions.create(**CHAT, max_tokens=5)


def served(client: OpenAI) -> bool:
    try:
        client.chat.completions.create(**CHAT, max_tokens=5)
    except openai.RateLimitError:
        return False
    return True


def test_rates_and_slots_have_codes_of_their_own(proxy):
    key = add(proxy, "quick", "--rpm", "1")
    with OpenAI(base_url=proxy.base_url, api_key=key, max_retries=0) as client:
        client.chat.completions.create(**CHAT, max_tokens=5)
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(**CHAT, max_tokens=5)
        assert raised.value.code == "client_rate_limited"
        assert 0 < int(raised.value.response.headers["retry-after"]) <= 60


def test_teams_over_the_admin_api(proxy):
    status, made = admin(proxy, "POST", "/teams", {"id": "blue", "limits": {"rpm": "1k"}, "name": "Blue"})
    assert (status, made["limits"]["rpm"], made["limits"]["tpm"], made["clients"]) == (201, 1000, None, [])
    assert [rule["words"] for rule in made["rules"]] == ["1,000 requests a minute"]
    assert admin(proxy, "POST", "/teams", {"id": "blue"})[0] == 409
    budgets = [{"usd": 5, "per": "day"}]
    status, changed = admin(proxy, "PATCH", "/teams/blue", {"limits": {"rpm": None}, "budgets": budgets})
    assert (status, [rule["id"] for rule in changed["rules"]]) == (200, ["usd/day"])
    status, client = admin(proxy, "POST", "/clients", {"id": "sky", "team": "blue"})
    assert status == 201
    assert json.loads(me(proxy, client["key"]).body)["team"] == "blue"
    status, refused = admin(proxy, "DELETE", "/teams/blue")
    assert (status, "still has clients: sky" in refused["error"]["message"]) == (409, True)
    status, _ = admin(proxy, "PATCH", "/clients/sky", {"team": None, "limits": {"concurrent": 3}})
    assert status == 200
    assert admin(proxy, "DELETE", "/teams/blue") == (200, {"id": "blue", "gone": True})
    assert admin(proxy, "GET", "/teams/blue")[0] == 404
    assert {team["id"]: team["source"] for team in admin(proxy, "GET", "/teams")[1]["teams"]}[
        "fixed"
    ] == "configuration"
    for method, path, body, status in (
        ("POST", "/clients", {"id": "x", "team": "nowhere"}, 400),
        ("PATCH", "/clients/sky", {"team": "nowhere"}, 400),
        ("POST", "/clients", {"id": "x", "budgets": [{"usd": 1, "tokens": 1, "per": "day"}]}, 400),
        ("POST", "/teams", {"id": "x", "team": "blue"}, 400),
        ("POST", "/teams", {"id": "two words"}, 400),
        ("POST", "/teams", {"id": "x", "limits": {"rpm": 0}}, 400),
        ("POST", "/teams", {"id": "fixed"}, 409),
        ("PATCH", "/teams/fixed", {"notes": "n"}, 409),
        ("PATCH", "/teams/nowhere", {"notes": "n"}, 404),
        ("DELETE", "/teams/nowhere", None, 404),
        ("GET", "/clients/nobody", None, 404),
    ):
        assert admin(proxy, method, path, body)[0] == status, (method, path, body)


def test_each_command_tells_what_is_wrong_in_one_line(proxy):
    add(proxy, "here", "--team", "fixed")
    for words, problem in (
        (("clients", "add", "x", "--team", "fixd"), "team: there is no such team"),
        (("clients", "add", "x", "--budget", "usd=50"), "--budget 'usd=50': usd needs a period"),
        (("clients", "add", "x", "--rpm", "many"), "limits.rpm: must be a number, such as 1000, 500k or 2M"),
        (("clients", "set", "here", "--time-zone", "Mars/Base"), "time_zone: is not a time zone of this system"),
        (("clients", "set", "here", "--allowed-ips", "office"), "allowed_ips[0]: must be an IP address or a network"),
        (("clients", "set", "here", "--on-stream-overrun", "stop"), "must be one of 'finish' or 'cut'"),
        (("clients", "set", "here", "--cache", "yes"), "--cache is on, off or default"),
        (("clients", "set", "here", "--budget", "usd=1/day", "--budget", "usd=2/day"), "there are two of usd/day"),
        (("clients", "show", "nobody"), "no client 'nobody'"),
        (("clients", "show", ""), "no client ''"),
        (("teams", "add", "two words"), "NAME must be a name"),
        (("teams", "add", "fixed"), "is in the configuration"),
        (("teams", "add", "x", "--budget", "tokens=2X/day"), "tokens: must be a number"),
        (("teams", "set", "fixed", "--rpm", "5"), "is in the configuration"),
        (("teams", "set", "nowhere", "--rpm", "5"), "no team 'nowhere'"),
        (("teams", "set", "nowhere"), "nothing to change was given"),
        (("teams", "show", "nowhere"), "no team 'nowhere'"),
        (("teams", "show", ""), "no team ''"),
        (("teams", "remove", "nowhere"), "no team 'nowhere'"),
        (("teams", "remove", "fixed"), "is in the configuration"),
    ):
        failed = proxy.command(*words)
        assert (failed.returncode, problem in failed.stderr) == (2, True), (words, failed.stderr)
        assert len(failed.stderr.strip().splitlines()) == 1, failed.stderr
    ran(proxy, "teams", "add", "busy")
    ran(proxy, "clients", "set", "here", "--team", "busy")
    failed = proxy.command("teams", "remove", "busy")
    assert (failed.returncode, "team busy still has clients: here" in failed.stderr) == (2, True)
    ran(proxy, "clients", "set", "here", "--team", "")
    ran(proxy, "teams", "remove", "busy")


def test_a_client_that_asks_wrongly_is_told_so(proxy):
    key = add(proxy, "asker")
    for done, problem in (
        (me_command(proxy, "qp-of-nobody-000000"), "This client key is unknown or was revoked."),
        (me_command(proxy, ""), "set OPENAI_API_KEY"),
        (me_command(proxy, key, "--base-url", "localhost:8080"), "must be an http:// or https:// URL"),
        (me_command(proxy, key, url="http://127.0.0.1:9/v1"), "no answer from http://127.0.0.1:9/quotapool/me"),
        (me_command(proxy, key, url=f"{proxy.admin_url}/v1"), "admin_token_wanted"),
    ):
        assert (done.returncode, problem in done.stderr) == (2, True), done.stderr
        assert key not in done.stderr
    assert "no limits and budgets of its own" in me_command(proxy, key).stdout

    page = me(proxy, key, Origin=PAGE)
    assert (page.status, page.header("access-control-allow-origin")) == (200, PAGE)
    assert me(proxy, key, Origin="https://evil.example").header("access-control-allow-origin") is None
    preflight = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    assert raw(proxy.base_url, "OPTIONS", "/quotapool/me", preflight).status == 204


def test_the_documented_team_of_five_is_made_as_it_is_printed(proxy):
    block = re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)[0]
    assert len(block.splitlines()) <= 10
    lines = block.replace("quotapool ", f"{sys.executable} -m quotapool ").replace(
        "http://127.0.0.1:8080/v1", proxy.base_url
    )
    operators, ours, clients = lines.partition("export ")
    assert "quotapool me" in clients
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}

    def run(script: str, **more: str) -> str:
        done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, env={**env, **more}, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = run(operators, QUOTAPOOL_CONFIG=str(proxy.config_file))
    key = re.findall(r"# client ada:.*\n.*\nexport OPENAI_API_KEY=(.*)$", printed, re.MULTILINE)[0]
    assert "ada, ben, cleo, dan, eve" in printed
    wait_until(lambda: "$60.00 a month" in run(ours + clients, KEY_OF_ADA=key), "the change is obeyed", 15)
    assert re.search(r"team research +\$100.00 a month", run(ours + clients, KEY_OF_ADA=key))
