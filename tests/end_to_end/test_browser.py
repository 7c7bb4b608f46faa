"""A real browser: a page of another origin streams a chat through the proxy and shows it word by word."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fakes.processes import pool_config
from tests.fakes.running import seen_upstream
from tests.fakes.valkey import free_port

KEY = "a-client-key-of-some-length"
PAGE = """<!doctype html><title>waiting</title><pre id="said"></pre><pre id="headers"></pre><pre id="refused"></pre>
<script>
const base = BASE, show = (id, text) => { document.getElementById(id).textContent = text; };
const ask = (key, more) => fetch(base + "/chat/completions", {
  method: "POST",
  headers: {"Authorization": "Bearer " + key, "Content-Type": "application/json", "X-Stainless-Lang": "js"},
  body: JSON.stringify({model: "gpt-4o-mini", messages: [{role: "user", content: "Say hello."}], ...more}),
});
async function main() {
  const answer = await ask(KEY, {stream: true});
  show("headers", [answer.status, answer.headers.get("x-request-id") !== null,
                   answer.headers.get("x-quotapool-source"),
                   answer.headers.get("x-ratelimit-limit-requests") !== null].join(" "));
  let text = "", said = "", pieces = 0;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const {value, done} = await reader.read();
    if (done) break;
    pieces += 1;
    text += value;
  }
  for (const line of text.split("\\n"))
    if (line.startsWith("data: {")) said += JSON.parse(line.slice(6)).choices[0]?.delta?.content ?? "";
  show("said", said + "|" + pieces + "|" + text.includes("[DONE]"));
  const refused = await ask("not-a-key-of-this-proxy", {});
  show("refused", refused.status + " " + (await refused.json()).error.code);
}
main().catch(error => show("refused", "failed: " + error)).finally(() => { document.title = "over"; });
</script>
"""


@contextmanager
def page_server(html: str, port: int = 0) -> Iterator[str]:
    """Serves one page at any path; its origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def shown(dom: str, element: str) -> str:
    return dom.partition(f'<pre id="{element}">')[2].partition("</pre>")[0]


@pytest.fixture
def browse(program, tmp_path: Path):
    """`browse(url, *switches)`: the document after its scripts have run."""
    chromium = program("chromium")

    def run(url: str, *switches: str) -> str:
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--no-first-run", "--disable-extensions", "--disable-background-networking",
                   f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=15000",
                   *switches, "--dump-dom", url]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def page_for(base_url: str) -> str:
    return PAGE.replace("BASE", json.dumps(base_url)).replace("ask(KEY", f'ask("{KEY}"')


def test_a_page_of_an_allowed_origin_streams_a_chat(start_simulator, start_proxy, browse):
    simulator = start_simulator(2)
    port = free_port()
    origin = f"http://localhost:{port}"
    clients, limits = [{"id": "app", "key": KEY}], {"default": {"rpm": 1000, "tpm": 1_000_000}}
    proxy = start_proxy(pool_config(simulator, clients=clients, limits=limits, allowed_origins=[origin]))
    with page_server(page_for(proxy.base_url), port):
        dom = browse(origin)
    assert "<title>over</title>" in dom, dom
    assert "failed" not in shown(dom, "refused"), dom
    said, pieces, complete = shown(dom, "said").rsplit("|", 2)
    assert said.strip()
    assert int(pieces) >= 1
    assert complete == "true"
    assert shown(dom, "headers") == "200 true upstream true"
    assert shown(dom, "refused") == "401 invalid_proxy_key"
    # The preflights stayed here.
    assert {seen["method"] for seen in seen_upstream(simulator)} == {"POST"}


NEXTCHAT = """<!doctype html><title>waiting</title><pre id="said"></pre><pre id="balance"></pre><pre id="refused"></pre>
<script>
const host = HOST, show = (id, text) => { document.getElementById(id).textContent = text; };
const headers = {"Content-Type": "application/json", "Accept": "application/json", "Authorization": "Bearer " + KEY};
const payload = {messages: [{role: "user", content: "Say hello."}], stream: true, model: "gpt-4o-mini",
                 temperature: 0.5, presence_penalty: 0, frequency_penalty: 0, top_p: 1};
async function main() {
  const [used, subscription] = await Promise.all([
    fetch(host + "/dashboard/billing/usage?start_date=2026-11-01&end_date=2026-11-30", {headers}),
    fetch(host + "/dashboard/billing/subscription", {headers}),
  ]);
  show("balance", [used.status, subscription.status, (await used.json()).error.code].join(" "));
  const answer = await fetch(host + "/v1/chat/completions", {method: "POST", headers, body: JSON.stringify(payload)});
  show("said", answer.headers.get("content-type") + "|" + (await answer.text()).trim().split("\\n").at(-1));
}
main().catch(error => show("refused", "failed: " + error)).finally(() => { document.title = "over"; });
</script>
"""


def test_a_page_may_make_the_calls_that_nextchat_makes(start_simulator, start_proxy, browse):
    """Its base URL has no `/v1`, and it asks for a balance, which it can do without."""
    port = free_port()
    origin = f"http://localhost:{port}"
    clients = [{"id": "app", "key": KEY}]
    proxy = start_proxy(pool_config(start_simulator(2), clients=clients, allowed_origins=[origin]))
    host = proxy.base_url.removesuffix("/v1")
    with page_server(NEXTCHAT.replace("HOST", json.dumps(host)).replace("KEY", json.dumps(KEY)), port):
        dom = browse(origin)
    assert shown(dom, "refused") == "", dom
    assert shown(dom, "balance") == "403 403 path_not_allowed"
    assert shown(dom, "said") == "text/event-stream; charset=utf-8|data: [DONE]"


@pytest.mark.parametrize(("clients", "said"), [([{"id": "app", "key": KEY}], "200"), ([], "403 origin_not_allowed")])
def test_a_desktop_program_that_is_a_browser_needs_a_client_key_and_no_allowed_origin(
    clients, said, start_simulator, start_proxy, browse, tmp_path
):
    """Like Cherry Studio's window: a page from a file, in a browser that heeds no CORS and names no origin."""
    proxy = start_proxy(pool_config(start_simulator(2), clients=clients))
    page = tmp_path / "window.html"
    page.write_text(f"""<!doctype html><title>waiting</title><pre id="said"></pre><script>
    const headers = {{"Content-Type": "application/json", "Authorization": "Bearer {KEY}"}};
    const body = JSON.stringify({{model: "gpt-4o-mini", messages: [{{role: "user", content: "Say hello."}}]}});
    fetch("{proxy.base_url}/chat/completions", {{method: "POST", headers, body}})
      .then(async answer => [answer.status, (await answer.json()).error?.code].join(" "))
      .then(text => {{ document.getElementById("said").textContent = text.trim(); }})
      .finally(() => {{ document.title = "over"; }});
    </script>""")
    dom = browse(page.as_uri(), "--disable-web-security", "--allow-file-access-from-files")
    assert shown(dom, "said") == said, dom


def test_a_page_of_another_origin_reads_nothing(start_simulator, start_proxy, browse):
    simulator = start_simulator(1)
    clients = [{"id": "app", "key": KEY}]
    proxy = start_proxy(pool_config(simulator, clients=clients, allowed_origins=["https://a.example"]))
    with page_server(page_for(proxy.base_url)) as origin:
        dom = browse(origin)
    assert "<title>over</title>" in dom
    assert shown(dom, "said") == ""
    assert shown(dom, "refused").startswith("failed: TypeError")
    assert seen_upstream(simulator) == []
