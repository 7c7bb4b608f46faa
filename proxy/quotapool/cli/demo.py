"""`quotapool demo`: a simulated OpenAI with five keys, Quotapool in front of it, a few calls through both.

It shows them, says where to look, and serves until Ctrl-C. Nothing leaves this machine and nothing is spent.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from quotapool.cli.demo_parts import Problem, Upstream, check_free, eventually, started_proxy, started_upstream
from quotapool.simulator import simulated_secret

KEYS: Final = 5
AT_ONCE: Final = 4  # calls under way
QUESTION: Final = "In one sentence: what is a pool of keys good for?"
LONG_TEXT: Final = "Sum up these minutes. " + "Somebody said that a pool shares its load, and nobody disagreed. " * 55
AGAIN: Final = 8  # times that the same is asked again
TEXTS: Final = ("a pool", "of keys", "shares its load", "and its budgets")
EMBEDDING_MODEL: Final = "text-embedding-3-small"
TIMEOUT_S: Final = 120.0  # a small model on a slow machine takes its time
_FORM: Final = (
    '--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    '--x\r\nContent-Disposition: form-data; name="file"; filename="notes.txt"\r\n\r\nkept by one account\r\n--x--\r\n'
)


def simulated() -> Upstream:
    command = [sys.executable, "-m", "quotapool.simulator", "--port", "0", "--keys", str(KEYS)]
    command += ["--latency-ms", "30", "--tokens-per-second", "200"]
    return Upstream(
        name="a simulated OpenAI",
        command=command,
        keys=[simulated_secret(number) for number in range(KEYS)],
        model="gpt-4o",
        at_once=20,
        is_simulated=True,
    )


class Show:
    """The calls, and what they are counted as. Ports on 127.0.0.1."""

    def __init__(self, port: int, admin_port: int, model: str) -> None:
        self.port, self.admin_port, self.model = port, admin_port, model
        self._numbers = count(1)

    @contextlib.contextmanager
    def sent(
        self, port: int, path: str, body: str | None = None, form: str = "application/json"
    ) -> Iterator[http.client.HTTPResponse]:
        """A GET, or with a body a POST. Raises Problem for an answer that is none of 200."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        try:
            method = "GET" if body is None else "POST"
            connection.request(method, path, body, {"Content-Type": form} if body else {})
            answer = connection.getresponse()
            if answer.status != 200:
                raise Problem(f"{method} {path}: {answer.status}: {answer.read(2000).decode(errors='replace')}")
            yield answer
        except (OSError, http.client.HTTPException) as error:
            raise Problem(f"{path}: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def asked(self, path: str, **body: object) -> Any:
        with self.sent(self.port, path, json.dumps({"model": self.model} | body)) as answer:
            return json.load(answer)

    def question(self) -> list[dict[str, str]]:
        """One that nobody has asked before, so that it goes upstream."""
        return [{"role": "user", "content": f"Question {next(self._numbers)}. {QUESTION}"}]

    def chat(self) -> Any:
        return self.asked("/v1/chat/completions", messages=self.question(), max_tokens=24)

    def ready(self) -> bool:
        with contextlib.suppress(Problem), self.sent(self.admin_port, "/readyz"):
            return True
        return False

    def metric(self, name: str, by: str) -> Counter[str]:
        sums: Counter[str] = Counter()
        for sample in self.samples(name):
            sums[sample.labels[by]] += round(sample.value)
        return +sums  # what is not zero

    def samples(self, name: str) -> list[Sample]:
        with self.sent(self.admin_port, "/metrics") as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return [sample for family in families for sample in family.samples if sample.name == name]

    def one_chat(self) -> None:
        answer = self.chat()
        usage = answer["usage"]
        say("a chat", in_brief(answer["choices"][0]["message"]["content"]))
        say("", f"{usage['prompt_tokens']} prompt and {usage['completion_tokens']} completion tokens")

    def one_stream(self) -> None:
        body = {"model": self.model, "messages": self.question(), "max_tokens": 24, "stream": True}
        with self.sent(self.port, "/v1/chat/completions", json.dumps(body)) as answer:
            events = [line.removeprefix(b"data: ") for line in answer if line.startswith(b"data: {")]
        chunks = [choice for event in events for choice in json.loads(event)["choices"]]
        say("a stream", in_brief("".join(chunk["delta"].get("content") or "" for chunk in chunks)))
        say("", f"{len(events)} chunks, passed on as they came; counted although the client did not ask for usage")

    def many_at_once(self, count: int, title: str) -> None:
        before = self.metric("quotapool_upstream_attempts_total", "key")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda _: self.chat(), range(count)))
        used = self.metric("quotapool_upstream_attempts_total", "key") - before
        shares = ", ".join(f"{key} {used[key]}" for key in sorted(used))
        say(title, f"{len(answers)} answers, no error; attempts: {shares}")

    def what_is_stored(self) -> None:
        """A file and a conversation by `previous_response_id`: only the account that made them has them."""
        with self.sent(self.port, "/v1/files", _FORM, "multipart/form-data; boundary=x") as answer:
            file = json.load(answer)["id"]
        with self.sent(self.port, f"/v1/files/{file}/content") as answer:
            kept = answer.read()
        response = self.asked("/v1/responses", input=QUESTION)
        for _ in range(3):
            response = self.asked("/v1/responses", input="go on", previous_response_id=response["id"])
        say("what is stored", f"a file of {len(kept)} bytes, and four responses in a chain: each found where it lives")

    def a_key_runs_dry(self, upstream_port: int) -> None:
        (busiest, _), *_ = self.metric("quotapool_upstream_attempts_total", "key").most_common()
        place = f"/_sim/keys/{busiest.removeprefix('key-')}/fault"
        with self.sent(upstream_port, place, json.dumps({"fault": "insufficient_quota"})):
            pass
        self.many_at_once(20, f"{busiest} out of credit")
        eventually(lambda: "quarantined" in self.metric("quotapool_keys", "state"))
        states = self.metric("quotapool_keys", "state")
        say("", "the pool now: " + ", ".join(f"{count} {state}" for state, count in states.items()))

    def the_same_again(self, text: str) -> None:
        """Asked by several at the same time and by others later: one call upstream."""
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 24}

        def result(streamed: bool) -> str:
            with self.sent(self.port, "/v1/chat/completions", json.dumps(body | {"stream": streamed})) as answer:
                answer.read()
                return answer.headers["x-quotapool-cache"] or "no cache"

        with ThreadPoolExecutor(AT_ONCE) as pool:
            results = Counter(pool.map(result, [False] * AT_ONCE))
            results.update(pool.map(result, [False, True] * (AGAIN // 2)))
        shares = ", ".join(f"{number} {result}" for result, number in sorted(results.items(), reverse=True))
        say("the same again", f"{AT_ONCE} at once, {AGAIN} later, half of these as a stream: {shares}")

    def embeddings(self) -> None:
        """Of texts that were embedded before only the others go upstream."""
        body = {"model": EMBEDDING_MODEL, "input": TEXTS[:-1]}
        with self.sent(self.port, "/v1/embeddings", json.dumps(body)) as answer:
            answer.read()
        with self.sent(self.port, "/v1/embeddings", json.dumps(body | {"input": TEXTS})) as answer:
            answer.read()
            found = answer.headers["x-quotapool-cache-items"]
        say("embeddings", f"{len(TEXTS)} texts, {len(TEXTS) - 1} of them embedded before: {found}")

    def saved(self) -> None:
        calls, usd = (
            sum(sample.value for sample in self.samples(f"quotapool_cache_saved_{what}_total"))
            for what in ("requests", "usd")
        )
        tokens = self.metric("quotapool_cache_saved_tokens_total", "kind").total()
        money = f", ${usd:.4f}" if usd else ""  # of a model of one's own no price is known
        say("saved by the cache", f"{calls:.0f} calls, {tokens:,} tokens{money}")

    def totals(self) -> None:
        counted = self.metric("quotapool_tokens_total", "kind")
        say("tokens by now", ", ".join(f"{kind} {count}" for kind, count in sorted(counted.items())))


def say(title: str, text: str) -> None:
    print(f"  {title:<21} {text}", flush=True)


def in_brief(text: str) -> str:
    words = " ".join(text.split())
    return f'"{words[:75]}…"' if len(words) > 75 else f'"{words}"'


def where_to_look(show: Show, config_file: Path, log_file: Path) -> str:
    base_url = f"http://127.0.0.1:{show.port}/v1"
    body = json.dumps({"model": show.model, "messages": [{"role": "user", "content": "hello"}]})
    script = Path(sys.executable).with_name("quotapool")
    program = str(script) if script.exists() else f"{sys.executable} -m quotapool"
    return f"""
Now you:
  any OpenAI SDK        base_url={base_url}   (any api_key)
  curl                  curl {base_url}/chat/completions -H 'Content-Type: application/json' -d '{body}'
  the dashboard         {program} dashboard --config {config_file}
  the keys              {program} check --config {config_file}
  the cache             {program} cache stats --config {config_file}
  what could be saved   {program} advise --config {config_file}   (from 100 requests on)
  metrics               curl http://127.0.0.1:{show.admin_port}/metrics
  the log               tail -f {log_file}

Serving until Ctrl-C."""


def demonstrate(upstream: Upstream, port: int, admin_port: int, directory: Path) -> None:
    """Returns only by an exception: Problem, or KeyboardInterrupt."""
    check_free(port, "port")
    check_free(admin_port, "admin-port")
    config_file, log_file = directory / "quotapool.yaml", directory / "quotapool.log"
    show = Show(port, admin_port, upstream.model)
    with contextlib.ExitStack() as stack:
        source, source_url = stack.enter_context(started_upstream(upstream))
        config = {
            "listen": f"127.0.0.1:{port}",
            "admin_listen": f"127.0.0.1:{admin_port}",
            "upstream": source_url,
            "state_dir": str(directory / "state"),
            "keys": [{"id": f"key-{number}", "secret": secret} for number, secret in enumerate(upstream.keys)],
            "cache": {"models": [upstream.model, *([EMBEDDING_MODEL] if upstream.is_simulated else [])]},
            "advice": {"enabled": True},
        }
        config_file.write_text(yaml.safe_dump(config, sort_keys=False))
        proxy = stack.enter_context(started_proxy(config_file, log_file, show.ready))
        print(f"\nQuotapool with {len(upstream.keys)} keys, in front of {upstream.name}:\n")
        show.one_chat()
        show.one_stream()
        show.many_at_once(upstream.at_once, "many at once")
        show.the_same_again(LONG_TEXT if upstream.is_simulated else QUESTION)
        if upstream.is_simulated:
            show.embeddings()
        show.saved()
        if upstream.is_simulated:
            show.what_is_stored()
            show.a_key_runs_dry(int(source_url.rpartition(":")[2]))
        show.totals()
        print(where_to_look(show, config_file, log_file), flush=True)
        while proxy.poll() is None and source.poll() is None:
            time.sleep(0.2)
        who = "quotapool" if proxy.poll() is not None else "the upstream"
        raise Problem(f"{who} has ended. The end of its log:\n{log_file.read_text()[-2000:]}")


def run(upstream: Upstream, port: int, admin_port: int) -> int:
    """0: stopped; 2: something is in the way, and the message says what."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # both end it as Ctrl-C does
    try:
        with tempfile.TemporaryDirectory(prefix="quotapool-demo-", ignore_cleanup_errors=True) as directory:
            demonstrate(upstream, port, admin_port, Path(directory))
    except KeyboardInterrupt:
        print("\nstopped")
        return 0
    except (Problem, OSError) as problem:
        print(f"quotapool demo: {problem}", file=sys.stderr)
    return 2
