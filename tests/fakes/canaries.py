"""Drives a proxy with recognisable secrets in every input, provokes failures, and gathers all that came out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

from tests.fakes.echoing import masked
from tests.fakes.processes import RunningProxy, fetch, start_proxy_process, wait_until
from tests.fakes.running import RawAnswer, Wire, post_json, raw
from tests.fakes.valkey import free_port, start_valkey, stop_valkey

# Known by shape, and known only by value: with characters that JSON, URLs and reprs write in other ways.
POOL = {
    "a key written into the file": "sk-proj-canary1LiteralInTheFile00001",
    "a key by ${ENV}": "canary2.Env'Variable\"quoted\\00002",
    "a key by secret_file": "sk-svcacct-canary3SecretFile00003",
    "a key by keys_file": "canary4/keys+file=%41&00004",
    "a key by OPENAI_API_KEYS": "canary5-openai-api-keys-00005",
    "a key added at run time": "canary20\\added'at\"run=time00020",
}
CLIENT = {
    "the client's Authorization": "canary6-client-bearer-token-00006",
    "the client's api-key": "canary7-client-azure-key-00007",
    "the client's WebSocket subprotocol": "canary8-client-subprotocol-00008",
    "the client's query string": "canary9-client-query-string-00009",
    "a path": "canary10-in-a-path-00010",
    "a prompt": "canary11-what-the-user-wrote-00011",
    "a client key of the configuration": "canary12-client-key-in-config-00012",
    "a wrong client key": "canary13-wrong-client-key-00013",
}
OPERATOR = {
    "Redis's password": "canary14-redis#pass/word@00014",
    "the admin token": "canary15-admin-token-00015",
    "the master key": "canary21-master-key-of-the-vault-00021",
    "an organisation's admin key": "sk-admin-canary16OfTheOrganisation00016",
    "a browser's login": "canary17.Login'of\"a%browser\\00017",
}
BEARER = {"Authorization": "Bearer " + CLIENT["the client's Authorization"]}
ALL = {**POOL, **CLIENT, **OPERATOR}
_PROVOKE = ("echo-400", "echo-500", "echo-429", "text-500", "broken-json", "stream-error", "stream-broken",
            "bad-http", "reset", "fine")  # fmt: skip


@dataclass
class Seen:
    """What came out, by where it came out."""

    places: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def keep(self, place: str, data: bytes | str) -> None:
        self.places[place].append(data if isinstance(data, bytes) else data.encode(errors="surrogateescape"))

    def answer(self, answer: RawAnswer) -> None:
        self.keep("answers", repr(answer.headers).encode() + b"\n" + answer.body)
        self.keep("answers", "\n".join(f"{name}: {value}" for name, value in answer.headers))

    def files(self, place: str, folder: Path, *, but: str = "") -> None:
        for file in folder.rglob("*"):
            if file.is_file() and file.name != but:
                self.keep(place, str(file).encode() + b"\n" + file.read_bytes())

    def leaks(self) -> set[tuple[str, str]]:
        """(where, which canary) for each canary found, in any spelling."""
        return {
            (place, name)
            for place, pieces in self.places.items()
            for name, secret in ALL.items()
            for spelling in spellings(secret)
            if any(spelling in piece for piece in pieces)
        }


def spellings(secret: str) -> set[bytes]:
    words = {
        secret,
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        quote(secret),
        quote(secret, safe=""),
        masked(secret),
    }
    return {word.encode() for word in words}


def look_at_processes(proxy: RunningProxy, seen: Seen) -> None:
    """The supervisor's environment is what the user gave it; nobody else's may hold a secret."""
    seen.keep("command lines", Path(f"/proc/{proxy.process.pid}/cmdline").read_bytes())
    helpers = proxy.worker_pids()
    with contextlib.suppress(OSError):
        helpers.append(proxy.store_pid())
    assert helpers
    for pid in helpers:
        seen.keep("command lines", Path(f"/proc/{pid}/cmdline").read_bytes())
        seen.keep("environments", Path(f"/proc/{pid}/environ").read_bytes())


def look_at_operators_side(proxy: RunningProxy, token: str, seen: Seen, *commands: str) -> None:
    seen.keep("metrics", fetch(f"{proxy.admin_url}/metrics")[1])
    for given in (token, "canary13-wrong-client-key-00013"):
        seen.keep(
            "admin answers", fetch(f"{proxy.admin_url}/admin/keys", headers={"Authorization": f"Bearer {given}"})[1]
        )
    for command in commands:
        done = proxy.command(*command.split())
        assert "Traceback" not in done.stderr
        seen.keep("commands", done.stdout + done.stderr)


def add_at_run_time(proxy: RunningProxy, secret: str, seen: Seen) -> None:
    """Checked first, so that upstream's echo of it comes back; then taken all the same."""
    bearer = {"Authorization": f"Bearer {OPERATOR['the admin token']}"}
    for check, status in ((True, 422), (False, 201)):
        body = {"secret": secret, "id": "added", "check": check}
        done = fetch(f"{proxy.admin_url}/admin/keys", method="POST", body=body, headers=bearer)
        seen.keep("admin answers", done[1])
        assert done[0] == status, done
    wait_until(lambda: '"keys changed"' in proxy.log(), "the key is in use")


def abuse(url: str, seen: Seen) -> None:
    """What a client can do wrong with a secret in its hands."""
    bearer = BEARER
    azure, sub = CLIENT["the client's api-key"], CLIENT["the client's WebSocket subprotocol"]
    query, path, prompt = CLIENT["the client's query string"], CLIENT["a path"], CLIENT["a prompt"]
    for headers in (
        bearer,
        {"api-key": azure},
        {"Upgrade": "websocket", "Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{sub}"},
    ):
        seen.answer(raw(url, "GET", f"/v1/realtime?model=x&api_key={query}", headers))
        seen.answer(raw(url, "GET", f"/v1/organization/{path}?key={query}", headers))
        seen.answer(raw(url, "GET", f"/{path}/v1?key={query}", headers))
        seen.answer(raw(url, "TRACE", f"/v1/{path}", headers))
        seen.answer(raw(url, "DELETE", f"/v1/files/{path}", headers))
    for broken in (f'{{"messages": "{prompt}"', f'"{prompt}"', f'{{"model": 5, "messages": ["{prompt}"]}}'):
        seen.answer(post_json(url, "/v1/chat/completions", broken.encode(), bearer))
    for sent in (
        f"GET /v1/models?{query} HTTP/9.x\r\nAuthorization: {bearer['Authorization']}\r\n\r\n",
        f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{azure} bad: a\r\n\r\n",
        f"GET /v1/models HTTP/1.1\r\nHost: x\r\napi-key: {azure}{'c' * 70_000}\r\n\r\n",
        f"GET /v1/{path}{'c' * 70_000} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n{prompt}\r\n",
        f"{bearer['Authorization']}\r\n\r\n",
    ):
        with Wire(url) as wire, contextlib.suppress(OSError, EOFError):
            wire.send(sent.encode())
            seen.answer(wire.answer())


def provoke(url: str, headers: dict[str, str], rounds: int, seen: Seen) -> None:
    """Each failure, often enough that it meets each key of the pool."""
    messages = [{"role": "user", "content": CLIENT["a prompt"]}]

    def ask(model: str) -> None:
        body = {"model": model, "messages": messages, "stream": model.startswith("stream")}
        with contextlib.suppress(OSError, EOFError):
            seen.answer(post_json(url, "/v1/chat/completions", body, headers))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, _PROVOKE * rounds))


@contextlib.contextmanager
def proxy_at(place: Path, config: dict[str, Any], env: dict[str, str]) -> Iterator[RunningProxy]:
    config = {"log": {"level": "debug", "format": "json"}, "drain_timeout": 0.2, **config}
    proxy = start_proxy_process(place, config, env=env)
    try:
        yield proxy
    finally:
        proxy.stop()


def drive_the_pools_secrets(place: Path, upstream: str, env: dict[str, str]) -> Seen:
    """Keys from every source, the embedded store, and an upstream that repeats them all."""
    place.mkdir(parents=True)
    names = list(POOL)
    (place / "one-key").write_text(POOL[names[2]])
    (place / "keys").write_text(f"# the keys\n{POOL[names[3]]}\n")
    temporary = place / "tmp"
    temporary.mkdir()
    config = {
        "upstream": upstream,
        "keys": [{"id": "literal", "secret": POOL[names[0]]}, {"id": "env", "secret": "${CANARY_KEY}"},
                 {"id": "file", "secret_file": str(place / "one-key")}],
        "keys_file": str(place / "keys"),
        "admin_keys": [{"organization": "ours", "secret": OPERATOR["an organisation's admin key"]}],
        "accounts": {"literal": {"session_key": OPERATOR["a browser's login"]}},
        "state_dir": str(place / "state"),
        "retry": {"max_attempts": 1},
        "workers": 2,
        "queue": {"max_wait": 0},
    }  # fmt: skip
    given = {**env, "CANARY_KEY": POOL[names[1]], "OPENAI_API_KEYS": POOL[names[4]], "TMPDIR": str(temporary),
             "QUOTAPOOL_MASTER_KEY": OPERATOR["the master key"],
             "QUOTAPOOL_ADMIN_TOKEN": OPERATOR["the admin token"]}  # fmt: skip
    seen = Seen()
    with proxy_at(place / "proxy", config, given) as proxy:
        url = proxy.base_url
        add_at_run_time(proxy, POOL[names[5]], seen)
        provoke(url, BEARER, 6, seen)
        abuse(url, seen)
        os.kill(proxy.worker_pids()[0], signal.SIGKILL)
        wait_until(
            lambda: proxy.total("quotapool_worker_restarts_total") == 1 and len(proxy.worker_pids()) == 2, "again"
        )
        look_at_processes(proxy, seen)
        look_at_operators_side(proxy, OPERATOR["the admin token"], seen, "check", "serve --check-config")
        for _ in range(16):  # at last each key dies of its own echo
            seen.answer(post_json(url, "/v1/chat/completions", {"model": "echo-401", "messages": []}))
        look_at_operators_side(proxy, OPERATOR["the admin token"], seen, "check --json")
        proxy.process.send_signal(signal.SIGHUP)
        wait_until(lambda: proxy.total("quotapool_config_reloads_total", result="ok") == 1, "reloaded")
        seen.files("temporary files", temporary)
        assert proxy.stop() == 0
    seen.keep("log", proxy.log())
    seen.files("state", place / "state")
    return seen


def drive_the_stores_secrets(place: Path, env: dict[str, str]) -> Seen:
    """A Redis with a password that goes away, client keys, and an upstream that is not there."""
    place.mkdir(parents=True)
    port = free_port()
    store, url = start_valkey(place, "--port", str(port))
    password = OPERATOR["Redis's password"]
    client = redis.Redis(unix_socket_path=url.removeprefix("unix://"))
    client.execute_command("ACL", "SETUSER", "ours", "on", f">{password}", "~*", "&*", "+@all")
    config = {
        "upstream": "http://127.0.0.1:9",
        "redis": f"redis://ours:{quote(password, safe='')}@127.0.0.1:{port}/0",
        "keys": [{"id": "one", "secret": POOL["a key written into the file"]}],
        "clients": [{"id": "ours", "key": CLIENT["a client key of the configuration"]}],
        "admin_token": OPERATOR["the admin token"],
        "store_patience": "300ms",
        "queue": {"max_wait": 0},
        "retry": {"max_attempts": 1},
    }
    seen = Seen()
    good = {"Authorization": f"Bearer {CLIENT['a client key of the configuration']}"}
    wrong = {"Authorization": f"Bearer {CLIENT['a wrong client key']}"}
    body = {"model": "gpt-4o-mini", "messages": []}
    try:
        with proxy_at(place / "proxy", config, env) as proxy:
            for headers in (good, wrong, {}):
                seen.answer(post_json(proxy.base_url, "/v1/chat/completions", body, headers))
            look_at_processes(proxy, seen)
            look_at_operators_side(proxy, OPERATOR["the admin token"], seen, "check --json", "clients list")
            for key in client.keys("*"):
                seen.keep("Redis", key + b" " + (client.dump(key) or b""))
            client.execute_command("ACL", "SETUSER", "ours", "resetpass", ">another")  # the password is wrong now
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            seen.answer(post_json(proxy.base_url, "/v1/chat/completions", body, good))
            seen.keep("commands", "".join((done := proxy.command("check")).stdout + done.stderr))
            stop_valkey(store)
            for headers in (good, wrong):
                seen.answer(post_json(proxy.base_url, "/v1/chat/completions", body, headers))
            seen.keep("commands", "".join((done := proxy.command("clients", "list")).stdout + done.stderr))
            proxy.stop()
        seen.keep("log", proxy.log())
    finally:
        stop_valkey(store)
    seen.files("state", Path(proxy.config["state_dir"]))
    return seen
