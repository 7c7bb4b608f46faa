"""When a stream reaches its client: first byte and first content event, upstream's own and through Quotapool.

    python benchmarks/first_bytes.py                    # seven rounds, below two minutes
    python benchmarks/first_bytes.py --rounds 20

A scripted upstream sends events at fixed times, and Quotapool runs in front of it twice: with ten accounts, where the
beginning of a stream may be held for a failover, and with one, where it may not. Each round asks all of them for each
script. Milliseconds from the request's first byte; medians, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rig.processes import free_port, wait_for
from rig.targets import Rig, quotapool

CONTENT = b"budget"


def event(**data: object) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def choice(**delta: str) -> bytes:
    return event(object="chat.completion.chunk", choices=[{"index": 0, "delta": delta, "finish_reason": None}])


ROLE, WORD, DONE = choice(role="assistant", content=""), choice(content=CONTENT.decode()), b"data: [DONE]\n\n"
CREATED = event(type="response.created", response={"id": "resp_1", "status": "in_progress"})
IN_PROGRESS = event(type="response.in_progress", response={"id": "resp_1", "status": "in_progress"})
REASONING = event(type="response.output_item.added", output_index=0, item={"id": "rs_1", "type": "reasoning"})
SAID = event(type="response.output_text.delta", item_id="msg_1", delta=CONTENT.decode())
COMPLETED = event(type="response.completed", response={"id": "resp_1", "status": "completed"})


@dataclass(frozen=True)
class Script:
    """What upstream sends, each after its pause in seconds."""

    path: str
    steps: Sequence[tuple[float, bytes]]


SCRIPTS = {
    "chat": Script("chat/completions", [(0, ROLE), (0.3, WORD), (0, DONE)]),
    "chat, slow to speak": Script("chat/completions", [(0, ROLE), (0.8, WORD), (0, DONE)]),
    "chat, a comment first": Script("chat/completions", [(0, b": keep-alive\n\n"), (0.8, ROLE + WORD), (0, DONE)]),
    "responses": Script("responses", [(0, CREATED), (0, IN_PROGRESS), (0.3, SAID), (0, COMPLETED)]),
    "responses, reasoning named at once": Script(
        "responses", [(0, CREATED), (0, IN_PROGRESS), (0.02, REASONING), (0.8, SAID), (0, COMPLETED)]
    ),
    "responses, silent reasoning": Script("responses", [(0, CREATED), (0, IN_PROGRESS), (0.8, SAID), (0, COMPLETED)]),
}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of the upstream. A body's `user` names the script; without one the answer is a short JSON."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            name = json.loads(await reader.readexactly(length) or b"{}").get("user")
            if name is None:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
                continue
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for pause_s, data in SCRIPTS[name].steps:
                if pause_s:
                    await asyncio.sleep(pause_s)
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            writer.write(b"0\r\n\r\n")
    writer.close()


async def ask(port: int, name: str) -> tuple[float, float]:
    """Milliseconds to the first byte of the answer's body, and to the first event with content."""
    script = SCRIPTS[name]
    what = {"input": "hi"} if script.path == "responses" else {"messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps({"model": "gpt-4o-mini", "stream": True, "user": name, **what}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.perf_counter()
    writer.write(
        f"POST /v1/{script.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer sk-any\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
    )
    seen = await reader.readuntil(b"\r\n\r\n")
    assert seen.startswith(b"HTTP/1.1 200"), seen
    rest = await reader.read(65536)
    first = time.perf_counter()
    while CONTENT not in rest:
        more = await reader.read(65536)
        assert more, rest
        rest += more
    content = time.perf_counter()
    writer.close()
    return (first - began) * 1e3, (content - began) * 1e3


def row(of: Sequence[float]) -> str:
    return f"{statistics.median(of):7.1f} ({min(of):.1f}-{max(of):.1f})"


async def main(rounds: int, only: str, directory: Path) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream = server.sockets[0].getsockname()[1]
    ports, running = {"upstream itself": upstream}, []
    try:
        for label, accounts in (("ten accounts", 10), ("one account", 1)):
            (own := directory / label.partition(" ")[0]).mkdir()
            ports[label] = free_port()
            running.append(quotapool(keys=accounts)(Rig(own, upstream, 0, own, 0, 0, None), own, ports[label]))
            await asyncio.to_thread(wait_for, running[-1], ports[label], "sk-any", 30)
        for name in filter(lambda name: only in name, SCRIPTS):
            taken: dict[str, list[tuple[float, float]]] = {label: [] for label in ports}
            for nth in range(rounds + 1):
                for label, port in ports.items():
                    took = await ask(port, name)
                    if nth:  # the first makes connections, buckets and series
                        taken[label].append(took)
            print(name)
            for label, times in taken.items():
                firsts, contents = zip(*times, strict=True)
                print(f"  {label:16} first byte {row(firsts):24} content {row(contents)}")
    finally:
        for each in running:
            await asyncio.to_thread(each.stop)
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="streams whose name holds this")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(main(given.rounds, given.only, Path(made)))
