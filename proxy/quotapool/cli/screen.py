"""A terminal as a whole screen: drawn without flicker, with keys as they are pressed, and given back as it was.

Only lines that have changed are written, each in place, in one write that terminals which know how show at once
(synchronized output, mode 2026): a frame is some hundred bytes, which matters over ssh.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import re
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from typing import Any, Final, Self

from rich.console import Console
from rich.text import Text

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other screen, no cursor, no wrapping
_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_ALONE_S: Final = 0.05  # after which an ESC is the key, not the beginning of another one's bytes
_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])")
_BEGINNING: Final = re.compile(r"\x1b(?:\[[0-9;]*|O)?\Z")
_SEQUENCES: Final = {  # behind ESC, by key
    "up": ("[A", "OA"),
    "down": ("[B", "OB"),
    "right": ("[C", "OC"),
    "left": ("[D", "OD"),
    "back tab": ("[Z",),
    "page up": ("[5~",),
    "page down": ("[6~",),
    "home": ("[H", "OH", "[1~", "[7~"),
    "end": ("[F", "OF", "[4~", "[8~"),
}
_NAMES: Final = {f"\x1b{rest}": name for name, many in _SEQUENCES.items() for rest in many}
_CONTROLS: Final = {"\t": "tab", "\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace"}


class Keys:
    """Bytes of a terminal as keys: characters, and names such as `up`. What it does not know is no key."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """The keys that are complete."""
        text = self._rest + self._decoder.decode(data)
        self._rest = ""
        while text:
            if found := _SEQUENCE.match(text):
                text = text[found.end() :]
                if name := _NAMES.get(found[0]):
                    yield name
            elif _BEGINNING.match(text):
                self._rest = text
                return
            else:
                one, text = text[0], text[1:]
                if name := _CONTROLS.get(one):
                    yield name
                elif one.isprintable():
                    yield one

    @property
    def is_waiting(self) -> bool:
        """Whether the beginning of a key has come."""
        return bool(self._rest)

    def rest(self) -> Iterator[str]:
        """No more has come for a moment: an ESC was the key of that name."""
        rest, self._rest = self._rest, ""
        if rest == "\x1b":
            yield "escape"


class Painter:
    """What is on the screen, and the bytes that make it another frame."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._before: list[str] = []
        self._size = 0, 0

    def forget(self) -> None:
        """Nobody knows what is on the screen: the next frame is drawn as a whole."""
        self._before = []

    def bytes_for(self, lines: Sequence[Text], size: tuple[int, int]) -> str:
        """`size`: columns and lines of the terminal. "": nothing has changed."""
        out: list[str] = []
        if size != self._size or not self._before:
            self._size, self._before = size, []
            out.append("\x1b[0m\x1b[2J")
        shown = [self._styled(line) for line in lines[: size[1]]]
        for n, text in enumerate(shown):
            if n >= len(self._before) or self._before[n] != text:
                # Behind a full line, erasing the rest would erase its last character.
                end = "\x1b[K" if lines[n].cell_len < size[0] else ""
                out.append(f"\x1b[{n + 1};1H{text}{end}")
        self._before = shown
        return f"{_BEGIN}{''.join(out)}{_END}" if out else ""

    def _styled(self, line: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        return capture.get()


def painter() -> Painter:
    """For standard output, in the colours that it has."""
    colours = Console(highlight=False, markup=False, emoji=False)
    return Painter(
        Console(
            file=StringIO(),
            force_terminal=True,
            color_system=colours.color_system,  # type: ignore[arg-type]  # one of its own words
            no_color=colours.no_color,
            width=10_000,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )
    )


class Screen:
    """Standard input and output of a terminal while it is used as a screen. `on_key` hears each key, `on_resize` that
    the frame has to be drawn again, `on_end` that the terminal is gone or the process is to end."""

    def __init__(
        self, on_key: Callable[[str], None], on_resize: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self._on_key = on_key
        self._on_resize = on_resize
        self._on_end = on_end
        self._keys = Keys()
        self._painter = painter()
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._mode: list[Any] | None = None
        self._alone: asyncio.TimerHandle | None = None

    @staticmethod
    def is_there() -> bool:
        """Whether standard input and output are a terminal that can be used like this."""
        return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", ""}

    @staticmethod
    def size() -> tuple[int, int]:
        """Columns and lines, as they are now."""
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(sys.stdout.fileno())
            if size.columns and size.lines:
                return size.columns, size.lines
        return shutil.get_terminal_size((80, 24))

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._take()
        loop.add_reader(self._in, self._read)
        loop.add_signal_handler(signal.SIGWINCH, self._on_resize)
        loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        loop.add_signal_handler(signal.SIGCONT, self._resumed)
        for number in _ENDS:
            loop.add_signal_handler(number, self._on_end)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._in)
        for number in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT, *_ENDS):
            loop.remove_signal_handler(number)
        if self._alone is not None:
            self._alone.cancel()
        self._give_back()

    def draw(self, lines: Sequence[Text]) -> None:
        self._write(self._painter.bytes_for(lines, self.size()))

    # ---- the terminal's mode

    def _take(self) -> None:
        self._mode = termios.tcgetattr(self._in)
        tty.setcbreak(self._in)
        self._painter.forget()
        self._write(_ENTER)

    def _give_back(self) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            self._write(_LEAVE)
            with contextlib.suppress(termios.error, OSError):  # it may be gone
                termios.tcsetattr(self._in, termios.TCSADRAIN, mode)

    def _suspend(self) -> None:
        """Ctrl-Z: the shell gets its terminal as it was."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _resumed(self) -> None:
        if self._mode is None:
            self._take()
            self._on_resize()

    # ---- bytes

    def _read(self) -> None:
        try:
            data = os.read(self._in, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_end()
            return
        if self._alone is not None:
            self._alone.cancel()
            self._alone = None
        for key in self._keys.feed(data):
            self._on_key(key)
        if self._keys.is_waiting:
            self._alone = asyncio.get_running_loop().call_later(_ALONE_S, self._nothing_follows)

    def _nothing_follows(self) -> None:
        self._alone = None
        for key in self._keys.rest():
            self._on_key(key)

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        while data:
            try:
                data = data[os.write(self._out, data) :]
            except BlockingIOError:
                continue
            except OSError:
                self._on_end()
                return
