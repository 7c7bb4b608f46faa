"""`quotapool logs`: one readable line for each request, and which of them are asked for."""

from __future__ import annotations

import json
from itertools import count

import msgspec
import pytest
from quotapool.cli.logs import Follower, Printer, cells
from quotapool.domain.request_record import AskedFor
from quotapool.domain.waited_for import RuleAtLimit, WaitedFor
from quotapool.domain.wallet import PICO
from quotapool.observe.kept_request import KeptAttempt, KeptRequest, KeptSaved
from quotapool.observe.request_store import RequestStore
from quotapool.shapes.requests import RequestQuery, row_of

from tests.fakes.connect import connect


def a_request(**changed) -> KeptRequest:
    fields = {
        "id": "qp_1",
        "at": 1_795_000_000.0,
        "client": "team-a",
        "endpoint": "chat",
        "model": "gpt-4o",
        "status": 200,
        "code": "",
        "rules": (),
        "streamed": False,
        "cut": False,
        "source": "upstream",
        "attempts": (
            KeptAttempt("alpha", "acme", "wait", "rate_limit_exceeded", 429, 1_000, 50_000, "req_1"),
            KeptAttempt("beta", "acme", "ok", "", 200, 101_000, 200_000, "req_2"),
        ),
        "waited_for": None,
        "queued_us": 101_000,
        "first_byte_us": 250_000,
        "total_us": 1_500_000,
        "overhead_us": 400,
        "prompt": 221,
        "cached": 128,
        "completion": 27,
        "certainty": "exact",
        "pico": 1_915_000_000,
    }
    return KeptRequest(**{**fields, **changed})


def test_a_request_is_one_line(capsys):
    assert cells(a_request())[1:] == (
        *("team-a", "gpt-4o", "200", "101 ms", "1.50 s", "221+27", "$0.001915", "-", "alpha:wait beta:ok", "qp_1"),
    )
    printer = Printer(as_json=False)
    printer.show([a_request()])
    printer.show([a_request(id="qp_2")])
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["time", "client", "model"]
    assert heading.index("client") == first.index("team-a") == second.index("team-a")


async def test_who_follows_a_store_that_comes_back_empty_is_told_once_and_sees_what_is_new(valkey_url, capsys):
    connection = connect(valkey_url)
    kept = RequestStore(connection, "test")
    sent = count(1)

    async def add(*requests: KeptRequest) -> None:
        chunk = msgspec.msgpack.encode(requests)
        await kept.add(chunk, len(requests), sender="w", number=next(sent), most=100)

    async def shown() -> list[str]:
        await follower.go_on()
        return [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]

    before = [a_request(id=f"qp_{n}", at=1_795_000_000.0 + n) for n in range(9)]
    for request in before:
        await add(request)
    follower = Follower(kept, RequestQuery(limit=2), Printer(as_json=True))
    await follower.begin(follow=True)
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["qp_7", "qp_8"]
    await connection.client.flushall()
    await add(before[4])  # as after a failover to a server that had not everything yet
    await add(a_request(id="qp_new", at=1_795_000_100.0))
    await follower.go_on()
    out, err = capsys.readouterr()
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["qp_new"]
    assert err == "quotapool: the store has lost the requests that it had. Going on with new ones\n"
    await add(a_request(id="qp_next", at=1_795_000_101.0))
    assert await shown() == ["qp_next"]
    assert await shown() == []
    await connection.close()


def test_what_is_not_known_is_a_question_mark_and_what_is_not_there_a_dash():
    assert cells(a_request(pico=None))[7] == "?"
    refused = a_request(
        attempts=(),
        queued_us=0,
        prompt=0,
        completion=0,
        pico=0,
        total_us=900,
        status=429,
        code="queue_full",
        client="",
    )
    assert cells(refused)[1:10] == ("-", "gpt-4o", "429 queue_full", "-", "0.9 ms", "-", "-", "-", "-")


def test_a_clients_words_do_not_control_the_terminal():
    assert cells(a_request(model="a\x1b[2Jb\nc"))[2] == "a[2Jbc"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (RequestQuery(), True),
        (RequestQuery(client="team-a", key="alpha", model="gpt-4o"), True),
        (RequestQuery(client="team-b"), False),
        (RequestQuery(key="gamma"), False),
        (RequestQuery(model="gpt-4"), False),
        (RequestQuery(code="rate_limit_exceeded"), True),
        (RequestQuery(code="queue_full"), False),
        (RequestQuery(errors=True), False),
        (RequestQuery(waited=True, retried=True), True),
    ],
)
def test_filters_are_about_what_a_line_shows(query, found):
    assert query.matches(a_request()) is found


@pytest.mark.parametrize("trouble", [{"status": 429}, {"status": 502}, {"cut": True}])
def test_errors_are_what_was_refused_failed_or_cut(trouble):
    assert RequestQuery(errors=True).matches(a_request(**trouble))


def test_a_request_that_was_served_at_once_by_one_key_neither_waited_nor_was_retried():
    (_, answered) = a_request().attempts
    at_once = a_request(attempts=(answered,))
    assert not RequestQuery(retried=True).matches(at_once)
    assert RequestQuery(waited=True).matches(at_once)  # 101 ms
    assert not RequestQuery(waited=True).matches(a_request(queued_us=0))
    assert RequestQuery(waited=True).matches(a_request(queued_us=1))
    assert not RequestQuery(retried=True).matches(a_request(attempts=()))


def test_for_programs_the_room_that_was_asked_for_is_named_with_its_group():
    def asked_for(asked: AskedFor | None):
        return msgspec.to_builtins(row_of(a_request(model="gpt-4o", asked_for=asked)))["asked_for"]

    whole = {"group": "gpt-4o", "tokens": 900, "images": 0, "priority": 0, "max_wait_s": 30.0, "only": ""}
    assert asked_for(AskedFor("", 900, max_wait_s=30.0)) == whole
    pinned = whole | {"group": "shared", "images": 3, "priority": -1, "only": "acme"}
    assert asked_for(AskedFor("shared", 900, 3, -1, 30.0, "acme")) == pinned
    assert asked_for(None) is None


def test_for_programs_times_are_milliseconds_and_money_is_dollars():
    rule = RuleAtLimit("c/team-a", "usd/day", 5 * PICO, 4.5 * PICO, 0.25 * PICO, PICO, 60.0)
    row = msgspec.to_builtins(row_of(a_request(waited_for=WaitedFor("gpt-4o", rules=(rule,), wait_s=60.0))))
    assert row["time"] == "2026-11-18T11:06:40.000Z"
    assert [(one["wait_ms"], one["ms"]) for one in row["attempts"]] == [(1.0, 50.0), (100.0, 200.0)]
    assert (row["queue_ms"], row["ttfb_ms"], row["total_ms"], row["overhead_ms"]) == (101.0, 250.0, 1500.0, 0.4)
    assert row["usd"] == pytest.approx(0.001915)
    assert row["waited_for"]["rules"] == [
        {
            "subject": "c/team-a",
            "rule": "usd/day",
            "limit": 5.0,
            "used": 4.5,
            "held": 0.25,
            "needed": 1.0,
            "wait_s": 60.0,
        }
    ]


HIT = {"attempts": (), "source": "cache", "cache": "hit", "saved": KeptSaved(1, 221, 27, 1_915_000_000), "pico": 0}


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        (HIT, "hit $0.001915"),
        ({**HIT, "saved": KeptSaved(1, 5, 0, None)}, "hit"),
        ({**HIT, "saved": KeptSaved(1, 5, 0, 0), "cache": "coalesced"}, "coalesced"),
        ({"cache": "miss"}, "miss"),
        ({"cache": "miss", "kept": "tools"}, "miss: tools"),
        ({"cache": "bypass", "kept": "query"}, "bypass: query"),
        ({"cache": "miss", "saved": KeptSaved(0, 990, 0, PICO // 100)}, "miss $0.010000"),
        ({}, "-"),
    ],
)
def test_a_line_has_what_the_cache_did_what_it_saved_and_why_it_did_no_more(changed, shown):
    assert cells(a_request(**changed))[8] == shown


def test_requests_can_be_asked_for_by_what_the_cache_did():
    assert RequestQuery(cache="hit").matches(a_request(**HIT))
    assert not RequestQuery(cache="miss").matches(a_request(**HIT))
    assert not RequestQuery(cache="miss").matches(a_request())
    assert RequestQuery().matches(a_request(**HIT))


def test_for_programs_savings_are_tokens_and_dollars():
    row = msgspec.to_builtins(row_of(a_request(**HIT)))
    assert (row["source"], row["cache"], row["kept"]) == ("cache", "hit", "")
    assert row["saved"] == {"requests": 1, "prompt_tokens": 221, "completion_tokens": 27, "usd": 0.001915}
    assert row_of(a_request(**HIT | {"saved": KeptSaved(1, 5, 0, None)})).saved.usd is None
    assert row_of(a_request()).saved is None
