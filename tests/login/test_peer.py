"""Where a call comes from, by the connection and by those who may say so."""

from __future__ import annotations

import pytest
from quotapool.login.peer import Peer, peer_of

PROXIES = ("10.0.0.0/8", "::1/128")


@pytest.mark.parametrize(
    ("connected", "forwarded", "proto", "address", "is_https"),
    [
        ("192.0.2.1", [], [], "192.0.2.1", False),
        ("192.0.2.1", ["198.51.100.1"], ["https"], "192.0.2.1", False),  # not a proxy of ours
        ("10.0.0.1", ["198.51.100.1"], ["https"], "198.51.100.1", True),
        ("::1", ["198.51.100.1"], ["http"], "198.51.100.1", False),
        ("::ffff:10.0.0.1", ["198.51.100.1"], ["HTTPS"], "198.51.100.1", True),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.1"], ["http, https"], "198.51.100.1", True),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.1, 10.0.0.2"], ["https, http"], "198.51.100.1", False),
        ("10.0.0.1", ["203.0.113.9, nonsense"], [], "10.0.0.1", False),
        ("10.0.0.1", ["203.0.113.9, , 10.0.0.3"], [], "10.0.0.3", False),
        ("10.0.0.1", [""], [], "10.0.0.1", False),
        ("10.0.0.1", ["1.2.3.4," * 1000], [], "10.0.0.1", False),
        ("", ["198.51.100.1"], ["https"], "", False),
        ("not an address", ["198.51.100.1"], ["https"], "not an address", False),
    ],
)
def test_the_last_word_of_a_trusted_proxy_counts(connected, forwarded, proto, address, is_https):
    assert peer_of(connected, forwarded, proto, PROXIES) == Peer(address, is_https)
