"""Client keys that are good from certain addresses only: where a caller is, behind load balancers and without."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from quotapool.openai.head import Head
from quotapool.openai.refusal import Refusal
from quotapool.request.addresses import AllowedAddresses


@dataclass
class Caller:
    address: str
    headers: Head


def may(address: str, forwarded: list[str], *, allowed: list[str], trusted: list[str]) -> str:
    """ "": it may; else the error's code."""
    addresses = AllowedAddresses()
    addresses.configure({"app": allowed}, trusted)
    headers = Head([(b"X-Forwarded-For", line.encode()) for line in forwarded])
    try:
        addresses.check("app", Caller(address, headers))
    except Refusal as refusal:
        return refusal.error.code
    return ""


@pytest.mark.parametrize(
    ("address", "forwarded", "expected"),
    [
        ("10.1.2.3", [], True),
        ("192.0.2.7", [], True),
        ("192.0.2.8", [], False),
        ("::ffff:10.1.2.3", [], True),  # as a socket for both kinds shows it
        ("2001:db8::5", [], True),
        ("2001:db9::5", [], False),
        ("", [], False),  # a Unix socket
        # Who is no trusted load balancer may say what it likes.
        ("192.0.2.8", ["10.1.2.3"], False),
        ("10.1.2.3", ["192.0.2.8"], True),
        # A trusted one adds whom it saw; what the caller wrote itself comes before that.
        ("172.16.0.1", ["10.1.2.3"], True),
        ("172.16.0.1", ["192.0.2.8"], False),
        ("172.16.0.1", ["10.1.2.3, 192.0.2.8"], False),
        ("172.16.0.1", ["192.0.2.8, 10.1.2.3"], True),
        ("172.16.0.1", ["192.0.2.8", "10.1.2.3, 172.16.0.2"], True),
        ("172.16.0.1", ["::ffff:10.1.2.3"], True),
        # What cannot be read is nobody's address.
        ("172.16.0.1", ["unknown"], False),
        ("172.16.0.1", ["10.1.2.3:4711"], False),
        ("172.16.0.1", [], False),
        ("172.16.0.1", ["172.16.0.9"], False),
    ],
)
def test_where_a_caller_is(address, forwarded, expected):
    allowed, trusted = ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"], ["172.16.0.0/12"]
    assert may(address, forwarded, allowed=allowed, trusted=trusted) == ("" if expected else "client_ip_not_allowed")


def test_other_clients_may_call_from_anywhere():
    addresses = AllowedAddresses()
    addresses.configure({"app": ["10.0.0.0/8"], "free": []}, [])
    addresses.check("free", Caller("192.0.2.8", Head([])))
    addresses.check("", Caller("", Head([])))
