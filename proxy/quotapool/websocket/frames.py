"""WebSocket frames (RFC 6455), both directions: bytes to messages, messages to bytes. No extensions, no I/O.

A message that came in fragments is put together before it is passed on (§5.4 allows that to intermediaries). Its bytes
are not looked at, so text is not checked for being UTF-8.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from quotapool.websocket.mask import mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

# §7.4.1 and the IANA registry: what a close frame may hold. 1005, 1006 and 1015 it never may.
NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
NO_CODE: Final = 1005
VANISHED: Final = 1006
TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
POLICY_VIOLATION: Final = 1008
SERVICE_RESTART: Final = 1012

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_LONGEST_CONTROL: Final = 125
_KNOWN: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1015)})


class FrameError(Exception):
    """The sender broke the protocol, or sent more than is taken. `code` is for the close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Message(NamedTuple):
    """A whole message. Its payload may be changed in place by sending it on."""

    opcode: int
    payload: bytearray


class FrameReader:
    """Gathers messages from bytes as they come. `masked`: the sender is a client, and has to mask."""

    __slots__ = ("_frame", "_head", "_key", "_masked", "_message", "_missing", "_most", "_opcode", "_started")

    def __init__(self, *, masked: bool, most: int) -> None:
        self._masked = masked
        self._most = most
        self._head = bytearray()
        self._frame: bytearray | None = None  # the payload of the frame under way
        self._missing = 0  # bytes of it
        self._key = b""
        self._opcode = 0  # of the frame under way, with FIN
        self._message: bytearray | None = None  # of a fragmented message, what has come
        self._started = 0  # and its opcode

    @property
    def missing(self) -> int:
        """Bytes that the frame under way still has to get."""
        return self._missing

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """The messages that these bytes complete, control frames among them. After a FrameError it takes no more."""
        found: list[Message] = []
        at, end = 0, len(data)
        while True:
            if self._frame is None:
                at = self._read_head(data, at)
                if self._frame is None:
                    return found
            take = min(self._missing, end - at)
            self._frame += data if take == end else memoryview(data)[at : at + take]
            at += take
            self._missing -= take
            if self._missing:
                return found
            message = self._complete(self._frame)
            self._frame = None
            if message is not None:
                found.append(message)

    def _read_head(self, data: bytes | memoryview, at: int) -> int:
        """Take a frame's head from `data`; once it is whole, `_frame` is begun. Returns where the payload begins."""
        head = self._head
        while len(head) < (wanted := _head_size(head)):
            piece = data[at : at + wanted - len(head)]
            if not piece:
                return at
            head += piece
            at += len(piece)
        first, second = head[0], head[1]
        opcode, length = first & 0x0F, second & 0x7F
        if first & _RESERVED or opcode not in _KNOWN:
            raise FrameError(PROTOCOL_ERROR, "a frame of an extension that was not agreed on")
        if bool(second & _MASKED) is not self._masked:
            raise FrameError(PROTOCOL_ERROR, "a client's frames are masked, a server's are not")
        if opcode >= CLOSE and (length > _LONGEST_CONTROL or not first & _FIN):
            raise FrameError(PROTOCOL_ERROR, "a control frame is short and whole")
        if length > _LONGEST_CONTROL:
            length = int.from_bytes(head[2 : 4 if length == 126 else 10], "big")
        if opcode < CLOSE:
            if (opcode == CONTINUATION) is (self._message is None):
                raise FrameError(PROTOCOL_ERROR, "a continuation of nothing, or none when one is due")
            if length + len(self._message or b"") > self._most:
                raise FrameError(TOO_BIG, f"a message of more than {self._most} bytes")
        self._opcode, self._missing = first & (_FIN | 0x0F), length
        self._key = bytes(head[-4:]) if self._masked else b""
        self._frame = bytearray()
        head.clear()
        return at

    def _complete(self, payload: bytearray) -> Message | None:
        """The message that this frame ends, if it does."""
        if self._key:
            mask(self._key, payload)
        opcode = self._opcode & 0x0F
        if opcode >= CLOSE:
            if opcode == CLOSE:
                _check_close(payload)
            return Message(opcode, payload)
        if self._message is not None:
            self._message += payload
            if not self._opcode & _FIN:
                return None
            whole, self._message = self._message, None
            return Message(self._started, whole)
        if self._opcode & _FIN:
            return Message(opcode, payload)
        self._started, self._message = opcode, payload
        return None


def _head_size(head: bytearray) -> int:
    if len(head) < 2:
        return 2
    length = head[1] & 0x7F
    return 2 + (8 if length == 127 else 2 if length == 126 else 0) + (4 if head[1] & _MASKED else 0)


def _check_close(payload: bytearray) -> None:
    if not payload:
        return
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _CODES or 3000 <= code < 5000):
        raise FrameError(PROTOCOL_ERROR, "a close frame without a code that may be sent")


def head_of(opcode: int, payload: bytearray, *, masks: bool) -> bytes:
    """The head of a frame that holds the whole message. `masks`: we are the client; the payload is masked in place."""
    length = len(payload)
    flag = _MASKED if masks else 0
    if length <= _LONGEST_CONTROL:
        head = bytes((_FIN | opcode, flag | length))
    elif length < 2**16:
        head = bytes((_FIN | opcode, flag | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, flag | 127)) + length.to_bytes(8, "big")
    if not masks:
        return head
    key = os.urandom(4)  # §5.3: unpredictable
    mask(key, payload)
    return head + key


def close_payload(code: int, reason: str = "") -> bytearray:
    """A close frame's payload; NO_CODE and VANISHED cannot be sent and give an empty one."""
    if code in {NO_CODE, VANISHED}:
        return bytearray()
    return bytearray(code.to_bytes(2, "big") + reason.encode()[: _LONGEST_CONTROL - 2])


def close_code(payload: bytes | bytearray) -> int:
    """The code in a close frame's payload; NO_CODE if it has none."""
    return int.from_bytes(payload[:2], "big") if len(payload) >= 2 else NO_CODE
