"""The planner of the failover, as a table: what follows an attempt, and what the client gets in the end."""

from __future__ import annotations

import pytest
from quotapool.domain import retry
from quotapool.domain.access import Use
from quotapool.domain.quantities import Cost
from quotapool.domain.retry import RetrySlots
from quotapool.domain.verdict import Kind, Verdict
from quotapool.openai.endpoints import Endpoint, resolve
from quotapool.openai.refusal import Refusal
from quotapool.pool.want import Never, NoRoom, Want
from quotapool.request.client_request import ClientRequest
from quotapool.request.failover import GiveUp, Plan, RetryAfter, TryAnother
from quotapool.request.outcome import Held, Outcome
from quotapool.upstream.interface import UpstreamFailure

HELD = Held(429, "", [(b"retry-after", b"9")], b"{}")


def plan(*, body: bytes | None = b"{}", replayable: bool = True, most: int = 3) -> tuple[Plan, Want]:
    endpoint = resolve("POST", "/v1/chat/completions")
    assert isinstance(endpoint, Endpoint)
    want = Want("gpt-4o", Use("gpt-4o"), Cost(1, 1000), may_try_resting=True, max_wait_s=0.0)
    request = ClientRequest(endpoint, body, None, "gpt-4o", "gpt-4o", want.cost, replayable)
    return Plan(request, want, RetrySlots(), most), want


def refused(kind: Kind, reason: str = "", **more: object) -> Outcome:
    return Outcome(verdict=Verdict(kind, reason, **more), held=HELD)  # type: ignore[arg-type]


def broken(*, sent: bool = True, idle: bool = False) -> Outcome:
    return Outcome(failure=UpstreamFailure("reset", "gone", sent=sent, idle=idle))


def code(step: object) -> str:
    assert isinstance(step, GiveUp)
    assert isinstance(step.answer, Refusal)
    return step.answer.error.code


@pytest.mark.parametrize("kind", [Kind.WAIT, Kind.SLOW_DOWN, Kind.MONEY, Kind.DEAD, Kind.SUSPECT, Kind.MODEL])
def test_what_did_no_work_moves_on_at_once_even_if_it_must_not_be_repeated(kind):
    following, _ = plan(replayable=False)
    assert following.after(refused(kind), "a", 0.0) == TryAnother()


def test_a_body_that_streams_from_the_client_is_sent_once():
    following, _ = plan(body=None)
    assert following.after(refused(Kind.WAIT), "a", 0.0) == GiveUp(Held(429, "", [*HELD.headers, SOURCE], b"{}"))


SOURCE = (b"x-quotapool-source", b"upstream")


@pytest.mark.parametrize(
    ("kind", "is_left_out"),
    [
        (Kind.MODEL, True),
        (Kind.TOO_LARGE, True),
        (Kind.EGRESS, True),
        (Kind.HEADER, True),
        (Kind.STATE, True),
        (Kind.WAIT, False),  # its bucket holds it back
        (Kind.MONEY, False),  # its state does
    ],
)
def test_an_account_that_cannot_serve_this_request_is_not_asked_again(kind, is_left_out):
    following, want = plan()
    following.after(refused(kind), "a", 0.0)
    assert ("a" in want.exclude) is is_left_out


def test_too_large_looks_for_a_larger_account():
    following, want = plan()
    assert following.after(refused(Kind.TOO_LARGE, limit=30_000), "a", 0.0) == TryAnother()
    assert want.cost == Cost(1, 30_001)


def test_failures_are_repeated_after_growing_pauses_until_the_attempts_end(monkeypatch):
    """0.25 s and 0.5 s, the lower half of which is certain."""
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.25)
    following, _ = plan(most=3)
    assert following.after(broken(), "a", 0.0) == RetryAfter(0.125)
    assert following.after(broken(), "a", 0.0) == RetryAfter(0.25)
    step = following.after(broken(), "a", 0.0)
    assert code(step) == "upstream_protocol_error"
    assert isinstance(step, GiveUp)
    assert isinstance(step.answer, Refusal)
    assert (b"x-should-retry", b"false") in step.answer.headers()


def test_a_connection_that_was_closed_while_idle_is_no_failure_and_no_pause():
    following, _ = plan(most=1)
    assert [following.after(broken(idle=True), "a", 0.0) for _ in range(8)] == [TryAnother()] * 8
    assert code(following.after(broken(idle=True), "a", 0.0)) == "upstream_protocol_error"


def test_what_is_wrong_with_a_key_of_ours_is_never_the_clients_answer():
    following, _ = plan()
    following.after(refused(Kind.WAIT), "a", 0.0)
    following.after(refused(Kind.DEAD), "b", 0.0)
    step = following.not_admitted(Never("excluded"))
    assert step == GiveUp(Held(429, "", [*HELD.headers, SOURCE], b"{}"))
    alone, _ = plan()
    alone.after(refused(Kind.DEAD), "a", 0.0)
    assert code(alone.not_admitted(Never("excluded"))) == "pool_no_usable_keys"


def test_a_page_tells_a_client_nothing():
    following, _ = plan()
    assert following.after(refused(Kind.EGRESS, "http_403"), "a", 0.0) == TryAnother()
    assert code(following.after(refused(Kind.EGRESS, "http_403"), "b", 0.0)) == "egress_refused"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Never("excluded"), "model_not_available"),
        (Never("too_large"), "request_too_large_for_pool"),
        (Never("money"), "pool_credit_exhausted"),
        (Never("spend_limit"), "pool_spend_limit_reached"),
        (Never("dead"), "pool_no_usable_keys"),
        (Never("pinned"), "object_account_unavailable"),
        (NoRoom(3.0, "queue_full", None), "queue_full"),
        (NoRoom(3.0, "queue_timeout", None), "queue_timeout"),
        (NoRoom(3.0, "rate_limit", None), "rate_limit_exceeded"),
    ],
)
def test_without_a_grant_the_client_gets_the_reason(answer, expected):
    assert code(plan()[0].not_admitted(answer)) == expected
