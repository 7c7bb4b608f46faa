"""CPU per WebSocket message: our frames, and the sans-I/O cores of `websockets` and `wsproto`, in turns.

    python benchmarks/websocket_frames.py [--rounds 7] [--times 5000]

Prints µs per message, medians, for a message relayed from a client to upstream (a masked frame is read, the message is
masked again and written) and from upstream to a client (nothing is masked), as the bytes of one read. `wsproto` is
measured if it is installed. At the end masking alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

from quotapool.websocket.frames import BINARY, TEXT, FrameReader, head_of
from quotapool.websocket.mask import mask

MOST = 2**25
MESSAGES = {"text 200 B": (TEXT, b"x" * 200), "binary 16 KiB": (BINARY, os.urandom(2**14))}


def frame(opcode: int, payload: bytes, *, masks: bool) -> bytes:
    copy = bytearray(payload)
    return head_of(opcode, copy, masks=masks) + bytes(copy)


def ours(opcode: int, *, up: bool) -> Callable[[bytes], bytes]:
    reader = FrameReader(masked=up, most=MOST)

    def relay(data: bytes) -> bytes:
        (message,) = reader.feed(data)
        head = head_of(opcode, message.payload, masks=up)
        return head + message.payload

    return relay


def websockets(opcode: int, *, up: bool) -> Callable[[bytes], bytes]:
    from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

    source = Protocol(SERVER if up else CLIENT, state=OPEN, max_size=MOST)
    sink = Protocol(CLIENT if up else SERVER, state=OPEN, max_size=MOST)
    send = sink.send_text if opcode == TEXT else sink.send_binary

    def relay(data: bytes) -> bytes:
        source.receive_data(data)
        (found,) = source.events_received()
        send(found.data)
        return b"".join(sink.data_to_send())

    return relay


def wsproto(opcode: int, *, up: bool) -> Callable[[bytes], bytes]:
    from wsproto.connection import Connection, ConnectionType
    from wsproto.events import BytesMessage, TextMessage

    source = Connection(ConnectionType.SERVER if up else ConnectionType.CLIENT)
    sink = Connection(ConnectionType.CLIENT if up else ConnectionType.SERVER)
    kind = TextMessage if opcode == TEXT else BytesMessage

    def relay(data: bytes) -> bytes:
        source.receive_data(data)
        pieces = [event.data for event in source.events()]
        return sink.send(kind(data=pieces[0] if len(pieces) == 1 else type(pieces[0])().join(pieces)))

    return relay


def timed(call: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - started) / times * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--times", type=int, default=5_000, help="messages of a round")
    given = parser.parse_args()
    rounds, times = given.rounds, given.times
    cores: list[Callable[..., Callable[[bytes], bytes]]] = [ours, websockets, wsproto]
    figures: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(rounds):
        for name, (opcode, payload) in MESSAGES.items():
            for way in ("up", "down"):
                data = frame(opcode, payload, masks=way == "up")
                for core in cores:
                    try:
                        relay = core(opcode, up=way == "up")
                    except ModuleNotFoundError:
                        continue
                    assert len(relay(data)) == len(data)
                    one = timed(lambda relay=relay, data=data: relay(data), times)
                    figures.setdefault((name, way, core.__name__), []).append(one)
    for (name, way, core_name), values in figures.items():
        print(f"{name:14} {way:5} {core_name:11} {statistics.median(values):7.2f} µs")
    for size in (200, 2**14):
        data = bytearray(os.urandom(size))
        one = statistics.median(timed(lambda d=data: mask(b"abcd", d), times // 10) for _ in range(rounds))
        print(f"mask {size:8} B {one:7.2f} µs")


if __name__ == "__main__":
    main()
