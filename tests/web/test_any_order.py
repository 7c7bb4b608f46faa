"""Any order of heads, pieces of bodies, pauses, answers, work after them, slow reading and leaving, in virtual time:
each request gets exactly its answer, or its connection ends. Nothing hangs.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from quotapool.openai.refusal import Refusal
from quotapool.web.exchange import Exchange
from quotapool.web.server import Server

from tests.fakes.link import Link
from tests.fakes.virtual_time import VirtualTime

SECONDS = st.sampled_from([0.0, 0.0, 0.001, 1.0, 30.0, 61.0, 100.0])
SIZES = st.sampled_from([0, 1, 100, 5_000, 70_000, 300_000])


class AnyOrder(RuleBasedStateMachine):
    """One client's connection. A request's target says what its answer is: reads-wait-size-chunks-after/number."""

    @initialize()
    def connect(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = VirtualTime()
        self.installed = self.clock.installed(self.loop)
        self.installed.__enter__()
        asyncio.set_event_loop(self.loop)
        self.unsent = bytearray()
        self.expected: list[bytes] = []
        self.paused_s = 0.0
        self.under_way = 0
        self.run(self._listen())

    async def _listen(self) -> None:
        self.server = Server(self._answer)
        self.link = Link(self.server(), self.loop)

    def run(self, work: Any) -> None:
        self.loop.run_until_complete(work)

    async def _answer(self, exchange: Exchange, _wanted: object) -> None:
        self.under_way += 1
        try:
            plan, _, number = exchange.target[1:].partition("/")
            reads, wait, size, chunked, after = plan.split("-")
            if reads == "True":
                try:
                    body = await exchange.read(2**20)
                    assert body == b"b" * len(body)
                except Refusal as refusal:
                    await exchange.start(refusal.status, "", [], 0)
                    await exchange.finish()
                    return
            await asyncio.sleep(float(wait))
            await exchange.start(200, "", [(b"N", number.encode())], None if chunked == "True" else int(size))
            for at in range(0, int(size), 50_000):
                await exchange.write(b"a" * min(50_000, int(size) - at))
            await exchange.finish()
            await asyncio.sleep(float(after))  # such as a write to the store
        except ConnectionError:
            exchange.cut()
        finally:
            self.under_way -= 1

    @rule(
        body=SIZES,
        chunks=st.booleans(),
        wait=SECONDS,
        size=SIZES,
        chunked=st.booleans(),
        after=SECONDS,
        now=st.integers(0, 400),
    )
    def ask(self, body: int, chunks: bool, wait: float, size: int, chunked: bool, after: float, now: int) -> None:
        """A request behind what is still to be sent; `now`: bytes of it that go out at once."""
        number = len(self.expected)
        head = f"POST /True-{wait}-{size}-{chunked}-{after}/{number} HTTP/1.1\r\nHost: a\r\n"
        if chunks:
            data = b"%x\r\n%b\r\n" % (body, b"b" * body) if body else b""
            self.unsent += head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + data + b"0\r\n\r\n"
        else:
            self.unsent += f"{head}Content-Length: {body}\r\n\r\n".encode() + b"b" * body
        self.expected.append(b"a" * size)
        self.send(now)

    @precondition(lambda self: self.unsent)
    @rule(size=st.sampled_from([1, 2, 3, 50, 1_000, 100_000, 10**7]))
    def send(self, size: int) -> None:
        part = bytes(self.unsent[:size])
        del self.unsent[:size]
        self.link.send(part)
        self.run(asyncio.sleep(0))

    @rule(seconds=SECONDS)
    def pause(self, seconds: float) -> None:
        self.paused_s += seconds
        self.run(asyncio.sleep(seconds))

    @rule(size=st.sampled_from([1, 1_000, 100_000, 10**9]))
    def take(self, size: int) -> None:
        self.link.take(size)
        self.run(asyncio.sleep(0))

    @rule()
    def leave(self) -> None:
        self.link.leave()
        self.run(asyncio.sleep(0))

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            left = self.link.ended
            self.link.take(10**9)
            while self.unsent:
                self.send(10**7)
            self.run(asyncio.sleep(200.0 + 300.0 * len(self.expected)))
            whole, rest = answers_in(bytes(self.link.taken))
            assert self.under_way == 0  # nothing hangs
            assert self.link.ended  # an idle connection is closed
            assert len(self.server.connections) == 0
            good = [body for status, body in whole if status == 200]
            assert good == self.expected[: len(good)]  # each its own answer, in order
            assert all(status == 408 for status, _ in whole[len(good) :])
            assert len(whole) - len(good) <= 1
            if self.paused_s < 55.0 and not left:  # no limit was ever reached
                assert len(good) == len(self.expected)
                assert rest == b""
        finally:
            self.run(self.server.close())
            self.installed.__exit__(None, None, None)
            self.loop.close()
            asyncio.set_event_loop(None)


def answers_in(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Status and body of each whole answer, and what is left over."""
    found = []
    while b"\r\n\r\n" in data:
        head, _, rest = data.partition(b"\r\n\r\n")
        body = b""
        if b"chunked" in head:
            while True:
                size, line, after = rest.partition(b"\r\n")
                if not line or len(after) < int(size, 16) + 2:
                    return found, data
                body, rest = body + after[: int(size, 16)], after[int(size, 16) + 2 :]
                if size == b"0":
                    break
        else:
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            if len(rest) < length:
                return found, data
            body, rest = rest[:length], rest[length:]
        found.append((int(head.split(b" ")[1]), body))
        data = rest
    return found, data


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestAnyOrder = AnyOrder.TestCase
