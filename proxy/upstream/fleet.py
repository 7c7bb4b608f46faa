"""The upstreams of one configuration: the pool's own, and those that some keys have to themselves."""

from __future__ import annotations

import ssl
from collections.abc import Iterable

from proxy.upstream.http import Timeouts, Upstream
from proxy.upstream.lean import LeanUpstream


class Fleet:
    """One keep-alive connection pool for each distinct address, made once, closed together."""

    def __init__(
        self, base: str, others: Iterable[str], timeouts: Timeouts, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.main = LeanUpstream(base, timeouts, tls=tls)
        self.others: dict[str, Upstream] = {
            other: self.main if other == base else LeanUpstream(other, timeouts, tls=tls) for other in others
        }

    def __repr__(self) -> str:
        return f"<Fleet {self.main!r} {len(self.others)} others>"

    async def close(self) -> None:
        """End every connection."""
        for upstream in {self.main, *self.others.values()}:
            await upstream.close()
