"""Sets up logging: structlog events, the standard library's warnings and crashes all become clean lines of one writer.

Tracebacks show code lines and messages, masked, and never the values of local variables, which can hold keys.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog

from quotapool.observe.log_writer import LogWriter
from quotapool.observe.redaction import Redactor
from quotapool.observe.request_log import RequestLog

Format = Literal["auto", "json", "console"]
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_COLOURS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m"}
_RESET: Final = "\x1b[0m"

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


@dataclass(frozen=True, slots=True)
class Logs:
    """What `configure` set up. Call `writer.flush()` last on SIGTERM; a normal exit of Python does it by itself."""

    writer: LogWriter
    requests: RequestLog


def configure(
    level: str,
    format: Format,  # noqa: A002  # it is the option's name
    redactor: Redactor,
    *,
    stream: TextIO | None = None,
    context: Mapping[str, str] | None = None,
) -> Logs:
    """Send everything that this process logs at `level` or above to `stream` (default: standard error).

    Once in each process, after a fork and not before it. "auto" is "console" on a terminal, else "json". `context` is
    added to every line except requests': `{"worker": "0"}`. Other libraries log from warning up.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    colour = terminal and "NO_COLOR" not in os.environ
    json = format == "json" or (format == "auto" and not terminal)
    render = _Render(redactor, context or {}, json=json, colour=colour)
    writer = LogWriter(
        stream.fileno(), notice=lambda dropped: render("warning", "log lines dropped", {"count": dropped})
    )
    threshold = _LEVELS[level]
    sink = _Sink(writer)
    structlog.configure(
        processors=[render.event],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,
    )
    _route_standard_library(writer, render, max(threshold, logging.WARNING))
    _route_crashes(writer, render)
    enabled = threshold <= _LEVELS["info"]
    return Logs(writer, RequestLog(writer, redactor, json=json, colour=colour, enabled=enabled))


class _Render:
    """Makes one line of bytes from an event. Values are cleaned one by one, so that JSON stays JSON."""

    def __init__(self, redactor: Redactor, context: Mapping[str, str], *, json: bool, colour: bool) -> None:
        self._redactor = redactor
        self._context = context
        self._json = json
        self._colour = colour

    def event(self, _: object, level: str, fields: MutableMapping[str, Any]) -> bytes:
        """The last processor of structlog's chain."""
        return self(level, str(fields.pop("event", "")), fields)

    def __call__(self, level: str, event: str, fields: Mapping[str, Any]) -> bytes:
        rest = dict(fields)
        trace = _traceback(rest.pop("exc_info", None))
        rest = self._redactor.scrub({**self._context, **rest})
        if trace:
            rest["exception"] = self._redactor.clean(trace)
        event = self._redactor.clean(event)
        if self._json:
            line = {"ts": datetime.now(UTC), "level": level, "event": event, **rest}
            return msgspec.json.encode(line) + b"\n"
        return self._readable(level, event, rest).encode("utf-8", "backslashreplace")

    def _readable(self, level: str, event: str, fields: dict[str, Any]) -> str:
        trace = fields.pop("exception", None)
        colour, reset = (_COLOURS.get(level, ""), _RESET) if self._colour else ("", "")
        words = [f"{datetime.now().astimezone():%H:%M:%S.%f}"[:-3], f"{colour}{level}{reset}", _shown(event)]
        words += [f"{name}={_shown(value)}" for name, value in fields.items()]
        below = "".join(f"    {_shown(line)}\n" for line in trace.splitlines()) if trace else ""
        return " ".join(words) + "\n" + below


class _Sink:
    """The logger that structlog writes to: takes finished bytes. A warning does not wait for its batch."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def debug(self, line: bytes) -> None:
        self._writer.write(line)

    info = debug

    def warning(self, line: bytes) -> None:
        self._writer.write(line, urgent=True)

    error = critical = warning


class _Handler(logging.Handler):
    """Turns the standard library's records into lines of ours."""

    def __init__(self, writer: LogWriter, render: _Render) -> None:
        super().__init__()
        self._writer = writer
        self._render = render

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit the format
            message = str(record.msg)
        fields = {"logger": record.name, "exc_info": record.exc_info}
        self._writer.write(self._render(record.levelname.lower(), message, fields), urgent=True)


def _route_standard_library(writer: LogWriter, render: _Render, threshold: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Handler(writer, render)]
    root.setLevel(threshold)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # it would print records as they are, unmasked
    logging.getLogger("aiohttp.server").addFilter(_is_worth_a_line)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """False for invalid HTTP, which anyone can send and which aiohttp would log as an error with its content.

    Its exceptions are known by their module: aiohttp itself would take 8 MiB of each worker."""
    return record.exc_info is None or type(record.exc_info[1]).__module__ != "aiohttp.http_exceptions"


def _route_crashes(writer: LogWriter, render: _Render) -> None:
    """What Python itself would print unmasked: uncaught exceptions of any thread, and of finalizers."""

    def crash(event: str, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
            writer.write(render("critical", event, {"exc_info": error}), urgent=True)

    sys.excepthook = lambda _, error, __: crash("uncaught exception", error)
    threading.excepthook = lambda failed: crash("uncaught exception in a thread", failed.exc_value)
    sys.unraisablehook = lambda failed: crash("exception in a finalizer", failed.exc_value)


def _traceback(exc_info: ExcInfo | BaseException | bool | tuple[None, None, None] | None) -> str:
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if not isinstance(error, BaseException):
        return ""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())


def _shown(value: object) -> str:
    """A value on one line, without control characters for the terminal."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
