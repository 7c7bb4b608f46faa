"""`quotapool plan` on the record of a real pool: from its last requests, from usage and from its log."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.fakes.processes import pool_config, wait_until
from tests.fakes.terminal import Terminal

MODEL = "gpt-5.5"
CLIENTS = {"anna": "a-client-key-of-anna-12345", "bob": "a-client-key-of-bob-123456"}
ASKED = 90


def ask(proxy, client: str) -> int:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 50}
    headers = {"Authorization": f"Bearer {CLIENTS[client]}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{proxy.base_url}/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def plan(proxy, *options: str) -> dict:
    ran = proxy.command("plan", "--json", *options)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def recorded(start_simulator, start_proxy, empty_valkey):
    """A pool of two accounts with 30 requests a minute each, of which nothing waits, after 90 requests at once."""
    config = pool_config(
        start_simulator(2),
        redis=empty_valkey,
        limits={"default": {"rpm": 30}},
        queue={"max_wait": 0},
        clients=[{"id": name, "key": key} for name, key in CLIENTS.items()],
    )
    proxy = start_proxy(config)
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda n: ask(proxy, "anna" if n % 3 else "bob"), range(ASKED)))
    wait_until(lambda: plan(proxy)["recorded"]["requests"] == ASKED, "all requests are kept", seconds=20)
    return proxy, statuses


def test_the_same_traffic_is_refused_on_the_pool_as_it_is_and_served_by_a_larger_one(recorded):
    proxy, statuses = recorded
    refused = statuses.count(429)
    assert refused > 20  # of 90 for 60 and what comes back while they are sent
    same = plan(proxy)
    # The record has what happened, and a replay on the same pool comes to the same.
    assert same["recorded"]["refused"] == refused
    assert same["recorded"]["refusals"] == {"rate_limit_exceeded": refused}
    assert same["planned"] is None
    assert abs(same["today"]["refused"] - refused) <= 3
    assert [row["limit"] for row in same["limits"]] == [f"rpm of {MODEL}"]
    assert {row["name"] for row in same["clients"]} == set(CLIENTS)
    # With two more accounts like one of these, there is room for all of it.
    larger = plan(proxy, "--add-accounts", "2", "--like", "key-0")
    assert (larger["planned"]["refused"], larger["planned"]["served"]) == (0, ASKED)
    assert larger["changes"] == ["--add-accounts 2", "--like key-0"]
    # Or with two of OpenAI's third tier; where its limits are from is said.
    third = plan(proxy, "--add-accounts", "2", "--tier", "tier3")
    assert third["planned"]["refused"] == 0
    assert any(one.startswith("the limits of tier tier3 are those of OpenAI's model pages") for one in third["assumed"])
    # With one account less, fewer are served; with patience, nearly all.
    assert plan(proxy, "--without", "key-1")["planned"]["refused"] > same["today"]["refused"] + 20
    waiting = plan(proxy, "--max-wait", "5m")["planned"]
    assert (waiting["refused"], waiting["served"]) == (0, ASKED)
    assert waiting["wait_p99_s"] > 5
    # And what it costs is what was paid, for as many as are served.
    paid = same["recorded"]["usd"]
    assert paid > 0
    assert larger["planned"]["usd"] == pytest.approx(paid * ASKED / (ASKED - refused), rel=0.05)


def test_the_log_and_usage_hold_the_same_traffic(recorded, tmp_path):
    proxy, statuses = recorded
    served = statuses.count(200)
    log = tmp_path / "quotapool.log"
    log.write_text(proxy.log())
    of_log = plan(proxy, "--from", str(log))
    assert (of_log["recorded"]["requests"], of_log["recorded"]["served"]) == (ASKED, served)
    assert of_log["recorded"]["usd"] == pytest.approx(plan(proxy)["recorded"]["usd"])
    usage = ("--from", "usage", "--since", "2h")
    wait_until(lambda: plan(proxy, *usage)["recorded"]["requests"] == ASKED, "usage is there", seconds=20)
    of_usage = plan(proxy, *usage)
    assert of_usage["recorded"]["refusals"] == {"rate_limit_exceeded": ASKED - served}
    assert of_usage["recorded"]["usd"] == pytest.approx(of_log["recorded"]["usd"], abs=1e-6)
    assert of_usage["recorded"]["wait_p99_s"] is None
    # People see how good the record is, and what was assumed.
    shown = proxy.command("plan", "--from", str(log), "--traffic", "x2")
    assert shown.returncode == 0, shown.stderr
    assert f"quotapool.log holds {ASKED} requests of " in shown.stdout
    assert "Planned: --traffic x2" in shown.stdout


def test_a_question_without_an_answer_is_refused_in_one_line(recorded, tmp_path):
    proxy, _ = recorded
    empty = tmp_path / "empty.log"
    empty.write_text("")
    for options, why in (
        (("--without", "key-7"), "--without key-7: there is no key or account 'key-7'; did you mean 'key-"),
        (("--add-accounts", "2"), "--add-accounts 2: needs one of --tier NAME, --like ACCOUNT and --limits"),
        (("--add-accounts", "2", "--tier", "tier7"), "--tier tier7: there is no tier 'tier7' here (tier1, "),
        (("--add-accounts", "2", "--tier", "grow"), f"no limits of {MODEL} in tier 'grow': write them beside it"),
        (("--traffic", "twice"), "--traffic twice: is written x2"),
        (
            ("--traffic", "x1000", "--traffic", "x1000"),
            f"would be {ASKED * 10**6:,} requests, and at most 2,000,000 are",
        ),
        (("--client-weight", "carl=2"), "--client-weight carl=2: there is no client 'carl'"),
        (("--limit", "key-0.tpd2=1"), "--limit key-0.tpd2=1: 'key-0.tpd2' is no limit"),
        (("--from", str(empty)), f"{empty} is empty"),
        (("--from", str(tmp_path / "none.log")), "none.log"),
        (("--since", "yesterday"), "--since: 'yesterday' must be a day"),
    ):
        ran = proxy.command("plan", *options)
        assert ran.returncode == 2, (options, ran.stdout)
        assert why in ran.stderr, options
        assert len(ran.stderr.splitlines()) == 1, ran.stderr


def test_a_terminal_sees_how_far_it_is_and_a_pipe_only_the_result(recorded, tmp_path):
    proxy, _ = recorded
    line = next(line for line in proxy.log().splitlines() if '"event":"request"' in line and '"status":200' in line)
    log, began = tmp_path / "long.log", datetime(2026, 11, 1, tzinfo=UTC)
    with log.open("w") as lines:
        for n in range(20_000):  # so many take more than a moment
            lines.write(json.dumps({**json.loads(line), "ts": (began + timedelta(seconds=n)).isoformat()}))
            lines.write("\n")
    asked = ("plan", "--from", str(log), "--traffic", "x2", "--config", str(proxy.config_file))
    command = [sys.executable, "-m", "quotapool", *asked]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with Terminal(command, tmp_path, env) as terminal:
        terminal.wait_for("replaying it on today's pool")
        terminal.wait_for("planned")
        assert terminal.end() == 0
    piped = proxy.command("plan", "--traffic", "x2")
    assert (piped.returncode, piped.stderr) == (0, "")
    assert piped.stdout.startswith(f"The ring holds {ASKED} requests of ")
