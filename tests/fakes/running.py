"""Processes for a whole module of tests, and HTTP as bytes: what no client library would send or show."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import redis

from tests.fakes.processes import RunningProxy, Simulator, fetch, start_proxy_process, wait_until
from tests.fakes.valkey import free_port, start_valkey, stop_valkey


@contextlib.contextmanager
def running_simulator(keys: int, *options: str) -> Iterator[Simulator]:
    """A simulator that lives as long as the block."""
    simulator = Simulator.start(keys, *options)
    try:
        yield simulator
    finally:
        simulator.stop()


@contextlib.contextmanager
def running_proxy(directory: Path, config: dict[str, Any], **options: Any) -> Iterator[RunningProxy]:
    """A proxy that lives as long as the block, and does not wait for forgotten connections; killed if it hangs."""
    proxy = start_proxy_process(directory, {"drain_timeout": 0.2, **config}, **options)
    try:
        yield proxy
    finally:
        try:
            proxy.stop()
        except Exception:
            proxy.process.kill()
            raise


@contextlib.contextmanager
def running_replicas(
    directory: Path, config: dict[str, Any], *store_options: str, number: int = 2, env: dict[str, str] | None = None
) -> Iterator[tuple[list[RunningProxy], redis.Redis]]:
    """Proxies that live as long as the block, and a client of the real store that they share over TCP."""
    port = free_port()
    store, _ = start_valkey(directory, "--port", str(port), *store_options)
    url = f"redis://127.0.0.1:{port}/0"
    proxies: list[RunningProxy] = []
    try:
        for n in range(number):
            whole = {"drain_timeout": 0.2, **config, "redis": url}
            proxies.append(start_proxy_process(directory / f"replica-{n}", whole, wait=False, env=env))
        wait_until(lambda: all(proxy.ready() for proxy in proxies), "the replicas become ready")
        with redis.Redis.from_url(url) as client:
            yield proxies, client
        for proxy in proxies:
            proxy.stop()
    finally:
        for proxy in proxies:
            if proxy.process.poll() is None:
                proxy.process.kill()
        stop_valkey(store)


@dataclass(frozen=True)
class RawAnswer:
    """An answer as it came. `informational` are the 1xx before it; `body` has its chunked framing taken off."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    informational: tuple[int, ...] = ()
    chunks: tuple[bytes, ...] = ()

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return dict(self.json()["error"])


class Wire:
    """One connection on which bytes are sent as they are."""

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        self.host = parts.netloc
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80), timeout)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def request(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        """Send a request with exactly these headers, besides Host and Content-Length where they are not given."""
        given = dict(headers or {})
        names = {name.lower() for name in given}
        if "host" not in names:
            given = {"Host": self.host, **given}
        if body and not names & {"content-length", "transfer-encoding"}:
            given["Content-Length"] = str(len(body))
        head = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
        self.send("\r\n".join(head).encode("latin-1") + body)

    def head(self) -> tuple[int, list[tuple[str, str]]]:
        """The next status line and its headers. Raises EOFError where the connection was closed instead."""
        line = self._file.readline()
        if not line:
            raise EOFError
        headers = []
        while (text := self._file.readline().decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = text.partition(":")
            headers.append((name, value.strip()))
        return int(line.split()[1]), headers

    def chunk(self) -> bytes:
        """The next chunk of a chunked body, b"" for its end. Raises EOFError where it breaks off."""
        line = self._file.readline()
        if not line:
            raise EOFError
        data = self._file.read(int(line, 16))
        self._file.readline()
        return data

    def answer(self, *, headless: bool = False) -> RawAnswer:
        """The next answer, whole."""
        informational = []
        status, headers = self.head()
        while status < 200:
            informational.append(status)
            status, headers = self.head()
        lower = {name.lower(): value for name, value in headers}
        chunks: list[bytes] = []
        if headless or status in {204, 304}:
            body = b""
        elif lower.get("transfer-encoding") == "chunked":
            while piece := self.chunk():
                chunks.append(piece)
            body = b"".join(chunks)
        elif "content-length" in lower:
            body = self._file.read(int(lower["content-length"]))
        else:
            body = self._file.read()
        return RawAnswer(status, headers, body, tuple(informational), tuple(chunks))


def raw(
    url: str, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"", timeout: float = 10
) -> RawAnswer:
    """One request on a connection of its own."""
    with Wire(url, timeout) as wire:
        wire.request(method, target, {**(headers or {}), "Connection": "close"}, body)
        return wire.answer(headless=method == "HEAD")


def post_json(url: str, target: str, document: Any, headers: Mapping[str, str] | None = None) -> RawAnswer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return raw(url, "POST", target, {"Content-Type": "application/json", **(headers or {})}, body)


def chat_body(**more: Any) -> dict[str, Any]:
    """The smallest useful chat request."""
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}], **more}


def seen_upstream(simulator: Simulator, count: int = 1000) -> list[dict[str, Any]]:
    """The last requests that reached the simulator, oldest first: method, path, headers (pairs), body_sha256."""
    return list(json.loads(fetch(f"{simulator.url}/_sim/log?n={count}")[1])["requests"])


def reset(simulator: Simulator) -> None:
    """Forget counts, faults and the log; fill all buckets."""
    assert fetch(f"{simulator.url}/_sim/reset", method="POST")[0] == 200
