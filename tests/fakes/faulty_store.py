"""A shared store that can fail in every way a network and a server can, in front of real Valkeys.

with faulty_store(directory) as store:
    start_proxy({"redis": store.url, ...})
    store.slow(0.1); store.hang(); store.go(); store.restart_empty(); store.fail_over(); store.swap_roles()
    store.set_clock(-3600); store.answer_once("ERR max number of clients reached"); store.forbid_scripts(); store.heal()

A TCP listener in a thread of its own stands between, so that clients keep one address whatever becomes of the servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import hiredis
import redis

from tests.fakes.valkey import free_port, start_valkey, stop_valkey
from tests.fakes.virtual_time import packed, with_time


class FaultyStore:
    """Blocking calls; each returns when its fault is in force."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._directory, self._servers = directory, 0
        self._delay_s = 0.0
        self._ahead_s = 0.0
        self._answer = b""
        self._listener: asyncio.Server | None = None
        self._replicas: list[subprocess.Popen[bytes]] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.process, self._path, self._server_port = self._new_server()
        self._do(self._listen())

    @property
    def client(self) -> redis.Redis:
        """Straight to the server in use, past every fault but a hanging server."""
        return redis.Redis(unix_socket_path=self._path, socket_timeout=2)

    # ---- faults

    def slow(self, seconds: float) -> None:
        """Each answer comes so much later."""
        self._delay_s = seconds

    def hang(self) -> None:
        """The server accepts and never answers; what it is sent meanwhile it does when healed, as a real one would."""
        self.process.send_signal(signal.SIGSTOP)

    def go(self) -> None:
        """Nobody listens, and what was open is closed."""
        self._do(self._close())

    def restart_empty(self) -> None:
        """Another server, which knows nothing, at the same address."""
        self._replace(*self._new_server())

    def fail_over(self, lost_s: float) -> None:
        """To a replica that did not get the last `lost_s` seconds."""
        replica = self._new_replica()
        time.sleep(lost_s)
        self._replace(*replica)

    def swap_roles(self) -> None:
        """The name leads to what was a replica, and the server becomes its replica; open connections stay with that."""
        old, old_client = self.process, self.client
        self.process, self._path, self._server_port = self._new_replica()
        old_client.replicaof("127.0.0.1", self._server_port)
        self._replicas.append(old)

    def set_clock(self, by_s: float) -> None:
        """Set its clock forward, or back."""
        self._ahead_s += by_s

    def answer_once(self, error: str) -> None:
        """The next script gets this error instead of being run."""
        self._answer = f"-{error}\r\n".encode()

    def forbid_scripts(self) -> None:
        self.client.execute_command("ACL", "SETUSER", "default", "-@scripting")

    def heal(self) -> None:
        self._delay_s = 0.0
        self.process.send_signal(signal.SIGCONT)
        self.client.execute_command("ACL", "SETUSER", "default", "+@all")
        if self._listener is None:
            self._do(self._listen())

    def stop(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        for process in (self.process, *self._replicas):
            stop_valkey(process)

    # ---- how it works

    def _new_replica(self) -> tuple[subprocess.Popen[bytes], str, int]:
        """A server with all of the data, which takes writes."""
        replica = self._new_server("--replicaof", "127.0.0.1", str(self._server_port))
        with redis.Redis(unix_socket_path=replica[1]) as client:
            deadline = time.monotonic() + 10
            while client.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < deadline, "the replica does not follow"
                time.sleep(0.01)
            client.replicaof("NO", "ONE")
        return replica

    def _new_server(self, *arguments: str) -> tuple[subprocess.Popen[bytes], str, int]:
        self._servers += 1
        directory, port = self._directory / f"valkey-{self._servers}", free_port()
        directory.mkdir()
        listening = "--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"
        process, url = start_valkey(directory, *listening, *arguments)
        return process, url.removeprefix("unix://"), port

    def _replace(self, process: subprocess.Popen[bytes], path: str, port: int) -> None:
        old, self.process, self._path, self._server_port = self.process, process, path, port
        stop_valkey(old)  # which closes its connections, and ours with them

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(5)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._listener = None
        for writer in list(self._writers):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_unix_connection(self._path)
        except OSError:
            writer.close()
            return
        both = {writer, there_writer}
        self._writers |= both
        ways = (self._ask(reader, there_writer, writer), self._pump(there_reader, writer))
        tasks = [asyncio.ensure_future(way) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for each in both:
            each.close()
        self._writers -= both

    async def _ask(self, reader: asyncio.StreamReader, there: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        """Pass the commands on, with the time of the clock as it was set."""
        commands, known = hiredis.Reader(), dict[bytes, bytes]()
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                commands.feed(data)
                while (words := commands.gets()) is not False:
                    if self._answer and words[0].upper().startswith(b"EVAL"):
                        back.write(self._answer)
                        self._answer = b""
                        continue
                    now = [b"%d" % part for part in divmod(round((time.time() + self._ahead_s) * 1e6), 1_000_000)]
                    if words == [b"TIME"]:
                        words = [b"EVAL", b"return ARGV", b"0", *now]
                    else:
                        words = with_time(words, known, now)
                    there.write(packed(words))
                await there.drain()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()


@contextlib.contextmanager
def faulty_store(directory: Path) -> Iterator[FaultyStore]:
    store = FaultyStore(directory)
    try:
        yield store
    finally:
        store.stop()
