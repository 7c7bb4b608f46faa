"""docs/log-with-jq.md: each command, run by jq on a real log, gives what the requests were."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from quotapool.observe.request_line import RequestLine, SavedLine

from tests.fakes.documented import DOCS, blocks, run
from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, start_proxy_process, wait_until

KEYS = {"anna": "a-client-key-of-anna-12345", "bob": "a-client-key-of-bob-123456"}
HEADINGS = [line[3:] for line in (DOCS / "log-with-jq.md").read_text().splitlines() if line.startswith("## ")]


def ask(proxy: RunningProxy, client: str, model: str = "gpt-4o-mini") -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": f"Bearer {KEYS[client]}"}
    fetch(f"{proxy.base_url}/chat/completions", method="POST", body=body, headers=headers)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A directory with `quotapool.log`, and its request lines.

    Of anna's, one moved away from an empty account, and the last found none. Of bob's four, his limit refused one.
    """
    folder = tmp_path_factory.mktemp("log")
    simulator = Simulator.start(2)
    clients = [{"id": "anna", "key": KEYS["anna"]}, {"id": "bob", "key": KEYS["bob"], "limits": {"rpm": 3}}]
    proxy = start_proxy_process(folder, pool_config(simulator, clients=clients, queue={"max_wait": "0s"}))
    try:
        for _ in range(2):
            ask(proxy, "anna")
        ask(proxy, "bob", "gpt-4o")
        for _ in range(3):
            ask(proxy, "bob")
        simulator.fault(0, "insufficient_quota")
        for asked in range(7, 50):
            ask(proxy, "anna")
            wait_until(lambda n=asked: len(proxy.request_lines()) == n, "the request is logged", 10)
            if len(proxy.request_lines()[-1]["attempts"]) > 1:
                break
        simulator.fault(1, "insufficient_quota")
        ask(proxy, "anna")
        wait_until(lambda: len(proxy.request_lines()) == asked + 1, "every request is logged", 10)
    finally:
        proxy.stop()
        simulator.stop()
    (folder / "quotapool.log").write_text(proxy.log())
    return folder, proxy.request_lines()


def output(logged: tuple[Path, list[dict[str, Any]]], heading: str, **environment: str) -> list[str]:
    (command,) = blocks("log-with-jq.md", heading)
    return run(command, logged[0], **environment).stdout.splitlines()


@pytest.fixture(autouse=True)
def _jq(program):
    program("jq")


def test_statuses_and_codes(logged):
    lines = Counter(f"{line['status']} {line.get('code', '')}".strip() for line in logged[1])
    assert lines["200"] >= 6
    assert {" ".join(row.split()[1:]): int(row.split()[0]) for row in output(logged, HEADINGS[0])} == lines


def test_tokens_by_client(logged):
    sums: Counter[str] = Counter()
    for line in logged[1]:
        tokens = line["tokens"] or {"prompt": 0, "completion": 0}
        sums[line["client"]] += tokens["prompt"] + tokens["completion"]
    count = Counter(line["client"] for line in logged[1])
    shown = [row.split("\t") for row in output(logged, "Who used the most tokens?")]
    assert shown == [[name, str(count[name]), str(tokens)] for name, tokens in sums.most_common()]


def test_times_by_model(logged):
    shown = [row.split("\t") for row in output(logged, "How fast were the answers, by model?")]
    times = sorted(line["total_ms"] for line in logged[1] if line["status"] == 200 and line["model"] == "gpt-4o-mini")
    assert [(row[0], row[1]) for row in shown] == [("gpt-4o", "1"), ("gpt-4o-mini", str(len(times)))]
    assert float(shown[1][2].removeprefix("p50 ")) == times[len(times) // 2]
    assert float(shown[1][3].removeprefix("p99 ")) == times[-1]


def test_the_slowest_are_first(logged):
    shown = output(logged, "Which were the slowest, and where was the time?")
    slowest = sorted(logged[1], key=lambda line: -line["total_ms"])[:10]
    assert [row.split("\t")[-1] for row in shown] == [line["request_id"] for line in slowest]
    assert shown[0].startswith(f"{slowest[0]['total_ms']:g} ms: queue ")


def test_refusals_have_their_client_code_and_rule(logged):
    shown = output(logged, "Who was refused by the proxy, and why?")
    assert sorted(row.split() for row in shown) == [
        ["1", "anna", "pool_credit_exhausted"],
        ["1", "bob", "client_rate_limited", "rpm"],
    ]


def test_what_another_key_saved(logged):
    (shown,) = output(logged, "Which requests did another key save?")
    assert json.loads(shown)["client"] == "anna"
    assert json.loads(shown)["tried"] == ["key-0: money", "key-1: ok"]


def written(folder: Path, *lines: tuple[str, dict[str, Any]]) -> tuple[Path, list[dict[str, Any]]]:
    """A log of requests for gpt-4o: each its client, and what its line has besides."""
    common = {"endpoint": "chat", "model": "gpt-4o", "status": 200, "attempts": (), "tokens": None}
    times = {"queue_ms": 0.0, "ttfb_ms": None, "total_ms": 1.0, "overhead_ms": 1.0}
    rows = [RequestLine(request_id="qp_1", client=client, **common, **times, **more) for client, more in lines]
    (folder / "quotapool.log").write_bytes(msgspec.json.Encoder().encode_lines(rows))
    return folder, []


HIT: dict[str, Any] = {"source": "cache", "cache": "hit"}
UPSTREAM: dict[str, Any] = {"source": "upstream"}


def test_what_the_cache_saved(tmp_path):
    log = written(
        tmp_path,
        ("anna", HIT | {"saved": SavedLine(1, 10, 5, 0.25)}),
        ("bob", HIT | {"saved": SavedLine(1, 10, 5, None)}),
        ("anna", HIT | {"saved": SavedLine(1, 9, 5, 0.5)}),
        ("anna", UPSTREAM),
    )
    shown = [row.split("\t") for row in output(log, "What did the cache save?")]
    assert shown == [["anna", "2 calls", "0.75 USD"], ["bob", "1 calls", "null USD"]]


def test_how_often_the_cache_serves_and_why_not(tmp_path):
    bypass = UPSTREAM | {"cache": "bypass", "kept": "stored_objects"}
    log = written(
        tmp_path,
        *[("anna", HIT), ("anna", HIT | {"cache": "coalesced"}), ("anna", UPSTREAM | {"cache": "miss"})],
        *[
            ("anna", bypass),
            ("anna", bypass),
            ("bob", UPSTREAM | {"cache": "miss", "kept": "refusal"}),
            ("eve", UPSTREAM),
        ],
    )
    shown = [row.split("\t") for row in output(log, "How often does the cache serve each client?")]
    assert shown == [["anna", "3 requests", "66 %"], ["bob", "1 requests", "0 %"]]
    assert [row.split() for row in output(log, "Why not more of them?")] == [
        ["2", "anna", "gpt-4o", "bypass", "stored_objects"],
        ["1", "bob", "gpt-4o", "miss", "refusal"],
    ]


def test_outcomes_by_key(logged):
    tried = Counter((a["key"], a["outcome"], a["status"]) for line in logged[1] for a in line["attempts"])
    assert {key for key, _, _ in tried} == {"key-0", "key-1"}
    shown = {tuple(row.split()[1:]): int(row.split()[0]) for row in output(logged, "What did each key answer?")}
    assert shown == {(key, outcome, str(status)): count for (key, outcome, status), count in tried.items()}


def test_minutes(logged):
    minutes = Counter(line["ts"][:16] for line in logged[1])
    shown = {row.split()[1]: int(row.split()[0]) for row in output(logged, "How much came in each minute?")}
    assert shown == minutes


def test_one_request(logged):
    wanted = logged[1][0]["request_id"]
    shown = "\n".join(output(logged, "What became of this request?", REQUEST_ID=wanted))
    assert wanted in shown
    assert shown.count('"request_id"') == 1


@pytest.mark.parametrize("heading", HEADINGS)
def test_every_command_runs(logged, heading):
    output(logged, heading, REQUEST_ID="none")
