"""One line per request: what the client asked for, which keys were tried, what it cost and where the time went.

It has neither prompts nor completions, nor any text from upstream: every field is a number, a word of ours or a name
from the configuration; `model`, which comes from the client, is masked.
"""

from __future__ import annotations

from typing import Final

import msgspec

from quotapool.domain.quantities import Certainty, Usage
from quotapool.observe.log_writer import LogWriter
from quotapool.observe.redaction import Redactor
from quotapool.observe.request_line import AskedForLine, RequestLine, TokensLine


def ms(seconds: float) -> float:
    """Milliseconds with three decimals, as request lines show times."""
    return (seconds * 1e6 + 0.5) // 1 / 1000  # `round(x, 3)` takes five times as long, and there are six in a line


def tokens_line(usage: Usage) -> TokensLine:
    return TokensLine(usage.prompt, usage.completion, _CERTAINTY[usage.certainty])


_CERTAINTY: Final = {certainty: certainty.value for certainty in Certainty}  # `.value` takes as long as all the rest
_encode_lines: Final = msgspec.json.Encoder().encode_lines  # with a list: it never frees a tuple (msgspec 0.22)

_RESET, _DIM, _RED, _YELLOW, _GREEN = "\x1b[0m", "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[32m"


class RequestLog:
    """Encodes request lines and hands them to the writer: JSON, or one readable line for a terminal."""

    def __init__(
        self, writer: LogWriter, redactor: Redactor, *, json: bool = True, colour: bool = False, enabled: bool = True
    ) -> None:
        self._writer = writer
        self._word = redactor.word
        self._json = json
        self._colour = colour
        self.enabled = enabled

    def write(self, line: RequestLine) -> None:
        if not self.enabled:
            return
        line.model = self._word(line.model)
        if isinstance(line.waited_for, str):
            line.waited_for = self._word(line.waited_for)  # it may name the model
        asked_for = line.asked_for
        if isinstance(asked_for, AskedForLine) and asked_for.group:
            asked_for.group = self._word(asked_for.group)
        if self._json:
            self._writer.write(_encode_lines([line]))
        else:
            self._writer.write(readable(line, colour=self._colour).encode())


def readable(line: RequestLine, *, colour: bool) -> str:
    """The line for people, in local time: status, what, how long, tokens, and each key that was tried."""
    of_status = _GREEN if line.status < 400 else _YELLOW if line.status < 500 else _RED
    status, dim, reset = (of_status, _DIM, _RESET) if colour else ("", "", "")
    at = f"{line.ts.astimezone():%H:%M:%S.%f}"[:-3]
    # The client's text must not control the terminal.
    model = "".join(filter(str.isprintable, line.model)) or "-"
    queued = f", queued {line.queue_ms:.0f}" if line.queue_ms >= 1 else ""
    tokens = f"{line.tokens.prompt}+{line.tokens.completion} tokens" if line.tokens else "no tokens"
    tried = " ".join(f"{attempt.key}:{attempt.outcome}" for attempt in line.attempts) or line.source
    code = f" {line.code}" if line.code else ""
    about = f" ({line.about})" if line.about else ""
    waited = f" waited for {line.waited_for}" if line.waited_for else ""
    cache = f" cache:{line.cache}" + (f" ({line.kept})" if line.kept else "") if line.cache else ""
    return (
        f"{dim}{at}{reset} {status}{line.status}{code}{reset} {line.endpoint} {model} {line.client} "
        f"{line.total_ms:.0f} ms (ours {line.overhead_ms:.1f}{queued}) {tokens} {tried}{cache}{about}{waited} "
        f"{dim}{line.request_id}{reset}\n"
    )
