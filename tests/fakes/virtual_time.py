"""Time that passes only when nothing else can happen: for the event loop, for `time`, and for the store's scripts.

    async def test_...(open_pool, virtual_time):     # or pytestmark = pytest.mark.usefixtures("virtual_time")
        await asyncio.sleep(60)                      # returns at once, a minute later

Sockets and the store are real. When no socket is ready and the store owes no answer, the clock moves on to the loop's
next timer; so work takes no time at all, on however busy a machine. Threads are not waited for. TCP can take a moment
from one end to the other: tests that use it say `virtual_time.waits_for_tcp()`, and time is then at most ten times as
fast as in earnest.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import selectors
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest

from tests.fakes.listening import listening

_WAY_S = 0.000_03, 0.000_1  # about a Unix socket's
_TAKES_THE_CLOCK = b"local usec_, sec_ = table.remove(ARGV), table.remove(ARGV) "  # on line 1: errors keep their lines


class VirtualTime:
    def __init__(self) -> None:
        self.store_owes = 0  # answers
        self._now = time.monotonic()
        self._wall_ahead = time.time() - self._now
        self._store_rests_until = 0.0
        self._store_ahead = 0.0
        self._rng = random.Random(0)
        self._moment_s, self._step_s = 0.0, math.inf

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return self._now + self._wall_ahead

    def advance(self, seconds: float) -> None:
        """As a piece of work does that takes so long."""
        self._now += seconds

    def waits_for_tcp(self) -> None:
        """What one end has sent may be on its way to the other."""
        self._moment_s, self._step_s = 0.001, 0.01

    def pause_store(self, seconds: float) -> None:
        """The store takes commands and does nothing until then."""
        self._store_rests_until = self._now + seconds

    def set_store_clock(self, by: float) -> None:
        """Set the store's clock forward, or back, by so many seconds."""
        self._store_ahead += by

    @contextlib.contextmanager
    def installed(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "monotonic", self.monotonic)
            patch.setattr(time, "time", self.time)
            patch.setattr(loop, "time", self.monotonic)
            patch.setattr(loop, "_clock_resolution", 1e-6)  # a year from now, doubles are no finer
            patch.setattr(loop, "_selector", _Selector(loop._selector, self))
            yield

    # ---- between the proxy and its store

    def _way_s(self) -> float:
        """Of a command or an answer. Not always the same, or replicas would ask in lockstep, as they never do."""
        return self._rng.uniform(*_WAY_S)

    async def relay(self, store_path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: each command with the clock's time to the store, each answer back."""
        store_reader, store_writer = await asyncio.open_unix_connection(store_path)
        commands, known = hiredis.Reader(), dict[bytes, bytes]()
        try:
            while data := await reader.read(2**16):
                commands.feed(data)
                while (words := commands.gets()) is not False:
                    await asyncio.sleep(self._way_s())
                    while self._now < self._store_rests_until:
                        await asyncio.sleep(self._store_rests_until - self._now)
                    if words == [b"TIME"]:
                        writer.write(packed(self._store_time()))
                        continue
                    self.store_owes += 1
                    try:
                        store_writer.write(packed(with_time(words, known, self._store_time())))
                        answer = await _reply(store_reader)
                    finally:
                        self.store_owes -= 1
                    await asyncio.sleep(self._way_s())
                    writer.write(answer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            store_writer.close()

    def _store_time(self) -> list[bytes]:
        return [b"%d" % part for part in divmod(round((self.time() + self._store_ahead) * 1e6), 1_000_000)]


class _Selector:
    """The loop's own, which moves the clock instead of sleeping."""

    def __init__(self, real: selectors.BaseSelector, clock: VirtualTime) -> None:
        self._real, self._clock = real, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        clock, at_once = self._clock, timeout is not None and timeout <= 0
        ready = self._real.select(0 if at_once else clock._moment_s)
        if ready or at_once:
            return ready
        if timeout is None or clock.store_owes:
            return self._real.select(None)
        clock._now += min(timeout, clock._step_s)
        return []


def with_time(words: list[bytes], known: dict[bytes, bytes], now: list[bytes]) -> list[bytes]:
    """The store's own TIME cannot be set: a script gets `now` as two more arguments, and takes them instead.

    `known`: the scripts that this connection has changed, by the SHA-1 of their original.
    """
    command, *rest = words
    if command.upper() == b"EVAL":
        text = _TAKES_THE_CLOCK + rest[0].replace(b"redis.call('TIME')", b"{sec_, usec_}")
        known[hashlib.sha1(rest[0]).hexdigest().encode()] = hashlib.sha1(text).hexdigest().encode()
        return [command, text, *rest[1:], *now]
    if command.upper() == b"EVALSHA":
        return [command, known.get(rest[0], rest[0]), *rest[1:], *now]
    return words


def packed(words: list[bytes]) -> bytes:
    return b"*%d\r\n%b" % (len(words), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words]))


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """The bytes of one answer, to the only question that is open."""
    replies, raw = hiredis.Reader(), b""
    while replies.gets() is False:
        data = await reader.read(2**20)
        if not data:
            raise ConnectionResetError("the store closed the connection")
        replies.feed(data)
        raw += data
    return raw


@pytest.fixture
async def virtual_time() -> AsyncIterator[VirtualTime]:
    """The whole test in virtual time; its `valkey_url` leads to a store that keeps to it."""
    clock = VirtualTime()
    with clock.installed(asyncio.get_running_loop()):
        yield clock


@pytest.fixture
async def virtual_store_url(virtual_time: VirtualTime, empty_valkey: str, tmp_path: Path) -> AsyncIterator[str]:
    """The store, whose scripts and TIME go by the same clock."""
    path, store_path = tmp_path / "virtual.sock", empty_valkey.removeprefix("unix://")
    async with listening(asyncio.start_unix_server(lambda *ends: virtual_time.relay(store_path, *ends), path)):
        yield f"unix://{path}"
