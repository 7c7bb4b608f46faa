"""The upstream that all targets share: OpenAI's answers by a bare protocol on uvloop, so that it is never the limit.

    python benchmarks/rig/upstream.py [CERT_FILE KEY_FILE]        # prints its port; ends with its standard input

A body with `"stream":true` gets server-sent events; its `"user":"g<gap ms>n<events>"` sets their pace and number, and
passes through every proxy. Each event is a write of its own. Everything else gets one fixed answer of about 700 bytes.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys

import uvloop

PACE = re.compile(rb'"user":\s*"g(\d+)n(\d+)"')
STREAMED = re.compile(rb'"stream":\s*true')
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)

RATES = (
    b"x-request-id: req_bench0001\r\nopenai-processing-ms: 312\r\nopenai-version: 2020-10-01\r\n"
    b"x-ratelimit-limit-requests: 100000000\r\nx-ratelimit-limit-tokens: 100000000000\r\n"
    b"x-ratelimit-remaining-requests: 99999999\r\nx-ratelimit-remaining-tokens: 99999999000\r\n"
    b"x-ratelimit-reset-requests: 6ms\r\nx-ratelimit-reset-tokens: 5ms\r\n"
)
WHOLE = (
    b'{"id":"chatcmpl-Benchmark0000000000000000000","object":"chat.completion","created":1760000000,'
    b'"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant","content":"A pool of keys '
    b'is a set of budgets. The proxy spends each of them only while it has room, and goes on to the next one.",'
    b'"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":221,'
    b'"completion_tokens":27,"total_tokens":248,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}},"service_tier":"default"}\n'
)
MODELS = b'{"object":"list","data":[{"id":"gpt-4o-mini","object":"model","created":1721172741,"owned_by":"system"}]}'


def answer(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + RATES
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(choices: str, usage: str = "null") -> bytes:
    return chunk(
        (
            'data: {"id":"chatcmpl-Benchmark0000000000000000000","object":"chat.completion.chunk","created":1760000000,'
            f'"model":"gpt-4o-mini-2024-07-18","service_tier":"default","choices":[{choices}],"usage":{usage}}}\n\n'
        ).encode()
    )


def delta(what: str, finish: str = "null") -> str:
    return f'{{"index":0,"delta":{what},"logprobs":null,"finish_reason":{finish}}}'


JSON, LIST = answer(WHOLE), answer(MODELS)
STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    + RATES
    + b"transfer-encoding: chunked\r\n\r\n"
)
ROLE = event(delta('{"role":"assistant","content":"","refusal":null}'))
WORD = event(delta('{"content":" budget"}'))
LAST = (
    event(delta("{}", '"stop"'))
    + event("", '{"prompt_tokens":221,"completion_tokens":50,"total_tokens":271}')
    + chunk(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


class Serving(asyncio.Protocol):
    """One connection. The role and the first word come at once, the other words one by one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end]
            if length := LENGTH.search(head):
                last = end + 4 + int(length[1])
            elif CHUNKED.search(head):
                last = self.received.find(b"\r\n0\r\n\r\n", end + 2) + 7
                if last < 7:
                    return
            else:
                last = end + 4
            if len(self.received) < last:
                return
            body, self.received = self.received[end + 4 : last], self.received[last:]
            self.serve(head, body)

    def serve(self, head: bytes, body: bytes) -> None:
        if not STREAMED.search(body):
            self.transport.write(LIST if head.startswith(b"GET") else JSON)
            return
        pace = PACE.search(body)
        gap_ms, events = (int(pace[1]), int(pace[2])) if pace else (20, 50)
        self.transport.write(STREAM + ROLE)
        self.loop.call_soon(self.word, events, gap_ms / 1000)

    def word(self, left: int, gap_s: float) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(WORD)
        if left > 1:
            self.loop.call_later(gap_s, self.word, left - 1, gap_s)
        else:
            self.transport.write(LAST)


async def main(files: list[str]) -> None:
    tls = None
    if files:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*files)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Serving, "127.0.0.1", 0, backlog=4096, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
