"""The upstream origins of one configuration: the pool's own, and those that some keys have for themselves."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable

from quotapool.settings import Settings
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.credentials import Credentials
from quotapool.upstream.interface import Timeouts, Upstream
from quotapool.upstream.tls_sessions import client_context


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


def origins_of(settings: Settings, credentials: Credentials, timeouts: Timeouts, *, most: int | None = None) -> Origins:
    """The configured upstreams. `most`: as for Origins."""
    tls = client_context(settings.ca_file)
    return Origins(settings.upstream, credentials.bases, timeouts, tls=tls, proxy_for=settings.proxy_for, most=most)
