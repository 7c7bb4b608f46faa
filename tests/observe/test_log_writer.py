"""Log lines arrive complete, in order and in batches, and a slow reader never stops the proxy."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from quotapool.observe.log_writer import FLUSH_AT, LogWriter


@pytest.fixture
def pipe():
    """(reader, writer) of a pipe that holds 64 KiB."""
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_NONBLOCK)
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:  # the test closed it: that was its point
            continue


def drain(reader: int) -> bytes:
    """All that is in the pipe now."""
    parts = []
    while True:
        try:
            part = os.read(reader, 1 << 16)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def fire(writer: LogWriter) -> None:
    """The batch timer comes due now."""
    assert writer._timer is not None
    writer._timer.cancel()
    writer._on_timer()


async def test_lines_wait_for_their_batch_and_leave_together(pipe):
    reader, fd = pipe
    writer = LogWriter(fd)
    writer.write(b"one\n")
    writer.write(b"two\n")
    assert drain(reader) == b""
    fire(writer)
    assert drain(reader) == b"one\ntwo\n"
    writer.close()


async def test_64_kib_do_not_wait_for_the_timer(tmp_path):
    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno())
        line = b"x" * 1023 + b"\n"
        for _ in range(FLUSH_AT // 1024):
            writer.write(line)
        assert (tmp_path / "log").stat().st_size == FLUSH_AT
        writer.close()


async def test_an_urgent_line_takes_the_waiting_ones_with_it(pipe):
    reader, fd = pipe
    writer = LogWriter(fd)
    writer.write(b"first\n")
    writer.write(b"urgent\n", urgent=True)
    assert drain(reader) == b"first\nurgent\n"
    writer.close()


def test_without_an_event_loop_lines_are_written_at_once(pipe):
    reader, fd = pipe
    writer = LogWriter(fd)
    writer.write(b"starting\n")
    assert drain(reader) == b"starting\n"
    writer.close()


def test_lines_written_after_the_loop_ended_are_not_forgotten(pipe):
    reader, fd = pipe

    async def serve() -> LogWriter:
        writer = LogWriter(fd)
        writer.write(b"serving\n")
        return writer

    writer = asyncio.run(serve())
    writer.write(b"ended\n")
    assert drain(reader) == b"serving\nended\n"
    writer.close()


async def test_a_reader_that_sleeps_loses_the_oldest_lines_and_learns_how_many(pipe):
    reader, fd = pipe
    writer = LogWriter(fd)
    # Given 10 MB of lines for a reader that does not read
    began = time.perf_counter()
    for n in range(100_000):
        writer.write(b"%099d\n" % n)
    # Then the proxy did not wait for it (a blocking write would last for ever),
    assert time.perf_counter() - began < 5
    # and once it reads, it gets whole lines in order, the newest among them, and the number of the missing ones
    received = b""
    while part := drain(reader):
        received += part
        fire(writer) if writer._timer else writer.flush()
    lines = received.splitlines()
    numbers = [int(line) for line in lines if line.isdigit()]
    notices = [line for line in lines if not line.isdigit()]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    assert numbers[-1] == 99_999
    assert notices == [b"%d log lines dropped: their reader is too slow" % (100_000 - len(numbers))]
    assert len(numbers) < 100_000
    writer.close()


async def test_a_slow_reader_gets_everything_when_it_takes_its_time(pipe):
    reader, fd = pipe
    writer = LogWriter(fd)
    expected = b"".join(b"%099d\n" % n for n in range(3000))  # 300 kB through a pipe of 64 KiB
    for n in range(3000):
        writer.write(b"%099d\n" % n)
    received = b""
    while len(received) < len(expected):
        fire(writer)
        received += drain(reader)
    assert received == expected
    writer.close()


async def test_a_reader_that_left_is_not_an_error(pipe):
    reader, fd = pipe
    writer = LogWriter(fd)
    os.close(reader)
    for _ in range(1000):
        writer.write(b"x" * 1000 + b"\n")
    assert writer._size < 1000 * 1001  # let go of, not hoarded
    writer.close()


async def test_the_shared_description_stays_blocking_for_everyone_else(pipe):
    _, fd = pipe
    LogWriter(fd).close()
    assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


def test_two_processes_on_one_pipe_never_split_a_line():
    program = textwrap.dedent(
        """
        import asyncio, sys
        from quotapool.observe.log_writer import LogWriter
        async def main():
            writer = LogWriter(1)
            for n in range(5000):
                writer.write(sys.argv[1].encode() * 200 + b"\\n")
                if n % 100 == 0:
                    await asyncio.sleep(0)
        asyncio.run(main())
        """
    )
    reader, fd = os.pipe()
    workers = [subprocess.Popen([sys.executable, "-c", program, who], stdout=fd) for who in "ab"]
    os.close(fd)
    with os.fdopen(reader, "rb") as file:
        lines = file.read().splitlines()
    assert [worker.wait(30) for worker in workers] == [0, 0]
    # All of them, though nobody flushed: leaving Python does
    assert sorted(lines) == [b"a" * 200] * 5000 + [b"b" * 200] * 5000


def test_flush_gives_up_on_a_reader_that_never_reads(pipe):
    _, fd = pipe
    writer = LogWriter(fd)
    for _ in range(3):
        writer.write(b"x" * 60_000 + b"\n")
    writer.flush(timeout_s=0.01)  # I expect it to return
    assert writer._size > 0
    writer._gone = True
    writer.close()


def test_a_log_line_from_inside_a_write_does_not_double_the_outer_one(tmp_path: Path, monkeypatch):
    """A finalizer may log at any allocation, also in the middle of a write."""
    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno())
        really_write = os.write

        def write_with_finalizer(fd: int, data: bytes) -> int:
            monkeypatch.setattr(os, "write", really_write)
            writer.write(b"from a finalizer\n", urgent=True)
            return really_write(fd, data)

        monkeypatch.setattr(os, "write", write_with_finalizer)
        writer.write(b"outer\n")
        writer.close()
    assert (tmp_path / "log").read_bytes() == b"outer\nfrom a finalizer\n"
