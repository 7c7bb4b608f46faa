"""Any order of messages in pieces, pings, pauses, slow reading, waits for budget and ends of every kind, in virtual
time: each message arrives once, unchanged and in order, or its session has ended on both sides. Nothing hangs.
"""

from __future__ import annotations

import asyncio
import gc
import json
from errno import EHOSTUNREACH
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts
from quotapool.web.handlers import ClientHandler
from quotapool.web.server import Server
from structlog.testing import capture_logs

from tests.fakes.frame_peer import ALL, FramePeer, Said
from tests.fakes.house import House
from tests.fakes.sessions import BINARY, PONG, TEXT, accept_of
from tests.fakes.valkey import forget_all
from tests.fakes.virtual_time import VirtualTime
from tests.fakes.wire import Ends

LARGEST = 200_000  # bytes of a message
MOST_UNTAKEN = 2**16 + LARGEST + 1_000  # bytes in a transport
MOST_HELD = MOST_UNTAKEN + LARGEST + 4 * 2**16  # of one way: a message that is sent, one that is read, what is unread
MOST_KEPT = 2**20 + LARGEST  # behind a message that waits for a budget
LOST_S = 300.0  # after so much silence a side is given up
SIDES = st.sampled_from(["client", "upstream"])
SECONDS = st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.1])
LONG_SECONDS = st.sampled_from([4.0, 8.0, 30.0, 100.0])
SIZES = st.sampled_from([0, 1, 125, 126, 4_096, 65_535, 65_536, LARGEST])
PUSHES = st.sampled_from([0, 1, 2, 3, 50, 1_000, 70_000, ALL, ALL])
KINDS = {
    "client": ["event", "binary", "no JSON", "create", "create"],
    "upstream": ["event", "binary", "no JSON", "completed", "rate limit"],
}
ANSWERS = st.tuples(
    st.sampled_from(["101", "101", "101", "400", "503", "nonsense", "hang up", "silence"]),
    st.integers(0, 2),  # messages behind a 101
    st.booleans(),  # all at once
)
ENDS = ["close", "close", "leave", "reset", "unreachable", "hang up", "silence", "silence", "broken", "restart"]
CLOSES = st.sampled_from([b"", b"\x03\xe8", b"\x03\xe9away", b"\x0f\xa0" + "Grüße".encode()])
Answer = tuple[str, int, bool]
NO_FRAMES = {True: [b"\xc1\x80mask", b"\x82\xff" + b"\xff" * 12], False: [b"\xc1\x00", b"\x82\x7f" + b"\xff" * 8]}


class Client(FramePeer):
    @property
    def status(self) -> str:
        return self.start.split()[1] if self.start else ""

    @property
    def is_open(self) -> bool:
        return self.status == "101"


class Upstream(FramePeer):
    """One connection of ours. The session has its answer to the handshake."""

    machine: AnyOrder
    session: Session | None = None
    is_granted = False

    def head_came(self) -> None:
        number = int(self.start.partition("n=")[2].split()[0])
        self.session = self.machine.sessions[number]
        self.session.upstreams.append(self)
        answer, greetings, at_once = self.session.answers.pop(0) if self.session.answers else ("101", 1, True)
        if answer == "101":
            self.is_granted = True
            accept = accept_of(self.field("Sec-WebSocket-Key"))
            lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
            self.queue("\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept}", "", ""]).encode())
            for _ in range(greetings):
                self.says(*self.machine.payload("event", 1), 1, pings=False)
        elif answer in {"400", "503"}:
            error = json.dumps({"error": {"message": "No.", "type": "invalid_request_error", "code": "no"}})
            self.queue(f"HTTP/1.1 {answer} No\r\nContent-Length: {len(error)}\r\n\r\n{error}".encode())
        elif answer == "nonsense":
            self.queue(b"220 ready\r\n\r\n")
        elif answer == "hang up":
            self.hang_up()
        self.is_done = self.is_done or not self.is_granted
        if at_once or self.machine.is_ending:
            self.push(ALL)


class Session:
    """One session, from both of its ends. `answers`: what upstream says to one handshake after the other."""

    def __init__(self, client: Client, answers: list[Answer], *, of_responses: bool) -> None:
        self.client, self.answers, self.of_responses = client, answers, of_responses
        self.is_refused = any(answer != "101" for answer, *_ in answers)
        self.upstreams: list[Upstream] = []
        self.ended_early = False  # before it had been accepted

    @property
    def upstream(self) -> Upstream | None:
        """The last one asked, if it has granted the session."""
        last = self.upstreams[-1] if self.upstreams else None
        return last if last is not None and last.is_granted else None

    def side(self, name: str) -> FramePeer | None:
        return self.client if name == "client" else self.upstream

    @property
    def peers(self) -> list[FramePeer]:
        return [self.client, *self.upstreams]

    @property
    def is_alive(self) -> bool:
        up = self.upstream
        return self.client.is_open and not self.client.closing and up is not None and not up.closing


class Dialer:
    """Connects to upstream: `upstream/dialing.py` without a network."""

    def __init__(self, machine: AnyOrder) -> None:
        self.machine = machine

    async def open(self, loop: asyncio.AbstractEventLoop, _deadline: float | None, protocol: Any) -> tuple[Any, Any]:
        await asyncio.sleep(0.01)
        made = protocol()
        link = Upstream(made, loop, masks=False)
        link.machine = self.machine
        return link, made


class AnyOrder(RuleBasedStateMachine):
    """Up to two sessions on one account that may use 60,000 tokens a minute."""

    def __init__(self, store_url: str, directory: Path) -> None:
        super().__init__()
        self.store_path, self.directory = store_url.removeprefix("unix://"), directory
        forget_all(store_url)
        self.loop = asyncio.new_event_loop()
        self.clock = VirtualTime()
        self.installed, self.logs = self.clock.installed(self.loop), capture_logs()
        self.installed.__enter__()
        self.lines = self.logs.__enter__()
        asyncio.set_event_loop(self.loop)
        self.accidents: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, accident: self.accidents.append(accident))
        self.sessions: list[Session] = []
        self.relaying: set[Any] = set()
        self.numbers = self.creates = 0
        self.paused_s = 0.0
        self.store_was_slow = self.is_restarted = self.is_ending = False
        self.run(self._open())

    async def _open(self) -> None:
        path = self.directory / "store"
        path.unlink(missing_ok=True)
        self.relay = await asyncio.start_unix_server(self._reach_the_store, path)
        options = {"limits": {"default": {"tpm": 60_000}}, "queue": {"max_wait": 10}}
        self.house = House(f"unix://{path}", {"a": 1}, options)
        await self.house.ledger.registry.begin_epoch(reseeded=False)
        await self.house.sync.refresh()
        client = UpstreamClient("http://127.0.0.1:1", Timeouts(2.0, 5.0, 5.0))
        client._dialer = Dialer(self)  # type: ignore[assignment]  # the edge of the network
        self.house.configure(upstream=client)
        self.path = self.house.paths.sessions
        self.handler = ClientHandler(self.house.paths.requests, Ends(), self.path)
        self.server = Server(self.handler.serve)

    async def _reach_the_store(self, *ends: Any) -> None:
        self.relaying.add(asyncio.current_task())  # the loop alone would not keep it
        await self.clock.relay(self.store_path, *ends)

    def run(self, work: Any) -> None:
        self.loop.run_until_complete(work)

    def a_turn(self) -> None:
        self.run(asyncio.sleep(0))

    # ---- what happens

    def begin(self, answers: list[Answer], *, of_responses: bool, now: int) -> None:
        client = Client(self.server(), self.loop, masks=True)
        target = f"/v1/{'responses' if of_responses else 'realtime'}?model=gpt-4o&n={len(self.sessions)}"
        lines = [f"GET {target} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
        client.queue("\r\n".join(lines).encode())
        self.sessions.append(Session(client, answers, of_responses=of_responses))
        client.push(now)
        self.a_turn()

    @initialize(of_responses=st.booleans(), is_quick=st.booleans())
    def connect(self, of_responses: bool, is_quick: bool) -> None:
        """`is_quick`: no limit of time is reached, and each session is ended in one way at most."""
        self.is_quick = is_quick
        self.begin([], of_responses=of_responses, now=ALL)
        self.run(asyncio.sleep(0.5))

    @precondition(lambda self: len(self.sessions) < 2)
    @rule(
        answers=st.lists(ANSWERS, max_size=2),
        of_responses=st.booleans(),
        now=PUSHES,
    )
    def connect_another(self, answers: list[Answer], of_responses: bool, now: int) -> None:
        self.begin(answers, of_responses=of_responses, now=now)

    def payload(self, kind: str, size: int) -> Said:
        self.numbers += 1
        number = self.numbers
        event: dict[str, Any] = {"type": "x.delta", "n": number}
        if kind == "create":
            self.creates += 1
            event = {"type": "response.create", "model": "gpt-4o", "input": f"{number}", "stream_id": f"n{number}"}
            event["max_output_tokens"] = (100, 3_000, 20_000)[number % 3]
        elif kind == "completed":
            usage = {"input_tokens": 10, "output_tokens": number, "total_tokens": number + 10}
            event = {"type": "response.completed", "response": {"id": f"resp_{number}", "usage": usage}}
        elif kind == "rate limit":
            error = {"type": "tokens", "code": "rate_limit_exceeded", "message": f"{number} are too many"}
            event = {"type": "error", "error": error}
        elif kind in {"binary", "no JSON"}:
            return BINARY if kind == "binary" else TEXT, (b"%d" % number).ljust(size, b".")[:size]
        return TEXT, json.dumps({**event, "pad": "." * max(0, size - 100)}).encode()

    @rule(
        which=st.integers(0, 1),
        side=SIDES,
        kind=st.integers(0, 4),
        size=SIZES,
        fragments=st.sampled_from([1, 1, 2, 5]),
        pings=st.booleans(),
        times=st.sampled_from([1, 1, 3, 12]),
        now=PUSHES,
    )
    def say(
        self, which: int, side: str, kind: int, size: int, fragments: int, pings: bool, times: int, now: int
    ) -> None:
        """Messages behind what is still to be sent; `now`: bytes of it that go out at once."""
        peer = self.sessions[which % len(self.sessions)].side(side)
        if peer is None or peer.is_done:
            return
        for _ in range(times):
            peer.says(*self.payload(KINDS[side][kind], size), fragments, pings=pings)
        peer.push(now)
        self.a_turn()

    @rule(which=st.integers(0, 1), side=SIDES, payload=st.sampled_from([b"", b"?", b"p" * 125]), now=PUSHES)
    def ping(self, which: int, side: str, payload: bytes, now: int) -> None:
        """And a pong that nobody asked for."""
        peer = self.sessions[which % len(self.sessions)].side(side)
        if peer is not None and not peer.is_done:
            peer.asks(payload)
            peer.queue(peer.frame(PONG, payload))
            peer.push(now)
            self.a_turn()

    @rule(which=st.integers(0, 1), last=st.booleans(), size=PUSHES)
    def send(self, which: int, last: bool, size: int) -> None:
        peers = self.sessions[which % len(self.sessions)].peers
        peers[-last].push(size)
        self.a_turn()

    @rule(which=st.integers(0, 1), last=st.booleans(), size=st.sampled_from([0, 0, 1, 1_000, 100_000, ALL]))
    def take(self, which: int, last: bool, size: int) -> None:
        """Read so much, and then no more."""
        peers = self.sessions[which % len(self.sessions)].peers
        peers[-last].take(size)
        self.a_turn()

    @rule(which=st.integers(0, 1), side=SIDES)
    def flood(self, which: int, side: str) -> None:
        """More than fits between the sides, while the other one does not read."""
        session = self.sessions[which % len(self.sessions)]
        peer, other = session.side(side), session.side("upstream" if side == "client" else "client")
        if peer is None or other is None or peer.is_done:
            return
        other.take(0)
        for _ in range(12):
            peer.says(*self.payload("binary", LARGEST), 1, pings=False)
        peer.push(ALL)
        self.pause(0.1)

    @rule(which=st.integers(0, 1), now=PUSHES)
    def overspend(self, which: int, now: int) -> None:
        """Ask for more than the budget has: some have to wait, and some are refused."""
        session = self.sessions[which % len(self.sessions)]
        if session.of_responses and not session.client.is_done and self.creates < 24:
            for _ in range(12):
                session.client.says(*self.payload("create", 0), 1, pings=False)
            session.client.push(now)
            self.pause(0.1)

    @rule(seconds=SECONDS)
    def pause(self, seconds: float) -> None:
        self.paused_s += seconds
        self.run(asyncio.sleep(seconds))

    @precondition(lambda self: not self.is_quick)
    @rule(seconds=LONG_SECONDS)
    def pause_for_long(self, seconds: float) -> None:
        self.pause(seconds)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    def the_store_is_slow(self, seconds: float) -> None:
        self.clock.pause_store(seconds)
        self.store_was_slow = True

    @rule(
        which=st.integers(0, 1),
        side=SIDES,
        how=st.sampled_from(ENDS),
        payload=CLOSES,
        now=PUSHES,
    )
    def end(self, which: int, side: str, how: str, payload: bytes, now: int) -> None:
        session = self.sessions[which % len(self.sessions)]
        peer = session.side(side)
        if self.is_quick and (self.is_restarted or any(one.ends for one in session.peers)):
            return
        if how == "restart" and not self.is_restarted:
            self.is_restarted = True
            self.closing = self.loop.create_task(self.path.close(20.0))
        if how == "restart" or peer is None or peer.is_done:
            return
        session.ended_early = session.ended_early or not session.is_alive
        if how == "close":
            peer.closes(payload)
        elif how == "broken":
            peer.breaks(NO_FRAMES[peer.masks][len(payload) % 2])
        elif how == "hang up":
            peer.hang_up()
        elif how == "silence":
            peer.fall_silent()
        else:
            peer.leave({"reset": ConnectionResetError(), "unreachable": OSError(EHOSTUNREACH, "no route")}.get(how))
        peer.push(now)
        self.a_turn()

    # ---- what is promised

    @invariant()
    def nothing_piles_up(self) -> None:
        for session in self.sessions:
            up, client = session.upstream, session.client
            for peer in session.peers:
                assert len(peer.way_out) <= MOST_UNTAKEN
            if up is not None and session.is_alive and not (client.ends or up.ends or self.is_restarted):
                assert up.read - client.got <= MOST_HELD
                assert client.read - up.got <= MOST_HELD + (MOST_KEPT if session.of_responses else 0)

    def teardown(self) -> None:
        try:
            self._drain()
            for session in self.sessions:
                self._check(session)
            for session in self.sessions:
                if session.is_alive:
                    session.client.closes(b"\x03\xe8")
                    session.client.push(ALL)
            if self.is_restarted:
                self.run(self.closing)
            self.run(asyncio.sleep(20.0))
            assert all(peer.ended for session in self.sessions for peer in session.peers)
            assert (self.path.open, self.handler.open, len(self.server.connections)) == (0, 0, 0)
            self.run(self.house.quiet())
            assert all(self.house.grants.settled[granted.id] for granted in self.house.grants.granted)
            assert self.house.recorder.sessions.total() == 0
            assert not [task for task in asyncio.all_tasks(self.loop) if "SessionRelay" in repr(task)]
            assert self.accidents == []
            assert [line for line in self.lines if line["log_level"] == "error"] == []
        finally:
            self.run(self._close())
            self.logs.__exit__(None, None, None)
            self.installed.__exit__(None, None, None)
            self.loop.close()
            asyncio.set_event_loop(None)

    async def _close(self) -> None:
        await self.path.close(0.1)
        await self.server.close()
        await self.house.close()
        self.relay.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.1)

    def _drain(self) -> None:
        """Everybody reads all, and sends what is left, and there is time enough."""
        self.is_ending = True
        for _ in range(3):
            for session in self.sessions:
                for peer in session.peers:
                    peer.take(ALL)
                    peer.push(ALL)
            self.run(asyncio.sleep(0.5))
        self.run(asyncio.sleep(200.0 + 10.0 * self.creates))  # each may wait for its budget
        silent = [peer for session in self.sessions for peer in session.peers if peer.ends == "silence"]
        if silent:
            self.run(asyncio.sleep(LOST_S))
        for peer in silent:
            if peer.way_out:  # the kernel gives up what nobody has acknowledged (tcp(7), tcp_retries2)
                peer.leave(TimeoutError())
        self.run(asyncio.sleep(20.0))

    def _check(self, session: Session) -> None:
        client, up = session.client, session.upstream
        refusals = [said for said in client.heard if is_refusal(said)]
        heard = [said for said in client.heard if not is_refusal(said)]
        if not session.is_alive:
            assert all(peer.ended for peer in session.peers)
        if up is None:
            assert heard == []
            is_limited = self.store_was_slow or self.paused_s > 25.0 or client.status == "429"  # it cools down
            assert client.ends or session.is_refused or is_limited
            return
        assert heard == up.said_whole[: len(heard)]
        passed, refused = parted(client.said_whole, up.heard)
        assert all(lane_of(said) for said in refused)
        ends = [f"{name} {peer.ends}" for name, peer in (("client", client), ("upstream", up)) if peer.ends]
        ends += ["proxy restart"] * self.is_restarted
        if session.is_alive:
            assert ends == []
            assert len(heard) == len(up.said_whole)
            assert passed == len(client.said_whole)
            assert [lane_of(said) for said in refusals] == [lane_of(said) for said in refused]
            assert client.pongs == client.asked
            assert up.pongs == up.asked
        elif not ends:
            assert self.paused_s > (240.0 if client.is_open else 25.0) or session.is_refused  # a limit was reached
        elif len(ends) == 1 and self.paused_s < 4.0 and not session.ended_early:
            self._check_end(session, up, *ends)

    def _check_end(self, session: Session, up: Upstream, how: str) -> None:
        """Of a session that was ended in only one way, and in which no limit was reached."""
        client = session.client
        heard = [said for said in client.heard if not is_refusal(said)]
        to_client, to_upstream = client.closed, up.closed
        passed, _ = parted(client.said_whole, up.heard)
        if how in {"client close", "upstream close"}:
            assert to_client == to_upstream
        elif how == "proxy restart":
            assert (code(to_client), code(to_upstream)) == (1012, 1001)
        elif how.startswith("client"):
            assert code(to_upstream) == 1001
            assert how != "client broken" or code(to_client) in {1002, 1009}
        else:
            assert code(to_client) == 1011
            assert how != "upstream broken" or code(to_upstream) in {1002, 1009}
        if how in {"upstream close", "upstream hang up", "client close"}:
            assert len(heard) == len(up.said_whole)
        if how in {"client close", "upstream close"} and not session.of_responses:
            assert passed == len(client.said_whole)


def code(close: bytes | None) -> int | None:
    return None if close is None else int.from_bytes(close[:2], "big")


def is_refusal(said: Said) -> bool:
    """Whether it is the proxy's own answer to an event."""
    return said[0] == TEXT and said[1].startswith(b'{"type":"error","status":')


def lane_of(said: Said) -> str:
    """Of a `response.create`, or of its refusal."""
    try:
        found: str = json.loads(said[1]).get("stream_id", "")
    except (ValueError, AttributeError):
        return ""
    return found


def parted(said: list[Said], heard: list[Said]) -> tuple[int, list[Said]]:
    """How many of the messages said have been heard, or jumped over, and those that were jumped over."""
    at, jumped = 0, []
    for message in heard:
        while at < len(said) and said[at] != message:
            jumped.append(said[at])
            at += 1
        assert at < len(said), "heard what nobody said, or out of order"
        at += 1
    while at < len(said) and lane_of(said[at]):  # refused, for all that can be known
        jumped.append(said[at])
        at += 1
    return at, jumped


def test_whatever_comes_in_whatever_order_each_message_arrives_or_its_session_ends_on_both_sides(
    shared_valkey: str, tmp_path: Path
) -> None:
    # What other tests left behind, such as a client of an SDK, would close itself in our loop, as an accident of ours.
    gc.collect()
    run_state_machine_as_test(
        lambda: AnyOrder(shared_valkey, tmp_path),
        settings=settings(max_examples=200, stateful_step_count=25, deadline=None),
    )
