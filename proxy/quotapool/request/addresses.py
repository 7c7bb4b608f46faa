"""Where a client calls from, and whether it may: some keys are good from certain addresses only."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Protocol

from quotapool.openai import replies
from quotapool.openai.head import Head
from quotapool.openai.refusal import Refusal

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Caller(Protocol):
    """Whoever asks for something. `address`: the other end of its connection; "": a Unix socket."""

    headers: Head

    @property
    def address(self) -> str: ...


class AllowedAddresses:
    """By client. Behind load balancers the connection is theirs: what they say of the caller counts, if they are
    trusted, and the caller's own words never do."""

    def __init__(self) -> None:
        self._allowed: Mapping[str, tuple[Network, ...]] = {}
        self._trusted: tuple[Network, ...] = ()

    def __repr__(self) -> str:
        return f"<AllowedAddresses of {len(self._allowed)} clients>"

    def configure(self, allowed: Mapping[str, Iterable[str]], trusted: Iterable[str]) -> None:
        """`allowed`: networks by client, which may call from anywhere without; `trusted`: those of load balancers."""
        self._allowed = {name: _networks(networks) for name, networks in allowed.items() if networks}
        self._trusted = _networks(trusted)

    def check(self, client: str, caller: Caller) -> None:
        """Raises Refusal (403)."""
        networks = self._allowed.get(client)
        if networks is None:
            return
        address = self._address_of(caller)
        if address is None or not _is_in(address, networks):
            raise Refusal(replies.CLIENT_IP_NOT_ALLOWED)

    def _address_of(self, caller: Caller) -> _Address | None:
        """The last address that no trusted load balancer has; None: it is not known."""
        hops = [*",".join(caller.headers.getall("x-forwarded-for")).split(","), caller.address]
        for hop in reversed(hops):
            try:
                address = _plain(ipaddress.ip_address(hop.strip()))
            except ValueError:
                return None
            if not _is_in(address, self._trusted):
                return address
        return None


def _networks(texts: Iterable[str]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def _plain(address: _Address) -> _Address:
    """An IPv4 address that is written as an IPv6 one, as sockets of both kinds do."""
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def _is_in(address: _Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
