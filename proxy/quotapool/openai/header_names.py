"""What is known of a header's name: the same ones come with each request, so it is found out once for each spelling.

Hop-by-hop: RFC 9110 §7.6.1. Credentials, organisation and project belong to the pool's key and are replaced or dropped.
`Set-Cookie` is Cloudflare's for api.openai.com. The rate headers of one key say nothing about the pool, and an
organisation's name is not for clients.
"""

from __future__ import annotations

from typing import Final

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
_OURS: Final = "x-quotapool-"
_RATE: Final = "x-ratelimit-"
_MOST: Final = 1024  # names that are remembered; clients may invent any number
_LONGEST: Final = 64  # bytes of one that is remembered


class HeaderName:
    """One spelling of a name. `low`: in lower case. `for_client`: also not one whose very name looks like a secret."""

    __slots__ = ("for_client", "for_upstream", "low")

    def __init__(self, name: bytes) -> None:
        text = name.decode("utf-8", "surrogateescape")
        low = text.lower()
        self.low: str = low
        self.for_upstream: bool = low not in _NOT_FOR_UPSTREAM and not low.startswith(_OURS)
        self.for_client: bool = low not in _NOT_FOR_CLIENT and not low.startswith((_OURS, _RATE)) and mask(text) == text


KNOWN: Final[dict[bytes, HeaderName]] = {}  # by spelling; what is not in it is asked of `learn`


def learn(name: bytes) -> HeaderName:
    """What is known of a name that is not in `KNOWN`; from now on it is, unless it is very long."""
    learned = HeaderName(name)
    if len(name) <= _LONGEST:
        if len(KNOWN) >= _MOST:
            KNOWN.clear()
        KNOWN[name] = learned
    return learned
