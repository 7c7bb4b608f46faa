"""Our network is one for all keys: when it is refused, nobody is removed, one alarm sounds, and it ends by itself."""

from __future__ import annotations

import pytest

from tests.fakes.edge import Reply, chat_answer, error, fails

PAGE = Reply(403, [("Content-Type", "text/html")], [b"<!DOCTYPE html><title>Attention Required! | Cloudflare</title>"])
COUNTRY = error(403, "unsupported_country_region_territory", "Country, region, or territory not supported", "x")
ADDRESS = error(401, "ip_not_authorized", "Your IP is not authorized to make this request.", "ip_not_authorized")
FOUR = {"a": 1, "b": 1, "c": 1, "d": 1}


async def events(pool, kind: str) -> list[tuple[bytes, bytes]]:
    entries = await pool.store.client.xrange(f"{pool.ledger.prefix}:events")
    return [(entry[b"to"], entry[b"reason"]) for _, entry in entries if entry[b"kind"] == kind.encode()]


@pytest.mark.parametrize(
    ("answer", "reason", "status", "code"),
    [
        pytest.param(PAGE, "http_403", 502, "egress_refused", id="a page"),
        pytest.param(
            Reply(407, pieces=[b"Proxy Authentication Required"]), "http_407", 502, "egress_refused", id="407"
        ),
        pytest.param(Reply(401, pieces=[b"<html>log in</html>"]), "http_401", 502, "egress_refused", id="a login page"),
        pytest.param(
            COUNTRY, "unsupported_country_region_territory", 403, "unsupported_country_region_territory", id="a country"
        ),
        pytest.param(ADDRESS, "ip_not_authorized", 401, "ip_not_authorized", id="an address list"),
    ],
)
async def test_a_network_refused_for_all_keys_alike_removes_nobody_and_sounds_one_alarm(
    open_pool, answer, reason, status, code
):
    pool = await open_pool(FOUR)
    pool.upstream.otherwise = answer
    for _ in range(6):
        client = await pool.ask()
        assert (client.status, client.error["code"]) == (status, code)
    assert await pool.states() == {}
    assert await events(pool, "egress") == [(b"trouble", reason.encode())]
    assert pool.recorder.egress == [(True, reason, False), (True, reason, True)]
    # If the network is well again, I expect the pool to serve and to say so, once.
    pool.upstream.otherwise = chat_answer()
    for _ in range(3):
        assert (await pool.ask()).status == 200
    assert pool.recorder.egress[2:] == [(False, reason, False), (False, reason, True)]
    assert [to for to, _ in await events(pool, "egress")] == [b"trouble", b"well"]


@pytest.mark.parametrize("reason", ["connect", "tls"])
async def test_an_upstream_that_cannot_be_reached_is_such_a_trouble_too(open_pool, reason):
    pool = await open_pool(FOUR)
    pool.upstream.otherwise = fails(reason, sent=False)
    client = await pool.ask()
    assert (client.status, client.error["code"]) == (502, "upstream_unreachable")
    await pool.ask()
    assert await events(pool, "egress") == [(b"trouble", reason.encode())]
    assert await pool.states() == {}


async def test_one_accounts_address_list_is_no_trouble_of_the_network(open_pool):
    pool = await open_pool(FOUR)
    pool.upstream.always = {"a1": ADDRESS}
    for _ in range(20):
        assert (await pool.ask()).status == 200
    assert pool.recorder.egress == []
    assert await pool.states() == {}


async def test_answers_of_upstreams_own_end_the_suspicion_whatever_they_say(open_pool):
    pool = await open_pool(FOUR)
    for _ in range(4):
        pool.upstream.next(PAGE, error(400, "invalid_value", "Invalid value"))
        assert (await pool.ask()).status == 400
    assert pool.recorder.egress == []


async def test_the_last_usable_account_alone_is_enough_for_an_alarm(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(error(401, "account_deactivated", "x"), PAGE)
    client = await pool.ask()
    assert (client.status, client.error["code"]) == (502, "egress_refused")
    assert [to for to, _ in await events(pool, "egress")] == [b"trouble"]
