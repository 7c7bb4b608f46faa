"""The upstream origins of one configuration: the pool's own, and those that some keys have for themselves."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable

from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts, Upstream


class Origins:
    """One client for each distinct address, made once, closed together."""

    def __init__(
        self,
        base: str,
        others: Iterable[str],
        timeouts: Timeouts,
        *,
        tls: ssl.SSLContext | None = None,
        proxy_for: Callable[[str], str | None] = lambda _: None,
        most: int | None = None,
    ) -> None:
        """`proxy_for`: the forward proxy on the way to an address. `most`: connections to each, None: no limit."""

        def upstream(address: str) -> UpstreamClient:
            return UpstreamClient(address, timeouts, tls=tls, proxy=proxy_for(address), most=most)

        self.main = upstream(base)
        self.others: dict[str, Upstream] = {other: self.main if other == base else upstream(other) for other in others}

    def __repr__(self) -> str:
        return f"<Origins {self.main!r} {len(self.others)} others>"

    async def close(self) -> None:
        """End every connection."""
        for upstream in {self.main, *self.others.values()}:
            await upstream.close()
