"""Sending an answer: paced streams, streams that break, connections that are reset."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from quotapool.simulator.admission import Admission
from quotapool.simulator.answers import Usage
from quotapool.simulator.replies import Frame

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST, not FIN


@dataclass(frozen=True, slots=True)
class Interruption:
    """What happens to a stream after so many `events`: it breaks off, or it goes on once `released` returns."""

    events: int
    released: Callable[[], Awaitable[None]] | None = None


async def stream_frames(
    request: web.Request,
    response: web.StreamResponse,
    frames: Iterator[Frame],
    admission: Admission,
    usage: Usage,
    tokens_per_second: float | None,
    interruption: Interruption | None,
    *,
    failed: bool,
) -> None:
    """Send a stream at its speed and end the admission: completed, failed, cut by the client or by `interruption`."""
    for tally in admission.key.tallies:
        tally.open_streams += 1
    began = time.monotonic()
    produced = 0
    try:
        await response.prepare(request)
        for sent, frame in enumerate(frames):
            if interruption is not None and sent == interruption.events:
                if interruption.released is None:
                    admission.cut(usage, produced, "fault", time.monotonic())
                    close(request)
                    return
                await interruption.released()
            if frame.tokens:
                due = 0.0 if tokens_per_second is None else began + (produced + frame.tokens) / tokens_per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                produced += frame.tokens
            await response.write(frame.data)
        if failed:
            admission.fail(time.monotonic())
        else:
            admission.complete(usage, time.monotonic())
        await response.write_eof()
    except (asyncio.CancelledError, ConnectionError):
        admission.cut(usage, produced, "client", time.monotonic())
        raise
    finally:
        for tally in admission.key.tallies:
            tally.open_streams -= 1


async def cut_body(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Announce a whole body, send half of it, close the connection."""
    response = web.StreamResponse(headers={**headers, "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    close(request)
    return response


def close(request: web.Request) -> None:
    """Close the connection after what was written, without what would mark the end of the body."""
    if request.transport is not None:
        request.transport.close()


def sever(request: web.Request) -> web.Response:
    """Reset the connection without an answer. The returned response goes nowhere."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        transport.abort()
    return web.Response()
