"""Why a request was refused, failed or slow: each cause is named, with the time, the users and the cheapest remedy."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from quotapool.domain.outside import OutsideUse
from quotapool.domain.waited_for import RuleAtLimit, WaitedFor
from quotapool.domain.wallet import PICO
from quotapool.observe.kept_request import KeptAttempt, KeptRequest, KeptSaved
from quotapool.openai import replies
from quotapool.reports.cache_words import bypass_words, not_kept_words
from quotapool.reports.explanation import Explanation, User, Window, explain

AT = 1_795_000_000.0  # 2026-11-18T11:06:40Z


def a_request(**changed) -> KeptRequest:
    fields = {
        "id": "qp_1",
        "at": AT,
        "client": "team-a",
        "endpoint": "chat",
        "model": "gpt-4o",
        "status": 200,
        "code": "",
        "rules": (),
        "streamed": False,
        "cut": False,
        "source": "upstream",
        "attempts": (),
        "waited_for": None,
        "queued_us": 0,
        "first_byte_us": None,
        "total_us": 1_000_000,
        "overhead_us": 400,
        "prompt": 0,
        "cached": 0,
        "completion": 0,
        "certainty": "",
        "pico": 0,
    }
    return KeptRequest(**{**fields, **changed})


def refused(code: str, waited: WaitedFor | None = None, **changed) -> KeptRequest:
    reply = next(reply for reply in replies.ALL if reply.code == code)
    return a_request(status=reply.status, code=code, waited_for=waited, source="proxy", **changed)


def short(dimension: str, wait_s: float = 9.0, reason: str = "rate_limit") -> WaitedFor:
    return WaitedFor("gpt-4o", dimension, "acme", reason, wait_s)


def attempt(outcome="ok", reason="", status=200, key="alpha", wait_us=0, took_us=900_000) -> KeptAttempt:
    return KeptAttempt(key, "acme", outcome, reason, status, wait_us, took_us, "req_1")


def never(reason: str) -> WaitedFor:
    return WaitedFor("gpt-4o", reason=reason, wait_s=None)


def of_rule(rule: str, limit: float, used: float, held: float = 0.0, subject="c/team-a", wait_s=30.0) -> WaitedFor:
    standing = RuleAtLimit(subject, rule, limit, used, held, 1.0, wait_s)
    return WaitedFor("gpt-4o", reason="rules", wait_s=wait_s, rules=(standing,))


LATE, FAR = short("tpm", 9.0), short("tpm", 400.0)


@pytest.mark.parametrize(
    ("request_", "cause", "words", "remedy"),
    [
        # An account's budget
        (
            refused("rate_limit_exceeded", LATE),
            "account_limit",
            "tokens per minute (tpm) for gpt-4o",
            "queue.max_wait at 9s",
        ),
        (
            refused("rate_limit_exceeded", FAR),
            "account_limit",
            "account acme was to have room first",
            "Add one account",
        ),
        (refused("rate_limit_exceeded", short("rpm")), "account_limit", "requests per minute (rpm)", "queue.max_wait"),
        (
            refused("rate_limit_exceeded", short("rpd", 40.0)),
            "account_limit",
            "requests per day (rpd)",
            "Add one account",
        ),
        (refused("rate_limit_exceeded", short("ipm")), "account_limit", "images per minute (ipm)", "queue.max_wait"),
        (refused("rate_limit_exceeded", short("")), "account_limit", "its budget for gpt-4o", "queue.max_wait"),
        (refused("queue_full", short("tpm", 5, "queue_full")), "queue_full", "the queue was full", "queue.max_waiting"),
        (
            refused("queue_timeout", short("tpm", 5, "queue_timeout"), queued_us=30_000_000),
            *("queue_timeout", "it waited 30.00 s, as long as it may, for tokens", "queue.max_wait at 35s"),
        ),
        (refused("request_too_large_for_pool", never("too_large")), "too_large", "more tokens", "fewer tokens"),
        # A client's own rules
        (
            refused("client_rate_limited", of_rule("rpm", 60, 60)),
            *("client_rule", "client team-a had used 60 of 60 requests (rpm)", "quotapool clients set team-a --rpm"),
        ),
        (
            refused("client_budget_exhausted", of_rule("usd/day", 5 * PICO, 4.5 * PICO, 0.5 * PICO)),
            *("client_rule", "$4.50 of $5.00 (usd/day) and $0.50 held by", "clients set team-a --budget"),
        ),
        (
            refused("client_budget_exhausted", of_rule("tokens/month", 1e6, 1e6, subject="t/search")),
            *(
                "client_rule",
                "team search had used 1,000,000 of 1,000,000 tokens",
                "quotapool teams set search --budget",
            ),
        ),
        (
            refused("client_concurrency", of_rule("concurrent", 2, 0, 2, wait_s=0.0)),
            *("client_rule", "had used 2 of 2 requests at once (concurrent)", "--concurrent"),
        ),
        # Keys, money, access
        (refused("pool_credit_exhausted", never("money")), "no_credit", "out of credit", "Add credit to one account"),
        (refused("pool_spend_limit_reached", never("spend_limit")), "spend_limit", "spend or usage limit", "Raise one"),
        (refused("pool_daily_limit_reached"), "daily_limit", "spend.daily_limit_usd", "Raise spend.daily_limit_usd"),
        (refused("pool_no_usable_keys", never("dead")), "no_usable_key", "No key in the pool", "quotapool check"),
        (refused("object_account_unavailable", never("pinned")), "account_out", "holds the object", "quotapool check"),
        (
            refused("model_not_available", never("excluded")),
            "no_access",
            "has access",
            "Add one account that has access",
        ),
        # Store, upstream, this proxy
        (refused("store_unavailable"), "store_away", "does not answer", "docs/operations.md#the-store-is-down"),
        (refused("upstream_unreachable"), "upstream_unreachable", "could not connect", "check the proxy's network"),
        (refused("upstream_timeout"), "upstream_timeout", "did not answer in time", "timeouts.first_byte"),
        (refused("egress_refused"), "network_refused", "refuses this proxy's network", "outgoing address"),
        (
            refused("draining", WaitedFor("gpt-4o", reason="draining", wait_s=1.0)),
            "stopping",
            "shutting down",
            "Nothing",
        ),
        (refused("proxy_overloaded"), "overloaded", "as many requests as it can", "max_concurrent"),
        (refused("internal_error"), "proxy_fault", "internal error", "in the log"),
        # The client's own
        (refused("not_cached"), "not_cached", "keeps no answer to it", "Send it without"),
        (refused("invalid_json"), "client_mistake", "not a JSON object", "valid JSON object"),
        (refused("invalid_proxy_key"), "client_mistake", "unknown or was revoked", "clients add"),
        (a_request(status=499, cut=True), "client_left", "before the answer began, after 1.00 s", "timeout"),
        (
            a_request(cut=True, streamed=True, first_byte_us=100, attempts=(attempt("cancelled", status=200),)),
            *("client_left", "while it was answered", "timeout"),
        ),
        (
            a_request(cut=True, first_byte_us=100, attempts=(attempt("network", "closed"),)),
            *("upstream_broke_off", "broke off after the answer had begun", "retry"),
        ),
        # Answers
        (
            a_request(status=400, attempts=(attempt("request", "context_length_exceeded", 400),)),
            *("upstream_error", "by upstream itself: request context_length_exceeded", "docs/keys.md"),
        ),
        (a_request(attempts=(attempt(),)), "served", "Served with 200.", ""),
        (
            a_request(attempts=(attempt(wait_us=500_000),), queued_us=500_000, waited_for=WaitedFor("gpt-4o", "tpm")),
            *("served_after_wait", "after 500 ms in the queue for tpm of gpt-4o", ""),
        ),
        (a_request(source="cache", cache="hit"), "served_from_cache", "Served with 200 from the cache.", ""),
        (
            a_request(source="cache", cache="coalesced"),
            *("served_coalesced", "Served with 200 by the call of an identical request.", ""),
        ),
        (a_request(attempts=(attempt(),), cache="miss"), "served", "Served with 200.", ""),
        (
            a_request(source="cache", cache="coalesced", status=429),
            *("upstream_error", "Answered with 429 by upstream itself, to an identical request.", "docs/keys.md"),
        ),
        (
            a_request(attempts=(attempt("wait", "rate_limit_exceeded", 429), attempt(key="beta"))),
            *("served_after_retries", "after 2 attempts", ""),
        ),
    ],
)
def test_each_cause_is_named(request_, cause, words, remedy):
    found = explain(request_)
    assert found.cause == cause
    assert words in found.summary
    assert remedy in found.remedy
    assert bool(found.remedy) is bool(remedy)


@pytest.mark.parametrize("reply", replies.ALL, ids=lambda reply: reply.code)
def test_there_are_words_for_every_code(reply):
    found = explain(refused(reply.code))
    assert reply.code in found.summary
    assert found.remedy


def test_a_refusal_tells_since_when_and_until_when():
    def at(seconds: float, **changed) -> KeptRequest:
        return refused("rate_limit_exceeded", LATE, at=AT + seconds, **changed)

    earlier = [at(-200), at(-70), at(-50, client="other"), at(-5), refused("invalid_json", at=AT - 100)]
    found = explain(at(0), earlier)
    # It ended at 11:06:41; those before it are 5, 45 and 20 s apart, then 130 s.
    assert (found.since, found.until) == ("2026-11-18T11:05:31.000Z", "2026-11-18T11:06:50.000Z")


def test_what_other_rules_refused_is_another_trouble():
    ours = refused("client_rate_limited", of_rule("rpm", 60, 60))
    others = [
        refused("client_rate_limited", of_rule("rpm", 60, 60, subject="c/other"), at=AT - 10),
        refused("rate_limit_exceeded", LATE, at=AT - 9),
    ]
    assert explain(ours, others).since == "2026-11-18T11:06:41.000Z"
    assert explain(ours, [*others, refused("client_rate_limited", of_rule("rpm", 60, 60), at=AT - 8)]).since == (
        "2026-11-18T11:06:33.000Z"
    )


def explained_with(*users: User) -> Explanation:
    return explain(refused("rate_limit_exceeded", FAR), (), Window(AT - 60, AT + 60, users))


def test_if_one_client_used_most_a_limit_for_it_is_cheaper_than_an_account():
    found = explained_with(User("greedy", "", 900, 90_000), User("team-a", "", 10, 1_000))
    assert [user.client for user in found.most_used_by] == ["greedy", "team-a"]
    assert "quotapool clients set greedy --tpm" in found.remedy
    assert "Add one account" in explained_with(User("a", "", 9, 500), User("b", "", 9, 500)).remedy
    assert "Add one account" in explained_with(User("team-a", "", 9, 500)).remedy


def test_what_it_waited_for_before_it_was_served_or_failed_is_no_refusal():
    found = explain(refused("upstream_timeout", WaitedFor("gpt-4o", "tpm", wait_s=3.0)))
    assert (found.cause, found.until) == ("upstream_timeout", None)


def test_the_timeline_of_a_request_that_waited_and_was_tried_twice():
    attempts = (
        attempt("wait", "rate_limit_exceeded", 429, "alpha", 0, 50_000),
        attempt(key="beta", wait_us=100_000, took_us=840_000),
    )
    found = explain(
        a_request(
            attempts=attempts,
            queued_us=100_000,
            first_byte_us=350_000,
            streamed=True,
            waited_for=WaitedFor("gpt-4o", "tpm"),
        )
    )
    assert [(step.at_ms, step.text) for step in found.timeline] == [
        (0.0, "arrived from team-a: chat, gpt-4o, streamed"),
        (None, "attempt 1, key alpha of account acme: wait rate_limit_exceeded (429), req_1, 50 ms"),
        (None, "waited 100 ms in the queue for tpm of gpt-4o"),
        (None, "attempt 2, key beta of account acme: ok (200), req_1, 840 ms"),
        (350.0, "first byte to the client"),
        (1000.0, "end: 200"),
    ]
    assert found.longest == "attempt 2 with key beta after its first byte: 650 ms, 65 %"


@pytest.mark.parametrize(
    ("changed", "longest"),
    [
        (
            {"attempts": (attempt(wait_us=800_000, took_us=150_000),), "queued_us": 800_000},
            "waiting in the queue: 800 ms, 80 %",
        ),
        ({"attempts": (attempt(took_us=950_000),)}, "attempt 1 with key alpha: 950 ms, 95 %"),
        (
            {"attempts": (attempt(took_us=950_000),), "first_byte_us": 900_000},
            "attempt 1 with key alpha until its first byte: 850 ms, 85 %",
        ),
        ({"overhead_us": 990_000, "attempts": (attempt(took_us=9_000),)}, "the proxy itself: 990 ms, 99 %"),
    ],
)
def test_what_took_most_of_the_time_is_named(changed, longest):
    assert explain(a_request(**changed)).longest == longest


def test_who_was_refused_after_waiting_waited_in_vain():
    found = explain(refused("queue_timeout", short("tpm", 5, "queue_timeout"), queued_us=900_000))
    assert found.timeline[1].text == "waited 900 ms in the queue for tpm of gpt-4o, account acme, in vain"


SAVED = KeptSaved(1, 1_221, 27, 1_915_000_000)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cache": "hit", "saved": SAVED}, "had the answer, which saved 1 call upstream, 1,248 tokens and $0.001915."),
        ({"cache": "hit", "saved": KeptSaved(1, 0, 0, 0)}, "The cache had the answer, which saved 1 call upstream."),
        ({"cache": "hit", "saved": KeptSaved(1, 5, 0, None)}, "which saved 1 call upstream and 5 tokens."),
        ({"cache": "coalesced", "saved": SAVED}, "An identical request was under way, and both got one answer, which"),
        ({"cache": "miss"}, "The cache did not have the answer; it keeps this one."),
        ({"cache": "miss", "cut": True}, "The cache did not have the answer."),
        ({"cache": "miss", "status": 500}, "The cache did not have the answer."),
        (
            {"cache": "miss", "kept": "tool_calls"},
            "and did not keep this one: it calls tools, and `cache.tools` is off.",
        ),
        (
            {"cache": "miss", "saved": KeptSaved(0, 990, 0, 10**10)},
            "not have the answer, but parts of it, which saved 990 tokens and $0.010000; it keeps this one.",
        ),
        ({"cache": "bypass", "kept": "temperature"}, "It was not looked up in the cache: its temperature is above"),
        ({"cache": "bypass", "kept": "query"}, "It was not looked up in the cache: the path has a query."),
        ({"cache": "bypass", "kept": "some_new_word"}, "It was not looked up in the cache: some new word."),
        ({"cache": "bypass"}, "It was not looked up in the cache."),
    ],
)
def test_it_is_said_what_the_cache_did_and_why_it_did_no_more(changed, words):
    found = explain(a_request(**changed))
    assert words in found.cache
    assert found.cache.endswith(".")


@pytest.mark.parametrize(
    ("file", "decides", "words"),
    [
        ("reuse.py", "asked_of", bypass_words),
        ("reusable.py", "serve", bypass_words),
        ("reusable.py", "_unkept", not_kept_words),
    ],
)
def test_every_word_of_the_request_path_is_explained(file, decides, words):
    text = (Path(__file__).parents[2] / "proxy" / "quotapool" / "request" / file).read_text()
    functions = [one for one in ast.walk(ast.parse(text)) if getattr(one, "name", "") == decides]
    found = {word for one in functions for word in re.findall(r"(?:return|kept =) '([a-z_]+)'", ast.unparse(one))}
    assert found
    assert [word for word in found if words(word) == word.replace("_", " ")] == []


def test_nothing_is_said_of_a_cache_that_is_not_there():
    assert explain(a_request()).cache == ""


OTHERS = [
    OutsideUse("beta", "gpt-4o", AT - 600, 90.0, 90_000.0),
    OutsideUse("acme", "gpt-4o", AT - 600, 40.0, 12_000.0),
    OutsideUse("acme", "gpt-5", AT - 600, 1.0, 10.0),
]


@pytest.mark.parametrize(
    "request_",
    [
        refused("rate_limit_exceeded", LATE),
        refused("queue_timeout", FAR, queued_us=30_000_000),
        a_request(queued_us=2_000_000, waited_for=WaitedFor("gpt-4o", "tpm", "acme")),
    ],
)
def test_who_else_used_the_room_that_a_request_was_short_of_is_named(request_):
    found = explain(request_, outside=OTHERS)
    assert found.summary.endswith(
        " Somebody else used account acme then: about 40 requests and 12,000 tokens a minute of gpt-4o."
    )
    assert [(row.account, row.model) for row in found.outside_use] == [("acme", "gpt-4o"), ("beta", "gpt-4o")]
    if request_.code:
        assert found.remedy == "Find out who else uses account acme: docs/outside-use.md says how."


@pytest.mark.parametrize(
    "request_",
    [
        a_request(),
        refused("client_rate_limited", of_rule("rpm", 10, 10)),
        refused("pool_no_usable_keys", never("dead")),
        refused("rate_limit_exceeded", WaitedFor("gpt-5-mini", "tpm", "acme", "rate_limit", 9.0)),
    ],
)
def test_outside_use_explains_nothing_else(request_):
    found = explain(request_, outside=OTHERS)
    assert found.outside_use == []
    assert (found.summary, found.remedy) == (explain(request_).summary, explain(request_).remedy)
