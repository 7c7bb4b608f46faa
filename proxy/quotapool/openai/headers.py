"""Which headers the proxy forwards: what `header_names.py` does not name passes in order and as it came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Final

from quotapool.domain.echoes import shows
from quotapool.openai.head import Head, Header

_READ_HERE: Final = frozenset({"gzip", "x-gzip", "deflate", "identity"})  # the encodings that `encoding.py` decodes
_USUAL: Final = frozenset({"keep-alive", "Keep-Alive"})  # `Connection` lines that only name what is never forwarded
_CONTROL: Final = bytes({*range(0x20), 0x7F} - {0x09})  # RFC 9110 §5.5: what a header's value must not contain
_ACCEPT_IDENTITY: Final = (b"Accept-Encoding", b"identity")


def _end_to_end(head: Head, sent: list[Header]) -> list[Header]:
    """`sent` without what the `Connection` lines of `head` name."""
    if "connection" not in head.first:
        return sent
    named: set[str] = set()
    for line in head.getall("connection"):
        if line not in _USUAL:
            named.update([part.strip().lower() for part in line.split(",")])
    return [(name, value) for name, value in sent if _low(name) not in named] if named else sent


def _low(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape").lower()


def headers_for_upstream(head: Head, credential: Header, *, readable: bool = True) -> list[Header]:
    """The request's headers for upstream, with the pool key's credential.

    `readable`: the answer must be read here (its usage, the ids of created objects), so it is asked for uncompressed.
    Otherwise the client's Accept-Encoding is kept, except for encodings that are not decoded here: errors must always
    be readable, since they may repeat the key.
    """
    sent = _end_to_end(head, list(compress(head.lines, [name.for_upstream for name in head.names])))
    if readable:
        sent.append(_ACCEPT_IDENTITY)
    elif "accept-encoding" in head:
        sent.append((b"Accept-Encoding", _decodable(head.getall("accept-encoding"))))
    sent.append(credential)
    return sent


def passed_on(head: Head, name: str) -> list[str]:
    """The values of a header (its name in lower case) that upstream gets, each byte a character."""
    lines = [line for line, of in zip(head.lines, head.names, strict=True) if of.low == name and of.for_upstream]
    return [value.decode("latin-1") for _, value in _end_to_end(head, lines)]


def _decodable(lines: Iterable[str]) -> bytes:
    """The client's encodings as it wrote them, without those that we cannot decode."""
    parts = [part.strip() for line in lines for part in line.split(",")]
    kept = [part for part in parts if part.partition(";")[0].strip().lower() in _READ_HERE]
    return (", ".join(kept) or "identity").encode("utf-8", "surrogateescape")


def headers_for_client(head: Head, *, secret: str) -> list[Header]:
    """The answer's headers for the client, none of which may repeat the key's `secret`, percent-encoded or not.

    The length is added when the body is sent.
    """
    sent = list(compress(head.lines, [name.for_client for name in head.names]))
    values = b"\n".join([value for _, value in sent])  # no secret has a line end
    if values.find(b"%") >= 0 or values.find(secret.encode("utf-8", "surrogateescape")) >= 0:
        sent = [line for line in sent if not shows(line[1].decode("utf-8", "surrogateescape"), secret)]
    return _end_to_end(head, sent)


def is_one_line(text: str) -> bool:
    """Whether a reason phrase may be sent on: its rules are those of a header's value."""
    line = text.encode("utf-8", "surrogateescape")
    return line.translate(None, _CONTROL) == line


def encode_headers(headers: Sequence[Header]) -> bytes:
    """`headers` as the lines of a message head. Raises ValueError if one of them would not be exactly one line."""
    lines = b"\r\n".join([*map(b": ".join, headers), b""])
    if len(lines) - len(lines.translate(None, _CONTROL)) != 2 * len(headers):
        raise ValueError("a header to be sent is not one line")
    return lines
