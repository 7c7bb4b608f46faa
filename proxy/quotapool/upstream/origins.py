"""The upstream origins of one configuration: the pool's own, and those that some keys have for themselves."""

from __future__ import annotations

from quotapool.settings import Settings
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.credentials import Credentials
from quotapool.upstream.interface import Timeouts, Upstream
from quotapool.upstream.tls_sessions import client_context


class Origins:
    """One client for each distinct address, made once, closed together."""

    def __init__(
        self, settings: Settings, credentials: Credentials, timeouts: Timeouts, *, most: int | None = None
    ) -> None:
        """`most`: connections to each, None: no limit."""
        tls = client_context(settings.ca_file)
        addresses = {settings.upstream, *credentials.bases}
        clients = {
            address: UpstreamClient(address, timeouts, tls=tls, proxy=settings.proxy_for(address), most=most)
            for address in addresses
        }
        self.main = clients[settings.upstream]
        self.others: dict[str, Upstream] = {address: clients[address] for address in credentials.bases}

    async def close(self) -> None:
        """End every connection."""
        for upstream in {self.main, *self.others.values()}:
            await upstream.close()
