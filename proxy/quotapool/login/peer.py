"""Who is at the other end of a request, and what a trusted proxy before this port says about it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST: Final = 2048  # of X-Forwarded-For: what is longer says nothing


@dataclass(frozen=True, slots=True)
class Peer:
    """`address`: the caller's; `is_https`: whether its browser speaks https."""

    address: str
    is_https: bool


def peer_of(
    connected: str, forwarded_for: Sequence[str], forwarded_proto: Sequence[str], trusted: Iterable[str]
) -> Peer:
    """`connected`: the address of the connection; the lines of X-Forwarded-For and X-Forwarded-Proto count only if it
    is one of the networks `trusted`, and of them what the last trusted proxy added: the caller wrote the rest."""
    networks = tuple(ipaddress.ip_network(text) for text in trusted)
    if not is_in(connected, networks):
        return Peer(connected, is_https=False)
    proto = ",".join(forwarded_proto).rpartition(",")[2].strip().lower()
    return Peer(_caller(connected, ",".join(forwarded_for), networks), is_https=proto == "https")


def _caller(connected: str, forwarded_for: str, trusted: tuple[Network, ...]) -> str:
    """The last address that no trusted proxy has."""
    if not forwarded_for.strip() or len(forwarded_for) > _LONGEST:
        return connected
    last = connected
    for hop in reversed(forwarded_for.split(",")):
        found = _parsed(hop.strip())
        if found is None:
            return last
        last = str(found)
        if not any(found in network for network in trusted):
            return last
    return last


def is_in(address: str, networks: Iterable[Network]) -> bool:
    """Whether the address is in one of them; False for what is no address."""
    found = _parsed(address)
    return found is not None and any(found in network for network in networks)


def _parsed(text: str) -> Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found
