"""The upstream origins of one configuration: the pool's own, and those that some keys have for themselves."""

from __future__ import annotations

from collections.abc import Iterable

from quotapool.settings import Settings
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.credentials import Credentials
from quotapool.upstream.interface import Timeouts, Upstream
from quotapool.upstream.tls_sessions import client_context


class Origins:
    """One client for each distinct address, made once, closed together."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        timeouts: Timeouts,
        *,
        most: int | None = None,
        also: Iterable[str] = (),
    ) -> None:
        """`most`: connections to each, None: no limit. `also`: addresses that no key has yet."""
        tls = client_context(settings.ca_file)
        own = credentials.bases.union(also)
        addresses = {settings.upstream, *own}
        clients = {
            address: UpstreamClient(address, timeouts, tls=tls, proxy=settings.proxy_for(address), most=most)
            for address in addresses
        }
        self.main = clients[settings.upstream]
        self.others: dict[str, Upstream] = {address: clients[address] for address in own}

    async def close(self) -> None:
        """End every connection."""
        for upstream in {self.main, *self.others.values()}:
            await upstream.close()
