"""Every line is one JSON object (or one readable line), and none holds a secret, a prompt or a local variable."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import tracemalloc
from datetime import UTC, datetime

import pytest
import structlog
from aiohttp.http_exceptions import BadStatusLine
from quotapool.observe import logs
from quotapool.observe.redaction import Redactor
from quotapool.observe.request_line import AttemptLine, RequestLine, TokensLine
from quotapool.observe.request_log import ms, readable

KEY = "sk-proj-Abc123_def456-Ghi789T3BlbkFJjkl012MNO345"
PASSWORD = 'odd "pass\\word'


@pytest.fixture
def log(tmp_path, monkeypatch):
    """(what configure returned, a function that reads the lines so far)."""
    for hook in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, hook, getattr(sys, hook))
    monkeypatch.setattr("threading.excepthook", None)
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    path = tmp_path / "log"
    with path.open("w") as stream:
        configured = logs.configure("info", "json", Redactor([PASSWORD]), stream=stream, context={"worker": "0"})

        def lines() -> list[dict]:
            configured.writer.flush()
            return [json.loads(line) for line in path.read_text().splitlines()]

        yield configured, lines
        configured.writer.close()
    root.handlers[:], root.level, logging.raiseExceptions = handlers, level, raising
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def a_request(**changed) -> RequestLine:
    fields = {
        "request_id": "qp_1",
        "client": "team-a",
        "endpoint": "chat",
        "model": "gpt-4o",
        "status": 200,
        "attempts": [AttemptLine("alpha", "wait", 0.0, 429, 12.5), AttemptLine("beta", "ok", 3.25, 200, 800.0)],
        "tokens": TokensLine(12, 34, "exact"),
        "queue_ms": 3.25,
        "ttfb_ms": 230.0,
        "total_ms": ms(0.8301234),
        "overhead_ms": 0.412,
        "source": "upstream",
    }
    return RequestLine(**{**fields, **changed})


def test_one_request_is_one_line_that_explains_it(log):
    configured, lines = log
    configured.requests.write(a_request())
    (line,) = lines()
    assert datetime.now(UTC).timestamp() - datetime.fromisoformat(line.pop("ts")).timestamp() < 60
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": "qp_1",
        "client": "team-a",
        "endpoint": "chat",
        "model": "gpt-4o",
        "status": 200,
        "attempts": [
            {"key": "alpha", "outcome": "wait", "wait_ms": 0.0, "status": 429, "ms": 12.5},
            {"key": "beta", "outcome": "ok", "wait_ms": 3.25, "status": 200, "ms": 800.0},
        ],
        "tokens": {"prompt": 12, "completion": 34, "certainty": "exact"},
        "queue_ms": 3.25,
        "ttfb_ms": 230.0,
        "total_ms": 830.123,
        "overhead_ms": 0.412,
        "source": "upstream",
    }


def test_the_line_of_a_refusal_has_its_code_and_what_was_read(log):
    configured, lines = log
    configured.requests.write(a_request(status=404, code="object_not_found", about="file in file_id"))
    (line,) = lines()
    assert (line["code"], line["about"]) == ("object_not_found", "file in file_id")
    shown = readable(a_request(status=404, code="object_not_found", about="file in file_id"), colour=False)
    assert "404 object_not_found " in shown
    assert "(file in file_id)" in shown


def test_a_client_that_sends_a_key_as_its_model_finds_it_masked(log):
    configured, lines = log
    configured.requests.write(a_request(model=KEY))
    assert lines()[0]["model"] == "[redacted]"


def test_an_event_carries_its_fields_clean_and_the_line_stays_json(log):
    _, lines = log
    structlog.get_logger().info("key removed", key="alpha", said=f"wrong key provided: {KEY}", nested=[{"p": PASSWORD}])
    (line,) = lines()
    line.pop("ts")
    assert line == {
        "level": "info",
        "event": "key removed",
        "worker": "0",
        "key": "alpha",
        "said": "wrong key provided: [redacted]",
        "nested": [{"p": "[redacted]"}],
    }


def test_a_traceback_shows_where_and_neither_secrets_nor_local_variables(log):
    _, lines = log

    def connect(secret: str) -> None:
        held = secret[::-1]
        raise ValueError(f"cannot log in with {secret}" + held[:0])

    try:
        connect(PASSWORD)
    except ValueError:
        structlog.get_logger().exception("connecting failed")
    (line,) = lines()
    assert "in connect" in line["exception"]
    assert "cannot log in with [redacted]" in line["exception"]
    assert PASSWORD[::-1] not in line["exception"]
    assert "pass\\word" not in json.dumps(line)


def test_the_standard_library_logs_from_warning_up_and_clean(log):
    _, lines = log
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("redis").warning("cannot reach redis://user:%s@host", "pw-of-many-letters")
    logging.getLogger("asyncio").error("%d arguments that do not fit")
    logging.getLogger("asyncio").error("%d is no number", KEY)
    found = [(line["level"], line["logger"], line["event"]) for line in lines()]
    assert found == [
        ("warning", "redis", "cannot reach redis://[redacted]@host"),
        ("error", "asyncio", "%d arguments that do not fit"),
        ("error", "asyncio", "%d is no number"),
    ]


def test_what_is_not_http_is_not_repeated_in_the_log(log):
    _, lines = log
    server = logging.getLogger("aiohttp.server")
    server.error("Error handling request", exc_info=BadStatusLine("GET /admin/keys?token=abc"))
    assert lines() == []
    server.error("Error handling request", exc_info=RuntimeError("a fault of ours"))
    assert [line["level"] for line in lines()] == ["error"]


def test_a_crash_is_a_clean_line_too():
    program = textwrap.dedent(
        f"""
        import asyncio
        from quotapool.observe.logs import configure
        from quotapool.observe.redaction import Redactor
        configure("debug", "auto", Redactor())
        async def main():
            secret = "{KEY}"
            raise RuntimeError("refused: " + secret)
        asyncio.run(main())
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 1
    line = json.loads(ended.stderr)
    assert line["level"] == "critical"
    assert "refused: [redacted]" in line["exception"]
    assert KEY not in ended.stderr


def test_below_the_level_nothing_is_written(log, tmp_path):
    with (tmp_path / "quiet").open("w") as stream:
        configured = logs.configure("error", "json", Redactor(), stream=stream)
        configured.requests.write(a_request())
        structlog.get_logger().warning("not now")
        logging.getLogger("redis").warning("nor this")
        structlog.get_logger().error("but this")
        configured.writer.close()
    (line,) = (tmp_path / "quiet").read_text().splitlines()
    assert json.loads(line)["event"] == "but this"


def test_on_a_terminal_it_is_seen_what_the_cache_did():
    assert " cache:hit " in readable(a_request(attempts=[], source="cache", cache="hit"), colour=False)
    assert " cache:miss (tools) " in readable(a_request(cache="miss", kept="tools"), colour=False)
    assert "cache" not in readable(a_request(), colour=False)


def test_on_a_terminal_a_request_is_one_readable_line():
    line = a_request(ts=datetime(2026, 11, 22, 12, 0, 0, 7000, tzinfo=UTC))
    at = f"{line.ts.astimezone():%H:%M:%S}.007"
    assert readable(line, colour=False) == (
        f"{at} 200 chat gpt-4o team-a 830 ms (ours 0.4, queued 3) 12+34 tokens alpha:wait beta:ok qp_1\n"
    )


@pytest.mark.parametrize(("status", "colour"), [(200, "32"), (429, "33"), (503, "31")])
def test_the_colour_says_whether_to_worry(status, colour):
    assert f"\x1b[{colour}m{status}\x1b[0m" in readable(a_request(status=status), colour=True)


def test_a_model_name_cannot_control_the_terminal():
    shown = readable(a_request(model="gpt\x1b[2J\n\r"), colour=False)
    assert "\x1b" not in shown
    assert shown.count("\n") == 1


def test_on_a_terminal_auto_means_readable_and_in_a_pipe_json():
    program = textwrap.dedent(
        """
        import structlog
        from quotapool.observe.logs import configure
        from quotapool.observe.redaction import Redactor
        configure("info", "auto", Redactor())
        structlog.get_logger().warning("hello", n=1)
        """
    )
    piped = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(piped.stderr)["event"] == "hello"
    controller, terminal = os.openpty()
    coloured = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    subprocess.run([sys.executable, "-c", program], stderr=terminal, timeout=300, check=True, env=coloured)
    os.close(terminal)
    assert b"\x1b[33mwarning\x1b[0m hello n=1" in os.read(controller, 4096)
    os.close(controller)


def test_an_event_on_a_terminal_is_readable_and_cannot_control_it(log, tmp_path):
    with (tmp_path / "console").open("w") as stream:
        configured = logs.configure("info", "console", Redactor(), stream=stream)
        structlog.get_logger().warning("upstream said", text="bad\x1b[2J\nword", n=2)
        configured.writer.close()
    shown = (tmp_path / "console").read_text()
    assert shown.endswith(" warning upstream said text=bad\\x1b[2J\\nword n=2\n")


def test_a_line_leaves_no_memory_behind(log):
    configured, _ = log
    for _ in range(100):
        configured.requests.write(a_request())
    configured.writer.flush()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2_000):
            configured.requests.write(a_request())
        configured.writer.flush()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_000 * 8  # less than a pointer a line
