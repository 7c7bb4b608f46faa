"""Which headers cross the proxy. Everything not named here passes, in order and with duplicates.

Hop-by-hop: RFC 9110 §7.6.1. Credentials, organisation and project belong to the pool's key and are replaced or
dropped. `Set-Cookie` is Cloudflare's for api.openai.com (openai-upstream facts §2). The rate headers of one key say
nothing about the pool, and an organisation's name is the operators' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

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
_NOT_UPWARD: Final = HOP_BY_HOP | {
    "host",
    "authorization",
    "api-key",
    "cookie",
    "content-length",  # set anew from the body that is sent
    "expect",  # answered by the proxy, before it chooses a key
    "accept-encoding",  # set anew: see `upward`
    "openai-organization",
    "openai-project",
    "sec-websocket-extensions",  # the handshake goes with `Upgrade`; the protocols can hold the client's key
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
}
_NOT_DOWNWARD: Final = HOP_BY_HOP | {"set-cookie", "openai-organization", "openai-project", "content-length"}
_READ_HERE: Final = frozenset({"gzip", "x-gzip", "deflate", "identity"})  # the encodings that `encoding.py` undoes
_OURS: Final = "x-quotapool-"
_RATE: Final = "x-ratelimit-"
_NAMES: Final = 256  # header names whose fate is remembered: they come again with each request

Header = tuple[str, str]


@lru_cache(_NAMES)
def _goes_up(name: str) -> bool:
    low = name.lower()
    return low not in _NOT_UPWARD and not low.startswith(_OURS)


@lru_cache(_NAMES)
def _goes_down(name: str) -> bool:
    low = name.lower()
    return low not in _NOT_DOWNWARD and not low.startswith((_OURS, _RATE))


def _end_to_end(headers: Mapping[str, str], items: list[Header]) -> list[Header]:
    """`items` without what the sender's `Connection` lines name. `headers` tells whether there is any such line."""
    if "Connection" not in headers:
        return items
    named = {part.strip().lower() for name, v in items if name.lower() == "connection" for part in v.split(",")}
    return [(name, value) for name, value in items if name.lower() not in named]


def upward(
    headers: Mapping[str, str],
    items: Iterable[Header],
    *,
    authorization: str,
    name: str = "Authorization",
    readable: bool = True,
) -> list[Header]:
    """The request's headers for upstream, with the pool key's credentials in the header `name`.

    `readable`: the answer must be read here (its usage, the ids of what it made), so it is asked for uncompressed.
    Else the client's Accept-Encoding holds, but for encodings that are not undone here: errors must always be readable,
    since they may repeat the key.
    """
    items = list(items)
    sent = [pair for pair in _end_to_end(headers, items) if _goes_up(pair[0])]
    if readable:
        sent.append(("Accept-Encoding", "identity"))
    elif "Accept-Encoding" in headers:
        sent.append(("Accept-Encoding", _undone_here(items)))
    sent.append((name, authorization))
    return sent


def _undone_here(items: Iterable[Header]) -> str:
    """The client's encodings as it wrote them, without those that we could not undo."""
    asked = [part.strip() for name, value in items if name.lower() == "accept-encoding" for part in value.split(",")]
    return ", ".join(part for part in asked if part.partition(";")[0].strip().lower() in _READ_HERE) or "identity"


def downward(headers: Mapping[str, str], items: Iterable[Header], *, secret: str) -> list[Header]:
    """The answer's headers for the client, none of which may repeat the key's `secret`.

    The length is added by whoever sends the body.
    """
    items = _end_to_end(headers, list(items))
    return [(name, value) for name, value in items if _goes_down(name) and secret not in value]
