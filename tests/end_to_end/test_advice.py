"""`quotapool advise` and the admin API of a running pool: planted waste is shown, and nothing of what was said."""

from __future__ import annotations

import json
import urllib.request

from playwright.sync_api import expect

from tests.fakes.browser import chromium, opened
from tests.fakes.canaries import CLIENT
from tests.fakes.processes import fetch, pool_config, wait_until

CANARY = CLIENT["a prompt"]
MODEL = "gpt-4o-mini"
ROOMY = ("--rpm", "100000", "--tpm", "100000000", "--latency-ms", "1")


def ask(proxy, words: str, max_tokens: int) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": words}], "max_tokens": max_tokens}
    request = urllib.request.Request(
        f"{proxy.base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def advice(proxy):
    token = (proxy.state_dir / "admin-token").read_text().strip()
    status, text = fetch(f"{proxy.admin_url}/admin/advice", headers={"Authorization": f"Bearer {token}"})
    assert status == 200, text
    return json.loads(text)


def repeats(proxy) -> int:
    return sum(row["facts"]["repeats"] for row in advice(proxy)["rows"] if row["kind"] == "repeats")


def test_planted_waste_is_shown_with_what_it_costs(start_simulator, start_proxy):
    simulator = start_simulator(1, *ROOMY)
    proxy = start_proxy(pool_config(simulator, workers=2, advice={"enabled": True}))
    assert advice(proxy)["rows"] == []
    # Given 150 requests, of which 149 repeat the first, and which allow far more than they use
    for _ in range(150):
        ask(proxy, CANARY, 4096)
    wait_until(lambda: repeats(proxy) == 149, "all is noted", seconds=30)
    found = advice(proxy)
    assert (found["enabled"], found["requests"]) == (True, 150)
    by_kind = {row["kind"]: row for row in found["rows"]}
    assert set(by_kind) == {"repeats", "maximum"}
    assert (by_kind["maximum"]["facts"]["allowed"], by_kind["maximum"]["client"]) == (4096, "")
    # ... the command says the same, also without the proxy,
    proxy.stop()
    said = proxy.command("advise")
    assert said.returncode == 0, said.stderr
    assert "from 150 requests in one day" in said.stdout
    assert "149 of 150 requests were the same, word for word" in said.stdout
    printed = json.loads(proxy.command("advise", "--json").stdout)
    assert [row["kind"] for row in printed["rows"]] == [row["kind"] for row in found["rows"]]
    # and what was asked is nowhere.
    assert CANARY not in json.dumps(found)
    assert CANARY not in said.stdout
    for file in proxy.state_dir.rglob("*"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes(), file


def test_the_page_says_it_in_the_readers_language(start_simulator, start_proxy, program):
    proxy = start_proxy(pool_config(start_simulator(1, *ROOMY), advice={"enabled": True}))
    for _ in range(120):
        ask(proxy, "the same", 4096)
    wait_until(lambda: repeats(proxy) == 119, "all is noted", seconds=30)
    with chromium(program("chromium")) as browser:
        for locale, words in (("en-GB", "a maximum of 64 is enough"), ("zh-CN", "上限设为 64 就够了")):
            link = proxy.command("dashboard", "--no-open").stdout.split()
            with opened(browser, next(word for word in link if word.startswith("http")), locale=locale) as page:
                expect(page.get_by_role("navigation")).to_be_visible()
                page.evaluate("location.hash = '#/advice'")
                expect(page.get_by_text(words)).to_be_visible()
                how = page.get_by_text("119 of 120 requests were the same, word for word")
                expect(how).to_be_hidden()
                page.locator("details", has=how).locator("summary").click()
                expect(how).to_be_visible()


def test_it_is_off_unless_it_is_asked_for(start_simulator, start_proxy, empty_valkey):
    proxy = start_proxy(pool_config(start_simulator(1, *ROOMY), redis=empty_valkey))
    ask(proxy, "hello", 10)
    assert advice(proxy) == {"enabled": False, "days": 1.0, "requests": 0, "rows": []}
    said = proxy.command("advise")
    assert "advice.enabled is false" in said.stdout
