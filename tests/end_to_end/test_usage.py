"""The bill of a running pool: what `quotapool usage` says is what the answers add up to, and a stop loses nothing."""

from __future__ import annotations

import http.client
import json
from decimal import Decimal
from urllib.parse import urlsplit

from tests.fakes.processes import fetch, pool_config, wait_until

# gpt-5.5 in USD a token, by service tier (OpenAI's price list): prompt, cached prompt, completion.
RATES = {
    "default": (Decimal("5e-6"), Decimal("5e-7"), Decimal("3e-5")),
    "priority": (Decimal("1.25e-5"), Decimal("1.25e-6"), Decimal("7.5e-5")),
    "flex": (Decimal("2.5e-6"), Decimal("2.5e-7"), Decimal("1.5e-5")),
}
MICRO = Decimal("0.000001")


def ask(proxy, path="chat/completions", **body):
    told = {"model": "gpt-5.5", "messages": [{"role": "user", "content": "hello"}], **body}
    status, text = fetch(f"{proxy.base_url}/{path}", method="POST", body=told)
    assert status == 200, text
    return json.loads(text)


def cost(answer) -> Decimal:
    """What the answer says, by hand."""
    usage = answer["usage"]
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    completion = usage.get("completion_tokens", usage.get("output_tokens", 0))
    cached = (usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}).get("cached_tokens", 0)
    fresh_rate, cached_rate, rate = RATES[answer.get("service_tier", "default")]
    return (prompt - cached) * fresh_rate + cached * cached_rate + completion * rate


def streamed(proxy):
    """A stream's last word, as an answer: what it used, at the tier that its chunks named."""
    body = {"model": "gpt-5.5", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    status, text = fetch(
        f"{proxy.base_url}/chat/completions", method="POST", body={**body, "stream_options": {"include_usage": True}}
    )
    assert status == 200
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return {"usage": chunks[-1]["usage"], "service_tier": chunks[0]["service_tier"]}


def usage(proxy, *options):
    ran = proxy.command("usage", "--json", *options)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def cut_stream(proxy) -> int:
    """Ask for a stream that upstream breaks off; the number of chunks with words that came."""
    address = urlsplit(proxy.base_url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    body = {"model": "gpt-5.5", "stream": True, "messages": [{"role": "user", "content": "x" * 4000}]}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    seen = b""
    try:
        answer = connection.getresponse()
        while piece := answer.read1(65_536):
            seen += piece
    except (http.client.IncompleteRead, ConnectionError):
        pass
    connection.close()
    assert b"[DONE]" not in seen
    return seen.count(b'"content":"') - seen.count(b'"content":""')


def test_the_bill_is_what_the_answers_add_up_to_and_a_stop_loses_nothing(start_simulator, start_proxy):
    simulator = start_simulator(1, "--completion-tokens", "40")
    proxy = start_proxy(pool_config(simulator, redis=None))
    # Given chat, a cached prompt, priority, flex, responses, a stream and embeddings ...
    answers = [
        ask(proxy),
        ask(proxy, messages=[{"role": "user", "content": "x" * 8000}]),
        ask(proxy, service_tier="priority"),
        ask(proxy, service_tier="flex"),
        ask(proxy, "responses", input="hello", reasoning={"effort": "high"}),
        streamed(proxy),
    ]
    assert answers[1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    embedded = ask(proxy, "embeddings", model="text-embedding-3-small", input="x" * 4000)
    exact = sum(map(cost, answers)) + embedded["usage"]["prompt_tokens"] * Decimal("2e-8")
    # ... a model that nobody has a price for, and a stream that breaks off
    unknown = ask(proxy, model="our-own-model")
    simulator.fault(0, "reset_mid_stream", events=8)
    words = cut_stream(proxy)
    assert words > 0
    simulator.heal(0)
    # When the proxy is stopped at once, and started again on the same state
    assert proxy.stop() == 0
    proxy = start_proxy({**proxy.config})
    report = usage(proxy, "--by", "model", "--since", "2d")
    # I expect each dollar in its column, to the micro-dollar
    estimate = 1000 * RATES["default"][0] + words * RATES["default"][2]
    total = report["total"]
    assert Decimal(str(total["exact_usd"])).quantize(MICRO) == exact.quantize(MICRO)
    assert Decimal(str(total["estimated_usd"])).quantize(MICRO) == estimate.quantize(MICRO)
    assert (total["unpriced_requests"], total["requests"]) == (1, 9)
    rows = {row["model"]: row for row in report["rows"]}
    assert set(rows) == {
        "gpt-5.5", "gpt-5.5 (priority)", "gpt-5.5 (flex)", "text-embedding-3-small", "our-own-model"
    }  # fmt: skip
    assert rows["our-own-model"]["usd"] == 0
    assert rows["our-own-model"]["prompt_tokens"] == unknown["usage"]["prompt_tokens"]
    assert report["unpriced"] == ["our-own-model"]
    assert report["price_data"][0].startswith("genai-prices ")
    assert any("storage" in unseen for unseen in report["not_seen"])
    assert report["month_to_date_usd"] > 0
    # and the same sum whichever way it is cut
    for by in ("client", "day"):
        assert usage(proxy, "--by", by)["total"]["usd"] == total["usd"]
    assert "key-0" in proxy.command("usage", "--by", "key", "--csv").stdout.splitlines()[1]
    table = proxy.command("usage").stdout
    assert "not seen here" in table
    assert "our-own-model" in table


def test_rewritten_prices_count_from_the_next_request_and_metrics_follow(start_simulator, start_proxy):
    simulator = start_simulator(1, "--completion-tokens", "40")
    proxy = start_proxy(pool_config(simulator, prices={"our-own-model": {"request": 0.25, "input": 0, "output": 0}}))
    ask(proxy, model="our-own-model")
    wait_until(lambda: proxy.total("quotapool_spend_usd_total", account="key-0", kind="exact") == 0.25, "it is priced")
    ask(proxy, model="another-model")
    wait_until(lambda: proxy.total("quotapool_unpriced_requests_total") == 1, "it is counted as unpriced")
    assert usage(proxy)["total"]["usd"] == 0.25


def test_an_option_that_makes_no_sense_is_refused_in_words(start_simulator, start_proxy):
    proxy = start_proxy(pool_config(start_simulator(1)))
    for options in (
        ("--by", "moon"),
        ("--by", "client,key"),
        ("--since", "yesterday"),
        ("--until", "2020-01-01"),
        ("--every", "7m"),
        ("--top", "101"),
        ("--only", "acme", "--by", "pool"),
    ):
        ran = proxy.command("usage", *options)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith(f"quotapool: {options[0]}: ")
        assert ran.stderr.count("\n") == 1
    ran = proxy.command("usage", "--since", "30d", "--every", "1m")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "minutes are kept for 48 hours" in ran.stderr


def test_who_used_what_in_the_last_minutes_and_who_was_only_refused(start_simulator, start_proxy):
    simulator = start_simulator(1, "--completion-tokens", "40")
    keys = {name: f"qp-{name}-0123456789abcdefghijklmnopqrstuvwxyz" for name in ("web", "noisy")}
    clients = [
        {"id": "web", "key": keys["web"]},
        {"id": "noisy", "key": keys["noisy"], "models": ["gpt-4o"]},
    ]
    proxy = start_proxy(pool_config(simulator, clients=clients))
    body = {"model": "gpt-5.5", "messages": [{"role": "user", "content": "hello"}]}

    def call(client):
        headers = {"Authorization": f"Bearer {keys[client]}"}
        status, _ = fetch(f"{proxy.base_url}/chat/completions", method="POST", body=body, headers=headers)
        return status

    # Given a client that is served, and one that may not use the model
    assert [call("web"), call("web"), call("noisy"), call("noisy"), call("noisy")] == [200, 200, 403, 403, 403]
    wait_until(lambda: len(usage(proxy, "--by", "client", "--since", "10m")["rows"]) == 2, "both are counted")
    # When the last minutes are asked for by client and model, in steps
    rows = usage(proxy, "--by", "client,model", "--since", "10m", "--every", "1d")["rows"]
    # I expect what each used, and the refused one with its refusals
    assert [(row["client"], row["model"], row["requests"], row["refused_requests"]) for row in rows] == [
        ("web", "gpt-5.5", 2, 0),
        ("noisy", "-", 0, 3),
    ]
    assert sum(rows[1]["refusals"].values()) == 3
    assert rows[0]["completion_tokens"] == 80
    # and the same in the table, for spreadsheets, and from the admin API
    table = proxy.command("usage", "--by", "client,model", "--since", "10m").stdout
    assert all(word in table for word in ("web", "noisy", "gpt-5.5", "refusals", "in UTC"))
    lines = proxy.command("usage", "--by", "client,model", "--since", "10m", "--csv").stdout.splitlines()
    assert lines[0].startswith("client,model,usd,exact_usd,")
    assert len(lines) == 3
    token = {"Authorization": f"Bearer {(proxy.state_dir / 'admin-token').read_text().strip()}"}
    status, answer = fetch(f"{proxy.admin_url}/admin/usage?by=client,model&since=10m&every=1d", headers=token)
    assert (status, json.loads(answer)["rows"]) == (200, rows)
    # and one of them, or the largest and the others
    (one,) = usage(proxy, "--by", "client,model", "--since", "10m", "--every", "1d", "--only", "noisy")["rows"]
    assert one == rows[1]
    shown = proxy.command("usage", "--by", "client", "--since", "10m", "--top", "1").stdout
    assert "other: names beyond the 1 that cost most" in shown
    for parameters, clients in (("only=web", ["web"]), ("top=1", ["web", "other"]), ("only=web&top=1", ["web"])):
        status, answer = fetch(f"{proxy.admin_url}/admin/usage?by=client&since=10m&{parameters}", headers=token)
        assert (status, [row["client"] for row in json.loads(answer)["rows"]]) == (200, clients)
    # The refused three were neither tried nor did anybody wait
    for parameters in ("waited=true", "retried=true"):
        status, answer = fetch(f"{proxy.admin_url}/admin/requests?{parameters}", headers=token)
        assert (status, json.loads(answer)["requests"]) == (200, [])
    status, answer = fetch(f"{proxy.admin_url}/admin/usage?since=30d&every=1m", headers=token)
    assert (status, json.loads(answer)["error"]["code"]) == (400, "bad_request")
    assert "minutes are kept for 48 hours" in answer
