"""The pool's own rate headers: what the accounts have together, by hand arithmetic, on every answer that may tell it.

A bucket of a minute holds its limit less a breath of 1.2 s: 588 of 600 requests.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from quotapool.domain.bucket import UNKNOWN, Moment
from quotapool.domain.pool import Key, Pool
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.domain.request_record import RequestRecord
from quotapool.domain.states import Record, State
from quotapool.ledger.grants import Granted
from quotapool.openai.head import Header
from quotapool.openai.ratelimits import parse_duration
from quotapool.request.rate_headers import PoolRateHeaders

from tests.fakes.edge import Client, Reply, chat_answer, chat_body, error, stream
from tests.fakes.heads import text
from tests.fakes.store import candidate

GROUP = "gpt-4o"
Seen = dict[Dimension, tuple[float, float]]  # (limit that upstream named or UNKNOWN, level)
RPM, TPM = Dimension.RPM, Dimension.TPM


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def pool_of(*accounts: str) -> Pool:
    return Pool(Key(f"{name}1", name, f"fp-{name}") for name in accounts)


def grant(account: str, seen: Seen, written: Limits | None = None) -> Granted:
    moments = {dimension: Moment(level, level, 0.0, 0.0) for dimension, (_, level) in seen.items()}
    learned = {dimension: limit for dimension, (limit, _) in seen.items()}
    return Granted("r", GROUP, Cost(1, 10), candidate(account, written), 0.0, 1.0, False, moments, learned)


def told(found: list[Header]) -> tuple[list[str], list[str]]:
    """(limit, remaining, reset) of requests, and the same of tokens."""
    values = dict(text(found))
    trios = [
        [values[f"x-ratelimit-{which}-{what}"] for which in ("limit", "remaining", "reset")]
        for what in ("requests", "tokens")
        if f"x-ratelimit-limit-{what}" in values
    ]
    assert sum(len(trio) for trio in trios) == len(values)
    return trios[0] if trios else [], trios[1] if len(trios) > 1 else []


TABLE = {
    # 3 of 60 are missing: 3 s at one a second. A quarter of 40,000 is missing: 15 s.
    "one account": ("a", {"a": {RPM: (60, 57), TPM: (40_000, 30_000)}}, ["60", "57", "3s"], ["40000", "30000", "15s"]),
    # 30 of 560 are missing, and the accounts fill together in 30 / 560 of a minute.
    "two accounts add up": (
        "ab",
        {"a": {RPM: (60, 30), TPM: (1_000, 1_000)}, "b": {RPM: (500, 500), TPM: (2_000, 500)}},
        ["560", "530", "3.214s"],
        ["3000", "1500", "30s"],
    ),
    # One of three was seen: the others are taken to be like it.
    "accounts nobody has seen": (
        "abc",
        {"a": {RPM: (60, 45), TPM: (40_000, 40_000)}},
        ["180", "135", "15s"],
        ["120000", "120000", "0ms"],
    ),
    "parts are rounded down": ("a", {"a": {RPM: (3, 1.9), TPM: (7, 6.99)}}, ["3", "1", "22s"], ["7", "6", "86ms"]),
    "a debt is nothing left": ("a", {"a": {RPM: (60, -30), TPM: (10, -5)}}, ["60", "0", "1m0s"], ["10", "0", "1m0s"]),
    "only requests are limited": ("a", {"a": {RPM: (60, 60)}}, ["60", "60", "0ms"], []),
    "limits are guesses": ("a", {"a": {RPM: (UNKNOWN, 2), TPM: (UNKNOWN, 200_000)}}, [], []),
    "one limit is a guess": ("a", {"a": {RPM: (60, 59), TPM: (UNKNOWN, 200_000)}}, ["60", "59", "1s"], []),
    "nothing is limited": ("a", {"a": {}}, [], []),
}


@pytest.mark.parametrize(("accounts", "seen", "requests", "tokens"), TABLE.values(), ids=list(TABLE))
def test_what_the_pool_has_is_the_sum_of_its_accounts(clock, accounts, seen, requests, tokens):
    found = PoolRateHeaders(pool_of(*accounts))
    for account, sights in seen.items():
        found.observe(grant(account, sights))
    assert told(found.lines(GROUP)) == (requests, tokens)


def test_of_a_large_pool_a_few_hundred_accounts_speak_for_all_of_them(clock):
    names = [f"a{n}" for n in range(1_000)]
    found = PoolRateHeaders(pool_of(*names))
    for name in names[:600]:  # heard first, and by then used up
        found.observe(grant(name, {RPM: (60, 0)}))
    for name in names[600:]:
        found.observe(grant(name, {RPM: (60, 45)}))

    # Only the last 256 that were heard count: a thousand accounts of 60, each with 45 left, full in a quarter minute.
    assert told(found.lines(GROUP))[0] == ["60000", "45000", "15s"]


@pytest.mark.parametrize(
    ("written", "learned", "expected"),
    [(100, UNKNOWN, "100"), (100, 60, "60"), (100, 500, "100"), (None, 60, "60"), (0, 60, "0")],
)
def test_of_what_is_written_and_what_upstream_says_the_lower_limit_is_told(clock, written, learned, expected):
    found = PoolRateHeaders(pool_of("a"))
    found.observe(grant("a", {RPM: (learned, 10)}, Limits(rpm=written)))
    assert dict(text(found.lines(GROUP)))["x-ratelimit-limit-requests"] == expected


def test_what_was_seen_refills_meanwhile_and_never_above_the_limit(clock):
    found = PoolRateHeaders(pool_of("a"))
    found.observe(grant("a", {RPM: (60, 30), TPM: (6_000, 0)}))
    clock.now += 10  # one request a second, a hundred tokens a second
    assert told(found.lines(GROUP)) == (["60", "40", "20s"], ["6000", "1000", "50s"])
    clock.now += 600
    assert told(found.lines(GROUP)) == (["60", "60", "0ms"], ["6000", "6000", "0ms"])


def test_they_are_added_up_once_a_second(clock):
    found = PoolRateHeaders(pool_of("a"))
    found.observe(grant("a", {RPM: (60, 30)}))
    first = found.lines(GROUP)
    clock.now += 0.9
    found.observe(grant("a", {RPM: (60, 10)}))
    assert found.lines(GROUP) is first
    clock.now += 0.1
    assert told(found.lines(GROUP))[0] == ["60", "10", "49.9s"]


def test_accounts_that_are_out_or_gone_do_not_count(clock):
    pool = pool_of("a", "b")
    found = PoolRateHeaders(pool)
    for account in "ab":
        found.observe(grant(account, {RPM: (60, 30)}))
    assert told(found.lines(GROUP))[0] == ["120", "60", "30s"]
    pool.apply_states({"a/b": Record(State.QUARANTINED, "money", since=0.0, until=9e9)})
    clock.now += 1
    assert told(found.lines(GROUP))[0] == ["60", "31", "29s"]
    pool.replace([Key("a1", "a", "fp-a")])
    clock.now += 1
    assert told(found.lines(GROUP))[0] == ["60", "32", "28s"]


def test_groups_are_counted_apart_and_a_flood_of_invented_ones_is_forgotten(clock):
    found = PoolRateHeaders(pool_of("a"))
    found.observe(grant("a", {RPM: (60, 30)}))
    assert found.lines("gpt-4o-mini") == []
    for n in range(3_000):
        other = grant("a", {RPM: (60, 30)})
        other.group = f"invented-{n}"
        found.observe(other)
    assert len(found._groups) <= 1_001


# ---- through the pipeline

LIMITED = {"limits": {"default": {"rpm": 600, "tpm": 60_000}}}
UPSTREAMS = {
    "x_ratelimit_limit_requests": "77",
    "x_ratelimit_remaining_requests": "76",
    "x_ratelimit_limit_tokens": "7",
}


def rate_headers(client: Client) -> dict[str, str]:
    names = [name for name, _ in client.answered if name.startswith("x-ratelimit-")]
    assert len(names) == len(set(names))
    return {name: value for name, value in client.answered if name.startswith("x-ratelimit-")}


async def test_a_good_answer_tells_what_the_pool_has_and_nothing_of_the_keys_own(open_pool):
    """Two accounts of which one was seen: 588 - 1 requests and 58,800 - 1,000 tokens, and twice that for both."""
    pool = await open_pool({"a": 1, "b": 1}, **LIMITED)
    client = await pool.ask()
    found = rate_headers(client)
    assert client.status == 200
    assert (found["x-ratelimit-limit-requests"], found["x-ratelimit-limit-tokens"]) == ("1200", "120000")
    assert int(found["x-ratelimit-remaining-requests"]) == pytest.approx(1_174, abs=4)
    assert int(found["x-ratelimit-remaining-tokens"]) == pytest.approx(115_600, abs=400)
    assert parse_duration(found["x-ratelimit-reset-requests"]) == pytest.approx(1.3, abs=0.2)
    assert parse_duration(found["x-ratelimit-reset-tokens"]) == pytest.approx(2.2, abs=0.2)


async def test_upstreams_own_numbers_are_replaced_and_teach_the_pool(open_pool, monkeypatch):
    now = time.monotonic
    pool = await open_pool({"a": 1}, limits={})
    pool.upstream.otherwise = chat_answer().named(**UPSTREAMS)
    first = await pool.ask(Client(chat_body(max_tokens=1)))
    assert rate_headers(first) == {}  # our guess is nothing to tell, and 77 is one key's, not the pool's
    monkeypatch.setattr(time, "monotonic", lambda: now() + 1.0)  # they are added up once a second
    second = await pool.ask(Client(chat_body(max_tokens=1)))
    assert rate_headers(second)["x-ratelimit-limit-requests"] == "77"


async def test_streams_and_upstreams_errors_tell_it_too(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, **LIMITED)
    pool.upstream.next(stream(b"data: [DONE]\n\n"), error(400, "invalid_value").named(**UPSTREAMS))
    streamed, mistaken = await pool.ask(Client(chat_body(stream=True))), await pool.ask()
    assert (streamed.status, mistaken.status) == (200, 400)
    for client in (streamed, mistaken):
        assert rate_headers(client)["x-ratelimit-limit-requests"] == "1200"


async def test_a_refusal_of_ours_tells_what_is_left_beside_when_to_come_back(open_pool):
    """Given a call of 58,000 tokens under way, I expect another to hear of the 800 that are left, and of 57 s."""
    pool = await open_pool({"a": 1}, queue={"max_wait": 0}, **LIMITED)
    answered = asyncio.Event()
    pool.upstream.next(Reply(before=answered))
    under_way = asyncio.create_task(pool.ask(Client(chat_body(max_tokens=58_000))))
    async with asyncio.timeout(5):
        while not pool.upstream.sent:
            await asyncio.sleep(0.000_1)
        client = Client(chat_body(max_tokens=58_000))
        await pool.serve(client, RequestRecord("t", 0.0))
    found = rate_headers(client)
    answered.set()
    await under_way
    assert (client.status, client.header("x-quotapool-source")) == (429, "proxy")
    assert (found["x-ratelimit-limit-tokens"], found["x-ratelimit-limit-requests"]) == ("60000", "600")
    assert int(found["x-ratelimit-remaining-tokens"]) == pytest.approx(800, abs=300)
    assert client.header("retry-after") == "58"  # 57,200 of 1,000 a second, rounded up


async def test_where_no_limits_are_known_nothing_is_told(open_pool):
    pool = await open_pool({"a": 1}, limits={}, queue={"max_wait": 0})
    clients = [await pool.ask(Client(chat_body(max_tokens=1))) for _ in range(3)]
    assert [client.status for client in clients] == [200, 200, 200]
    assert [rate_headers(client) for client in clients] == [{}, {}, {}]
