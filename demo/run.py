"""The demonstration behind `make run`: an upstream, Quotapool in front of it, a real SDK talking through both.

    python demo/run.py                    a simulated OpenAI with five keys
    python demo/run.py --model smollm2    a real language model with three keys

Shows a few calls, says where to look, and serves until Ctrl-C. Nothing leaves this machine and nothing is spent.
Exit codes: 0 stopped; 2 something is in the way, and the message says what.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from openai import OpenAI, OpenAIError
from parts import Problem, check_free, eventually, quotapool, upstream
from prometheus_client.parser import text_string_to_metric_families
from quotapool.simulator import simulated_secret

DIRECTORY = Path("var/demo")
AT_ONCE = 4  # calls under way
QUESTION = "In one sentence: what is a pool of keys good for?"


class Show:
    def __init__(self, base_url: str, admin_url: str, model: str) -> None:
        self.admin_url, self.model = admin_url, model
        self.sdk = OpenAI(base_url=base_url, api_key="none-is-needed-on-this-machine", max_retries=0)

    def ask(self, **more: Any) -> Any:
        messages = [{"role": "user", "content": QUESTION}]
        return self.sdk.chat.completions.create(model=self.model, messages=messages, max_tokens=24, **more)

    def ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.admin_url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def metric(self, name: str, by: str) -> Counter[str]:
        with urllib.request.urlopen(f"{self.admin_url}/metrics", timeout=5) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        sums: Counter[str] = Counter()
        for sample in (sample for family in families for sample in family.samples if sample.name == name):
            sums[sample.labels[by]] += round(sample.value)
        return +sums  # what is not zero

    def one_chat(self) -> None:
        answer = self.ask()
        usage = answer.usage
        say("a chat", in_brief(answer.choices[0].message.content))
        say("", f"{usage.prompt_tokens} prompt and {usage.completion_tokens} completion tokens")

    def one_stream(self) -> None:
        chunks = list(self.ask(stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        say("a stream", in_brief(text))
        say("", f"{len(chunks)} chunks, passed on as they came; counted although the client did not ask for usage")

    def many_at_once(self, count: int, title: str) -> None:
        before = self.metric("quotapool_upstream_attempts_total", "key")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda _: self.ask(), range(count)))
        used = self.metric("quotapool_upstream_attempts_total", "key") - before
        shares = ", ".join(f"{key} {used[key]}" for key in sorted(used))
        say(title, f"{len(answers)} answers, no error; attempts: {shares}")

    def what_is_stored(self) -> None:
        """A file and a conversation by `previous_response_id`: only the account that made them has them."""
        file = self.sdk.files.create(file=("notes.txt", b"kept by one account"), purpose="user_data")
        kept = self.sdk.files.content(file.id).read()
        answer = self.sdk.responses.create(model=self.model, input=QUESTION)
        for _ in range(3):
            answer = self.sdk.responses.create(model=self.model, input="go on", previous_response_id=answer.id)
        say("what is stored", f"a file of {len(kept)} bytes, and four responses in a chain: each found where it lives")

    def a_key_runs_dry(self, upstream_url: str) -> None:
        (busiest, _), *_ = self.metric("quotapool_upstream_attempts_total", "key").most_common()
        place = f"{upstream_url}/_sim/keys/{busiest.removeprefix('key-')}/fault"
        body = json.dumps({"fault": "insufficient_quota"}).encode()
        urllib.request.urlopen(urllib.request.Request(place, body), timeout=5).close()
        self.many_at_once(20, f"{busiest} out of credit")
        eventually(lambda: "quarantined" in self.metric("quotapool_keys", "state"))
        states = self.metric("quotapool_keys", "state")
        say("", "the pool now: " + ", ".join(f"{count} {state}" for state, count in states.items()))

    def totals(self) -> None:
        counted = self.metric("quotapool_tokens_total", "kind")
        say("tokens by now", ", ".join(f"{kind} {count}" for kind, count in sorted(counted.items())))


def say(title: str, text: str) -> None:
    print(f"  {title:<21} {text}", flush=True)


def in_brief(text: str) -> str:
    words = " ".join(text.split())
    return f'"{words[:75]}…"' if len(words) > 75 else f'"{words}"'


def where_to_look(base_url: str, admin_url: str, model: str, config_file: Path, log_file: Path) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]})
    quotapool_command = Path(sys.executable).parent / "quotapool"
    return f"""
Now you:
  any OpenAI SDK        base_url={base_url}   (any api_key)
  curl                  curl {base_url}/chat/completions -H 'Content-Type: application/json' -d '{body}'
  the dashboard         {quotapool_command} dashboard --config {config_file}
  the keys              {quotapool_command} check --config {config_file}
  metrics               curl {admin_url}/metrics
  the log               tail -f {log_file}

Serving until Ctrl-C."""


def run(options: argparse.Namespace) -> int:
    check_free(options.port, "port")
    check_free(options.admin_port, "admin-port")
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    config_file, log_file, state_dir = DIRECTORY / "quotapool.yaml", DIRECTORY / "quotapool.log", DIRECTORY / "state"
    keys = [f"sk-model-{i}" for i in range(3)] if options.model else [simulated_secret(i) for i in range(5)]
    model, base_url = options.model or "gpt-4o-mini", f"http://127.0.0.1:{options.port}/v1"
    show = Show(base_url, f"http://127.0.0.1:{options.admin_port}", model)
    with contextlib.ExitStack() as stack:
        source, source_url = stack.enter_context(upstream(options.model, keys))
        config = {
            "listen": f"127.0.0.1:{options.port}",
            "admin_listen": f"127.0.0.1:{options.admin_port}",
            "upstream": source_url,
            "state_dir": str(state_dir.resolve()),
            "keys": [{"id": f"key-{number}", "secret": secret} for number, secret in enumerate(keys)],
        }
        config_file.write_text(yaml.safe_dump(config, sort_keys=False))
        stack.callback(shutil.rmtree, state_dir, ignore_errors=True)  # the next demonstration begins anew
        proxy = stack.enter_context(quotapool(config_file, log_file, show.ready))
        print(f"\nQuotapool with {len(keys)} keys, in front of {options.model or 'a simulated OpenAI'}:\n")
        show.one_chat()
        show.one_stream()
        show.many_at_once(AT_ONCE if options.model else 20, "many at once")
        if not options.model:
            show.what_is_stored()
            show.a_key_runs_dry(source_url)
        show.totals()
        print(where_to_look(base_url, show.admin_url, model, config_file, log_file), flush=True)
        while proxy.poll() is None and source.poll() is None:
            time.sleep(0.2)
        raise Problem(f"{'quotapool' if proxy.poll() is not None else 'the upstream'} has ended; see {log_file}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=["smollm2"], help="a real language model instead of the simulator")
    parser.add_argument("--port", type=int, default=8080, help="the clients' port (default: %(default)s)")
    parser.add_argument("--admin-port", type=int, default=9090, help="the operators' port (default: %(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    try:
        return run(options)
    except KeyboardInterrupt:
        print("\nstopped")
        return 0
    except (Problem, OpenAIError) as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
