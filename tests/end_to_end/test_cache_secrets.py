"""With the cache and advice on, nothing that was asked or answered is anywhere in plain, whatever goes wrong."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import os
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from tests.fakes.canaries import Seen
from tests.fakes.crowd import Crowd
from tests.fakes.plain import Plain
from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until
from tests.fakes.running import RawAnswer, post_json, running_replicas, running_simulator
from tests.fakes.valkey import running_valkey

ASKED: Final = {
    "a prompt": "canary-31-what-the-user-wrote-00031",
    "a long prompt": "canary-32-" + " and more of it 00032" * 300,
    "an input of embeddings": "canary-33-to-be-a-vector-00033",
    "one of several inputs": "canary-34-also-to-be-a-vector-00034",
    "an input of a response": "canary-35-what-else-was-written-00035",
    "instructions": "canary-36-how-to-behave-00036",
    "an argument's name": "canary_37_of_a_tool_00037",
    "what is moderated": "canary-38-is-this-allowed-00038",
    "a beginning": "canary-39-once-upon-a-time-00039",
    "an end user": "canary-40-somebody-00040",
    "metadata": "canary-41-a-label-00041",
    "what is not kept": "canary-42-only-passing-00042",
    "what is broken": "canary-43-no-json-00043",
    "what is refused": "canary-44-for-nobody-00044",
    "a prompt of no model": "canary-45-asked-of-nobody-00045",
    "what many ask": "canary-46-all-at-once-00046",
}
KEYS: Final = {"ann": "ann-client-key-0123456789", "poor": "poor-client-key-0123456789"}
MODEL: Final = "canary-47-the-name-of-a-model-00047"  # which is shown, unlike all that is asked of it
OFTEN: Final = 150  # so that there is advice
UNKEPT: Final = {"", "error", "refusal", "content_filter", "cut", "no_store", "tool_calls"}
FAST: Final = {"log": {"level": "debug", "format": "json"}, "queue": {"max_wait": 0}, "retry": {"max_attempts": 1}}


@dataclass
class Told:
    """What was answered, by what it is, and all that came out but the answers themselves."""

    answers: dict[str, str | bytes]
    seen: Seen


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(1, "--answers", "by_call", "--rpm", "100000", "--tpm", "100000000") as running:
        yield running


@pytest.fixture(scope="module")
def told(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Told:
    directory: Path = tmp_path_factory.mktemp("secrets")
    config = pool_config(
        simulator,
        master_key="${POOL_MASTER_KEY}",
        workers=2,
        cache={"models": ["*"], "client_pays": 0.5},
        advice={"enabled": True},
        clients=[
            {"id": "ann", "key": KEYS["ann"]},
            {"id": "poor", "key": KEYS["poor"], "budgets": [{"tokens": 200, "per": "total"}]},
        ],
        safety={"identifier": True},
        **FAST,
    )
    options = ("--appendonly", "yes", "--appendfsync", "always", "--rdbcompression", "no", "--loglevel", "debug")
    env = {"POOL_MASTER_KEY": "0123456789abcdef" * 2}
    seen, drive = Seen(), Drive(simulator)
    with running_replicas(directory, config, *options, env=env) as (proxies, store):
        drive.ask_everything(proxies)
        asyncio.run(drive.ask_at_once(proxies))
        wait_until(lambda: json.loads(admin(proxies[0], "advice"))["rows"], "advice is there", 30)
        drive.do_wrong(proxies, store, seen)
        look_at_operators_side(proxies, seen)
        store.save()
        keep_store(store, seen)
    for number, proxy in enumerate(proxies):
        seen.keep(f"log of replica {number}", proxy.log())
    seen.files("files", directory, but="proxy.log")
    return Told(drive.answers, seen)


class Drive:
    """Asks everything that can be kept, so that each is a miss, a hit and shared, and remembers what was answered."""

    def __init__(self, simulator: Simulator) -> None:
        self.answers: dict[str, str | bytes] = {}
        self.results: list[str | None] = []
        self._simulator = simulator

    def ask(
        self, proxy: RunningProxy, path: str, body: dict[str, Any], client: str = "ann", **headers: str
    ) -> RawAnswer:
        sent = {"Authorization": f"Bearer {KEYS[client]}", **headers}
        answer = post_json(proxy.base_url.removesuffix("/v1"), f"/v1/{path}", body, sent)
        self.results.append(answer.header("x-quotapool-cache"))
        return answer

    def ask_everything(self, proxies: list[RunningProxy]) -> None:
        first, second = proxies
        for name, path, body in bodies():
            made = self.ask(first, path, body)
            assert made.status == 200, made
            self.answers |= words_of(name, made)
            kept = made.header("x-quotapool-cache") == "miss" and name != "an argument's name"

            def again(path: str = path, body: dict[str, Any] = body) -> bool:
                return self.ask(second, path, body).header("x-quotapool-cache") == "hit"

            if kept:
                wait_until(again, f"{name}: the other replica has it", 20)

    async def ask_at_once(self, proxies: list[RunningProxy]) -> None:
        """What advice is made of, and what all share."""
        async with Crowd(KEYS["ann"]) as crowd:
            begun = f"{ASKED['a beginning']}, said at length. " * 100
            asked = []
            for n in range(OFTEN):
                asked += [crowd.ask(proxies[n % 2].base_url, chat(f"{begun} Number {n}.", max_tokens=4096))]
                one = embeddings(f"{ASKED['an input of embeddings']} {n}")
                asked += [crowd.ask(proxies[0].base_url, one, "/embeddings")]
            assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
        flying = "quotapool_requests_in_flight"
        for attempt in range(10):  # on a busy machine the store may be too slow to be waited for
            self._simulator.fault(0, "hold", events=2)
            body = chat(f"{ASKED['what many ask']} {attempt}", stream=True)
            async with Crowd(KEYS["ann"]) as crowd:
                asked = [crowd.ask(proxies[n % 2].base_url, body) for n in range(16)]
                await asyncio.to_thread(wait_until, lambda: sum(proxy.total(flying) for proxy in proxies) == 16, "all")
                self._simulator.heal(0)
                results = [answer.result for answer in await asyncio.gather(*asked)]
            self.results += results
            if "coalesced" in results:
                break

    def do_wrong(self, proxies: list[RunningProxy], store: redis.Redis, seen: Seen) -> None:
        """Errors of every part: upstream's, the proxy's own, the store's. A worker that is killed."""
        first, second = proxies
        path = "chat/completions"

        def fails(proxy: RunningProxy, body: dict[str, Any], client: str = "ann", **headers: str) -> RawAnswer:
            answer = self.ask(proxy, path, body, client, **headers)
            if answer.status != 200:
                seen.answer(answer)
            return answer

        for fault in ("error_500", "stream_error", "reset_mid_stream", "content_filter", "refusal", "overloaded_503"):
            self._simulator.fault(0, fault)
            for streams in (False, True):
                with contextlib.suppress(EOFError):
                    fails(first, chat(f"{ASKED['what is refused']} {fault}", stream=streams))
            self._simulator.heal(0)
        assert fails(second, chat(ASKED["a prompt of no model"], model=f"no-such-model-{MODEL}")).status == 404
        only = {"Cache-Control": "only-if-cached"}
        assert fails(first, chat(ASKED["what is refused"]), **only).error["code"] == "not_cached"
        fails(first, chat(ASKED["what is not kept"]), **{"Cache-Control": f"no-store, {ASKED['what is not kept']}"})
        url = first.base_url.removesuffix("/v1")
        words = ASKED["what is broken"]
        for broken in (f'{{"messages": "{words}"', f'{{"model": 5, "input": ["{words}"]}}'):
            for where in (path, "embeddings", "responses"):
                seen.answer(post_json(url, f"/v1/{where}", broken.encode(), {"Authorization": f"Bearer {KEYS['ann']}"}))
        poor = [fails(second, chat(ASKED["what is refused"], max_tokens=32), "poor") for _ in range(20)]
        assert poor[-1].error["code"] == "client_budget_exhausted"

        for key in store.keys("qp:{default:cache}:e:*"):  # every kept answer is damaged
            raw = store.get(key)
            store.set(key, raw[:-1] + bytes([raw[-1] ^ 1]), keepttl=True)
        for _, where, body in bodies():
            self.ask(second, where, body)
        assert second.total("quotapool_cache_failures_total", reason="damaged") > 0
        store.set("qp:{default:cache}:about", "not a hash")
        for proxy in proxies:
            self.ask(proxy, path, chat(f"{ASKED['a prompt']} again"))
        assert sum(proxy.total("quotapool_cache_failures_total", reason="script") for proxy in proxies) > 0
        store.delete("qp:{default:cache}:about")
        wait_until(lambda: words_of_requests(first) >= UNKEPT, "all requests are known", 20)
        os.kill(first.worker_pids()[0], signal.SIGKILL)
        wait_until(lambda: len(first.worker_pids()) == 2 and first.ready(), "a new worker")


def chat(words: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": words}], **more}


def embeddings(*inputs: str, **more: Any) -> dict[str, Any]:
    return {"model": "text-embedding-3-small", "input": list(inputs), **more}


def bodies() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(what is asked, path, body): each kind of request, and each way in which its answer may be kept."""
    tool = {
        "name": "f",
        "parameters": {"type": "object", "properties": {ASKED["an argument's name"]: {"type": "string"}}},
    }
    label = {"user": ASKED["an end user"], "metadata": {"label": ASKED["metadata"]}}
    response = {"model": "gpt-5.5", "input": ASKED["an input of a response"], "instructions": ASKED["instructions"]}
    yield "a prompt", "chat/completions", chat(ASKED["a prompt"], **label, prompt_cache_key=ASKED["an end user"])
    yield "a stream", "chat/completions", chat(f"{ASKED['a prompt']} as a stream", stream=True)
    yield "a long prompt", "chat/completions", chat(ASKED["a long prompt"], n=8)
    yield (
        "an argument's name",
        "chat/completions",
        chat(ASKED["a prompt"], tools=[{"type": "function", "function": tool}]),
    )
    yield "a text", "completions", {"model": "gpt-3.5-turbo-instruct", "prompt": ASKED["a prompt"]}
    yield "a response", "responses", {**response, **label, "store": False}
    yield (
        "a vector",
        "embeddings",
        embeddings(ASKED["an input of embeddings"], encoding_format="base64", user=label["user"]),
    )
    yield "vectors", "embeddings", embeddings(ASKED["one of several inputs"], ASKED["a prompt"], dimensions=64)
    yield "a verdict", "moderations", {"model": "omni-moderation-latest", "input": ASKED["what is moderated"]}


def words_of(name: str, answer: RawAnswer) -> dict[str, str | bytes]:
    """What of an answer must not be found: its words, or its vectors in each form."""
    if answer.body.startswith(b"data:"):
        chunks = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: {")]
        return {f"the words of {name}": "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)}
    told = answer.json()
    found: dict[str, str | bytes] = {}
    for number, one in enumerate(told.get("data", ())):
        vector = one["embedding"]
        raw = base64.b64decode(vector) if isinstance(vector, str) else struct.pack(f"<{len(vector)}f", *vector)
        floats = json.dumps(list(struct.unpack(f"<{len(raw) // 4}f", raw)))
        found |= {f"{name}, {number}": raw[:128], f"{name}, {number} as floats": floats[1:100]}
    for number, choice in enumerate(told.get("choices", ())):
        text = choice.get("text") or choice["message"].get("content")
        if text:
            found[f"the words of {name}, {number}"] = text
    for item in told.get("output", ()):
        for part in item.get("content", ()):
            found[f"the words of {name}"] = part["text"]
    return found


def keep_store(store: redis.Redis, seen: Seen) -> None:
    """Every key with its value, of whatever type, as the store itself writes it."""
    for key in store.keys("*"):
        seen.keep("store", key + b" " + (store.dump(key) or b""))


def admin(proxy: RunningProxy, path: str) -> str:
    token = (proxy.state_dir / "admin-token").read_text().strip()
    status, text = fetch(f"{proxy.admin_url}/admin/{path}", headers={"Authorization": f"Bearer {token}"})
    assert status == 200, text
    return text


def words_of_requests(proxy: RunningProxy) -> set[str]:
    """Why answers were not kept, by the requests that are known."""
    return {row["kept"] for row in json.loads(admin(proxy, "requests?limit=1000"))["requests"]}


def look_at_operators_side(proxies: list[RunningProxy], seen: Seen) -> None:
    """All that an operator is shown: of every request, why."""
    for proxy in proxies:
        seen.keep("metrics", fetch(f"{proxy.admin_url}/metrics")[1])
        for path in ("requests?limit=1000", "cache", "advice", "events", "clients", "now", "savings", "usage"):
            seen.keep(f"/admin/{path.partition('?')[0]}", admin(proxy, path))
        rows = json.loads(admin(proxy, "requests?limit=1000"))["requests"]
        by_kind = {(row["endpoint"], row["status"], row["code"], row["cache"], row["kept"]): row for row in rows}
        for row in by_kind.values():
            seen.keep("/admin/requests/{id}/explanation", admin(proxy, f"requests/{row['id']}/explanation"))
    for words in ("cache stats", "advise", "logs", "usage", "check"):
        done = proxies[0].command(*words.split())
        assert "Traceback" not in done.stderr
        seen.keep("commands", done.stdout + done.stderr)


def test_nothing_that_was_asked_or_answered_is_found_anywhere(told):
    plain = Plain({**ASKED, **told.answers})
    found = {
        (place, name) for place, pieces in told.seen.places.items() for piece in pieces for name in plain.found(piece)
    }
    assert found == set()


def test_the_scan_reaches_every_place(told):
    """I expect the model's name wherever it is to be shown."""
    plain = Plain({"the model": MODEL})
    reached = {place for place, pieces in told.seen.places.items() if any(map(plain.found, pieces))}
    assert reached >= {
        *("answers", "metrics", "store", "files", "log of replica 0", "log of replica 1", "commands"),
        *("/admin/requests", "/admin/cache", "/admin/advice", "/admin/usage", "/admin/requests/{id}/explanation"),
    }
    files = [piece.partition(b"\n")[0] for piece in told.seen.places["files"] if plain.found(piece)]
    assert any(name.endswith(b".rdb") for name in files)
    assert any(name.endswith(b".incr.aof") for name in files)


def test_all_of_it_happened(told):
    log = b"".join(told.seen.places["log of replica 0"] + told.seen.places["log of replica 1"]).decode()
    for sign in ('"cache":"hit"', '"cache":"coalesced"', '"cache":"bypass"', '"code":"not_cached"', "a worker exited",
                 '"code":"client_budget_exhausted"', "the store refuses the cache's script"):  # fmt: skip
        assert sign in log, sign
    for text in told.seen.places["/admin/requests"]:
        assert {row["kept"] for row in json.loads(text)["requests"]} >= UNKEPT


_FORMS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "as it is": lambda raw: raw,
    "hex": lambda raw: raw.hex().encode(),
    "capital hex": lambda raw: raw.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64 of a middle": lambda raw: base64.b64encode(b"ab" + raw + b"yz"),
    "base64 for URLs": lambda raw: base64.urlsafe_b64encode(b"\xff" + raw),
    "zlib": zlib.compress,
    "zlib, little": lambda raw: zlib.compress(raw, 1),
    "gzip": gzip.compress,
    "deflate": lambda raw: zlib.compress(raw, wbits=-15),
    "zlib in base64": lambda raw: base64.b64encode(zlib.compress(raw)),
    "JSON in zlib": lambda raw: zlib.compress(json.dumps({"said": raw.decode()}).encode()),
    "cut": lambda raw: raw[:24],
    "SHA-256": lambda raw: hashlib.sha256(raw).digest(),
    "SHA-1 in hex": lambda raw: hashlib.sha1(raw).hexdigest().encode(),
    "MD5 in base64": lambda raw: base64.b64encode(hashlib.md5(raw).digest()),
}


@pytest.mark.parametrize("form", _FORMS)
def test_a_text_is_found_in_any_form(form):
    plain = Plain({"a prompt": ASKED["a prompt"], "another": ASKED["a beginning"]})
    for around in (b"", b"\xfe\x9e some bytes ", b"x" * 5):
        assert plain.found(around + _FORMS[form](ASKED["a prompt"].encode()) + around) == {"a prompt"}
    assert plain.found(_FORMS[form](b"nothing of the kind, but as long as that")) == set()


@pytest.mark.parametrize("form", ["as it is", "zlib", "base64"])
def test_a_text_in_the_store_is_found_in_each_of_its_files(form, tmp_path):
    options = ("--appendonly", "yes", "--appendfsync", "always", "--rdbcompression", "no")
    with running_valkey(tmp_path, *options) as url, redis.Redis.from_url(url) as client:
        client.hset("a hash", "a field", _FORMS[form](ASKED["a prompt"].encode()))
        client.save()
        seen = Seen()
        keep_store(client, seen)
        seen.files("files", tmp_path)
    plain = Plain(ASKED)
    assert [plain.found(piece) for piece in seen.places["store"]] == [{"a prompt"}]
    found = {Path(piece.partition(b"\n")[0].decode()).suffix for piece in seen.places["files"] if plain.found(piece)}
    assert found == {".rdb", ".aof"}
