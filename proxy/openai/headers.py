"""Which headers cross the proxy. Everything not named here passes, in order and in the sender's spelling.

Hop-by-hop: RFC 9110 §7.6.1. Credentials, organisation and project belong to the pool's key and are replaced or
dropped. `Set-Cookie` is Cloudflare's for api.openai.com (openai-upstream facts §2). The rate headers of one key say
nothing about the pool, and an organisation's name is the operators' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    "openai-organization",
    "openai-project",
}
_NOT_DOWNWARD: Final = HOP_BY_HOP | {"set-cookie", "openai-organization", "openai-project", "content-length"}
_OURS: Final = "x-quotapool-"
_RATE: Final = "x-ratelimit-"

Header = tuple[str, str]


def _named_by_connection(headers: Mapping[str, str]) -> frozenset[str]:
    value = headers.get("Connection")
    if not value or value.lower() in {"keep-alive", "close"}:
        return frozenset()
    return frozenset(name.strip().lower() for name in value.split(","))


def upward(headers: Mapping[str, str], items: Iterable[Header], *, authorization: str, readable: bool) -> list[Header]:
    """The request's headers for upstream, with the pool key's credentials.

    `readable`: the answer's usage must be read, so it is asked for uncompressed.
    """
    dropped = _NOT_UPWARD | _named_by_connection(headers)
    sent = [
        (name, value)
        for name, value in items
        if (low := name.lower()) not in dropped
        and not low.startswith(_OURS)
        and not (readable and low == "accept-encoding")
    ]
    if readable:
        sent.append(("Accept-Encoding", "identity"))
    sent.append(("Authorization", authorization))
    return sent


def downward(headers: Mapping[str, str], items: Iterable[Header]) -> list[Header]:
    """The answer's headers for the client. The length is added by whoever sends the body."""
    dropped = _NOT_DOWNWARD | _named_by_connection(headers)
    return [
        (name, value)
        for name, value in items
        if (low := name.lower()) not in dropped and not low.startswith((_OURS, _RATE))
    ]
