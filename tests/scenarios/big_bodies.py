"""Bodies of any size through a real proxy, and what its worker's memory does meanwhile."""

from __future__ import annotations

import json
import socket
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.firehose import PATTERN, Firehose, crc_of
from tests.fakes.processes import RunningProxy
from tests.fakes.running import Wire

MIB = 2**20


@dataclass
class Memory:
    """Resident memory of a proxy's only worker, from now on."""

    pid: int
    before: int = 0

    def __post_init__(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # forget the peak (proc(5))
        self.before = self._kib("VmRSS")

    def _kib(self, name: str) -> int:
        line = next(x for x in Path(f"/proc/{self.pid}/status").read_text().splitlines() if x.startswith(name))
        return int(line.split()[1])

    @property
    def grown_mib(self) -> float:
        """From then to the peak since."""
        return (self._kib("VmHWM") - self.before) / 1024


def config(hose: Firehose) -> dict[str, Any]:
    return {"upstream": hose.url, "keys": [{"id": "a", "secret": f"sk-test-{'x' * 40}"}]}


def watched(proxy: RunningProxy) -> Memory:
    with Wire(proxy.base_url) as wire:  # whatever is built with the first request is there already
        wire.request("GET", "/v1/files/file-1/content?size=10")
        assert len(wire.answer().body) == 10
    return Memory(proxy.worker_pids()[0])


def upload(proxy: RunningProxy, size: int, *, chunked: bool) -> dict[str, Any]:
    """What upstream says of an upload of `size` bytes."""
    with Wire(proxy.base_url, timeout=120) as wire:
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
        wire.request("POST", "/v1/files", {"Content-Type": "multipart/form-data; boundary=b", **framing})
        left = size
        while left:
            piece = PATTERN[: min(left, len(PATTERN))]
            wire.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            left -= len(piece)
        if chunked:
            wire.send(b"0\r\n\r\n")
        answer = wire.answer()
        assert answer.status == 200
        return dict(answer.json())


def download(proxy: RunningProxy, size: int) -> tuple[int, int]:
    """(bytes, CRC-32) of a download of `size` bytes, read as it comes."""
    with Wire(proxy.base_url, timeout=120) as wire:
        wire.request("GET", f"/v1/files/file-1/content?size={size}")
        status, headers = wire.head()
        assert status == 200
        assert dict(headers)["Content-Length"] == str(size)
        got = crc = 0
        while got < size and (piece := wire._file.read1(MIB)):
            crc, got = zlib.crc32(piece, crc), got + len(piece)
        return got, crc


def up_and_down(proxy: RunningProxy, size: int) -> dict[str, float]:
    """MiB of growth by direction; every byte arrives."""
    grown = {}
    for name in ("up", "up, chunked", "down"):
        memory = watched(proxy)
        if name == "down":
            assert download(proxy, size) == (size, crc_of(size))
        else:
            said = upload(proxy, size, chunked=name != "up")
            assert (said["bytes"], said["crc"]) == (size, crc_of(size))
        grown[name] = memory.grown_mib
    return grown


def slow_reader(proxy: RunningProxy, hose: Firehose, size: int) -> tuple[float, float]:
    """(MiB that upstream could hand over to a client that reads 64 KiB and stops, MiB of growth)."""
    memory = watched(proxy)
    before = hose.given
    with Wire(proxy.base_url) as wire:
        wire._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        wire.request("GET", f"/v1/files/file-1/content?size={size}")
        assert wire.head()[0] == 200
        wire._file.read(65_536)
        last, since = hose.given, time.monotonic()
        while time.monotonic() - since < 0.5:  # until nothing has moved for half a second
            if hose.given != last:
                last, since = hose.given, time.monotonic()
            time.sleep(0.02)
        return (hose.given - before) / MIB, memory.grown_mib


def answered_early(proxy: RunningProxy, hose: Firehose, size: int) -> dict[str, Any]:
    """Upstream refuses an upload after 1 MiB; what the client reads, and that the connection ends."""
    hose.answers_early = MIB
    with Wire(proxy.base_url, timeout=30) as wire:
        headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(size)}
        wire.request("POST", "/v1/files", headers)
        sent = 0
        try:
            while sent < size:
                wire.send(PATTERN)
                sent += len(PATTERN)
        except OSError:
            pass  # the proxy has closed; its answer is here all the same
        answer = wire.answer()
        assert answer.status == 413
        assert answer.header("Connection") == "close"
        assert wire._file.read(1) == b""
        hose.answers_early = 0
        return {"sent": sent, **json.loads(answer.body)["error"]}
