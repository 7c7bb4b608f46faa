"""Which headers the proxy forwards. Everything not named here is forwarded, in order and with duplicates.

Hop-by-hop: RFC 9110 §7.6.1. Credentials, organisation and project belong to the pool's key and are replaced or dropped.
`Set-Cookie` is Cloudflare's for api.openai.com. The rate headers of one key say nothing about the pool, and an
organisation's name is not for clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from multidict import MultiMapping

from quotapool.domain.echoes import shows
from quotapool.domain.redact import mask

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_FOR_UPSTREAM: Final = HOP_BY_HOP | {
    "host",
    "authorization",
    "api-key",
    "cookie",
    "content-length",  # set from the body that is sent
    "expect",  # answered by the proxy, before it chooses a key
    "accept-encoding",  # set in `headers_for_upstream`
    "openai-organization",
    "openai-project",
    "sec-websocket-extensions",  # the handshake is hop-by-hop like `Upgrade`; the protocols can hold the client's key
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
}
_NOT_FOR_CLIENT: Final = HOP_BY_HOP | {"set-cookie", "openai-organization", "openai-project", "content-length"}
_READ_HERE: Final = frozenset({"gzip", "x-gzip", "deflate", "identity"})  # the encodings that `encoding.py` decodes
_OURS: Final = "x-quotapool-"
_RATE: Final = "x-ratelimit-"
_USUAL: Final = frozenset({"keep-alive", "Keep-Alive"})  # `Connection` lines that only name what is never forwarded
_NAMES: Final = 256  # header names for which the decision is remembered: the same ones come with each request
_CONTROL: Final = bytes({*range(0x20), 0x7F} - {0x09})  # RFC 9110 §5.5: what a header's value must not contain

Header = tuple[str, str]


@lru_cache(_NAMES)
def _is_for_upstream(name: str) -> bool:
    low = name.lower()
    return low not in _NOT_FOR_UPSTREAM and not low.startswith(_OURS)


@lru_cache(_NAMES)
def _is_for_client(name: str) -> bool:
    """Not those that concern this side only, nor one whose very name looks like a secret."""
    low = name.lower()
    return low not in _NOT_FOR_CLIENT and not low.startswith((_OURS, _RATE)) and mask(name) == name


def _end_to_end(headers: MultiMapping[str], sent: list[Header]) -> list[Header]:
    """`sent` without what the `Connection` lines of `headers` name."""
    named: set[str] = set()
    for line in headers.getall("Connection", ()):
        if line not in _USUAL:
            named.update([part.strip().lower() for part in line.split(",")])
    return [(name, value) for name, value in sent if name.lower() not in named] if named else sent


def headers_for_upstream(
    headers: MultiMapping[str],
    items: Iterable[Header],
    *,
    authorization: str,
    name: str = "Authorization",
    readable: bool = True,
) -> list[Header]:
    """The request's headers for upstream, with the pool key's credentials in the header `name`.

    `readable`: the answer must be read here (its usage, the ids of created objects), so it is asked for uncompressed.
    Otherwise the client's Accept-Encoding is kept, except for encodings that are not decoded here: errors must always
    be readable, since they may repeat the key.
    """
    sent = _end_to_end(headers, [pair for pair in items if _is_for_upstream(pair[0])])
    if readable:
        sent.append(("Accept-Encoding", "identity"))
    elif "Accept-Encoding" in headers:
        sent.append(("Accept-Encoding", _decodable(headers.getall("Accept-Encoding"))))
    sent.append((name, authorization))
    return sent


def _decodable(lines: Iterable[str]) -> str:
    """The client's encodings as it wrote them, without those that we cannot decode."""
    parts = [part.strip() for line in lines for part in line.split(",")]
    return ", ".join(part for part in parts if part.partition(";")[0].strip().lower() in _READ_HERE) or "identity"


def headers_for_client(headers: MultiMapping[str], items: Iterable[Header], *, secret: str) -> list[Header]:
    """The answer's headers for the client, none of which may repeat the key's `secret`, percent-encoded or not.

    The length is added when the body is sent.
    """
    sent = [
        pair
        for pair in items
        if _is_for_client(pair[0]) and secret not in pair[1] and ("%" not in pair[1] or not shows(pair[1], secret))
    ]
    return _end_to_end(headers, sent)


def is_one_line(text: str) -> bool:
    """Whether a reason phrase may be sent on: its rules are those of a header's value."""
    line = text.encode("utf-8", "surrogateescape")
    return line.translate(None, _CONTROL) == line


def encode_headers(headers: Sequence[Header]) -> bytes:
    """`headers` as the lines of a message head. Raises ValueError if one of them would not be exactly one line."""
    lines = "\r\n".join([*map(": ".join, headers), ""]).encode("utf-8", "surrogateescape")
    if len(lines) - len(lines.translate(None, _CONTROL)) != 2 * len(headers):
        raise ValueError("a header to be sent is not one line")
    return lines


def decode_headers(fields: Sequence[tuple[bytes, bytes]]) -> list[Header]:
    """Names and values from a parser, which trims values only on the left. `encode_headers` restores unusual bytes."""
    try:
        return [(name.decode(), value.decode().rstrip(" \t")) for name, value in fields]
    except UnicodeDecodeError:
        return [(name.decode(), value.decode("utf-8", "surrogateescape").rstrip(" \t")) for name, value in fields]
