"""A store URL is parsed, or refused without showing its content."""

from __future__ import annotations

import pytest
from quotapool.store.address import Address, Kind, Login, Tls, parse

UNDERSTOOD = {
    "redis://cache": Address(Kind.SINGLE, (("cache", 6379),)),
    "redis://cache:6380/3": Address(Kind.SINGLE, (("cache", 6380),), db=3),
    "redis://cache/?db=3": Address(Kind.SINGLE, (("cache", 6379),), db=3),
    "redis://[::1]:7000": Address(Kind.SINGLE, (("::1", 7000),)),
    "redis://[::1]": Address(Kind.SINGLE, (("::1", 6379),)),
    "redis://:secret@cache": Address(Kind.SINGLE, (("cache", 6379),), login=Login(None, "secret")),
    "redis://me:p%40ss%2Fword@cache?client_name=pool": Address(
        Kind.SINGLE, (("cache", 6379),), login=Login("me", "p@ss/word"), client_name="pool"
    ),
    "valkey://cache:6380/3": Address(Kind.SINGLE, (("cache", 6380),), db=3),
    "valkeys://cache": Address(Kind.SINGLE, (("cache", 6379),), tls=Tls()),
    "valkey+cluster://a:1": Address(Kind.CLUSTER, (("a", 1),)),
    "valkeys+sentinel://a/main": Address(Kind.SENTINEL, (("a", 26379),), master="main", tls=Tls()),
    "REDIS://cache": Address(Kind.SINGLE, (("cache", 6379),)),
    "redis://:a[b]c@cache": Address(Kind.SINGLE, (("cache", 6379),), login=Login(None, "a[b]c")),
    "rediss://cache": Address(Kind.SINGLE, (("cache", 6379),), tls=Tls()),
    "rediss://cache?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem": Address(
        Kind.SINGLE, (("cache", 6379),), tls=Tls("/ca.pem", "/c.pem", "/k.pem")
    ),
    "rediss://cache?ssl_cert_reqs=none": Address(Kind.SINGLE, (("cache", 6379),), tls=Tls(verify=False)),
    "rediss://cache?ssl_check_hostname=no": Address(Kind.SINGLE, (("cache", 6379),), tls=Tls(check_hostname=False)),
    "unix:///run/redis.sock": Address(Kind.UNIX, path="/run/redis.sock"),
    "unix://me:secret@/run/my%20redis.sock?db=2": Address(
        Kind.UNIX, path="/run/my redis.sock", db=2, login=Login("me", "secret")
    ),
    "redis+sentinel://a,b:26380,[::1]:9/main": Address(
        Kind.SENTINEL, (("a", 26379), ("b", 26380), ("::1", 9)), master="main"
    ),
    "redis+sentinel://:secret@a/main/4?sentinel_password=other": Address(
        Kind.SENTINEL,
        (("a", 26379),),
        master="main",
        db=4,
        login=Login(None, "secret"),
        sentinel_login=Login(None, "other"),
    ),
    "rediss+sentinel://a/main": Address(Kind.SENTINEL, (("a", 26379),), master="main", tls=Tls()),
    "redis+cluster://a,b:7001": Address(Kind.CLUSTER, (("a", 6379), ("b", 7001))),
    "rediss+cluster://me:secret@a:7000/0": Address(
        Kind.CLUSTER, (("a", 7000),), login=Login("me", "secret"), tls=Tls()
    ),
}

REFUSED = {
    "cache:6379": "scheme",
    "http://cache": "scheme",
    "redis://": "host name",
    "redis://cache:x": "port is not a number",
    "redis://cache:70000": "out of range",
    "redis://cache/one": "database is not a number",
    "redis://cache/1/2": "more than a database",
    "redis://cache/1?db=2": "twice",
    "redis://a,b": "redis\\+sentinel://",
    "redis://[::1": "brackets",
    "redis://[cache]": "brackets",
    "redis://[::1]7000": "brackets",
    "redis+sentinel://a,[::1/main": "brackets",
    "redis://::1": "host name is missing",
    "": "scheme",
    "redis://cache?retry_on_timeout=yes": "unknown option",
    "redis://cache?ssl_cert_reqs=none": "rediss://",
    "rediss://cache?ssl_cert_reqs=maybe": "'required' or 'none'",
    "redis://cache?sentinel_password=x": "redis\\+sentinel://",
    "unix://run/redis.sock": "absolute",
    "unix://": "absolute",
    "redis+sentinel://a,b": "master's name",
    "redis+cluster://a/1": "only database 0",
}


@pytest.mark.parametrize(("url", "address"), UNDERSTOOD.items(), ids=list(UNDERSTOOD))
def test_it_is_parsed(url, address):
    assert parse(url) == address


@pytest.mark.parametrize(("url", "complaint"), REFUSED.items(), ids=list(REFUSED))
def test_it_is_refused_and_the_error_says_why(url, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2/x@cache",
        "redis://:hunter2#x@cache",
        "redis://:hunter2?x@cache",
        "redis://me:x@hunter2/y@cache",
        "redis://:hunter2",
        "rediss://:hunter2@cache:x",
        "redis://cache?password=hunter2",
        "redis+sentinel://:hunter2@a",
    ],
)
def test_a_refusal_never_shows_the_password(url):
    with pytest.raises(ValueError, match="redis URL") as refusal:
        parse(url)
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:hunter2@cache", "redis://cache:6379/0"),
        ("rediss://me:hunter2@cache/2?ssl_cert_reqs=none", "rediss://cache:6379/2 (certificate not verified)"),
        ("unix://me:hunter2@/run/r.sock", "unix:///run/r.sock"),
        ("redis+sentinel://:hunter2@a,[::1]/main?sentinel_password=hunter2",
         "redis+sentinel://a:26379,[::1]:26379/main/0"),
        ("redis+cluster://:hunter2@a,b", "redis+cluster://a:6379,b:6379"),
    ],
)  # fmt: skip
def test_the_description_has_no_credentials(url, shown):
    address = parse(url)
    assert address.describe() == shown
    assert "hunter2" not in repr(address)


def test_the_configured_authority_is_used_unless_the_url_names_another():
    assert parse("rediss://a", ca_file="/our.pem").tls == Tls("/our.pem")
    assert parse("rediss://a?ssl_ca_certs=/its.pem", ca_file="/our.pem").tls == Tls("/its.pem")
