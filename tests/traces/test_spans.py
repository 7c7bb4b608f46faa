"""The spans of a request, from its record: which there are, when each began and ended, and what they tell."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.domain.trace import Trace
from quotapool.domain.waited_for import WaitedFor
from quotapool.observe.redaction import Redactor
from quotapool.traces.spans import SpanFacts, SpanMaker

SECRET = "sk-proj-a-secret-of-the-pool-that-nobody-may-see"
CLOCK_NS = 1_700_000_000_000_000_000
TRACE = Trace(11, 7, 5, 1, "", CLOCK_NS, goes_on=False)
UPSTREAMS = {
    "a1": "https://api.openai.com",
    "azure": "https://east.openai.azure.com/openai",
    "own": "http://vllm.corp:8000",
}


def maker() -> SpanMaker:
    numbers = count(1_000)
    return SpanMaker(word=Redactor([SECRET]).word, upstream_of=lambda key: UPSTREAMS[key], new_id=lambda: next(numbers))


def ended(**members: Any) -> RequestRecord:
    """A chat request that came at 100.0 s and was answered by 103.0 s."""
    record = RequestRecord("qp-1", 100.0, "POST", path="chat/completions", client="app", endpoint="chat")
    usual = {"model": "gpt-4o", "status": 200, "source": "upstream", "asked": 100.5, "ended": 103.0}
    for name, value in (usual | members).items():
        setattr(record, name, value)
    return record


def attempt(began: float, took_s: float, **members: Any) -> AttemptRecord:
    usual = {"key": "a1", "account": "a", "waited_s": 0.0, "outcome": "ok", "status": 200, "asked": began - 0.1}
    return AttemptRecord(**(usual | members), began=began, took_s=took_s)


def drawn(record: RequestRecord, trace: Trace = TRACE) -> list[tuple[str, str, int, int]]:
    """(name, name of the parent, milliseconds from 100.0 s to its beginning and its end)."""
    spans = maker().spans(record, trace)
    names = {span.span_id: span.name for span in spans}

    def ms(at: int) -> int:
        return round((at - CLOCK_NS - 100 * 10**9) / 10**6)

    return [(one.name, names.get(one.parent_id, ""), ms(one.start_ns), ms(one.end_ns)) for one in spans]


def whole(record: RequestRecord) -> SpanFacts:
    return maker().spans(record, TRACE)[0]


def called(record: RequestRecord) -> SpanFacts:
    return next(span for span in maker().spans(record, TRACE) if span.kind == "client")


def test_a_request_that_waited_failed_over_and_streamed():
    record = ended(queued_s=0.7, first_byte=102.2, streamed=True, asked=101.5)
    record.attempts = [
        attempt(101.0, 0.4, waited_s=0.4, asked=100.5, outcome="wait", status=429, reason="rate_limit_exceeded"),
        attempt(101.9, 1.0, waited_s=0.7, asked=101.5),
    ]
    assert drawn(record) == [
        ("POST /v1/chat/completions", "", 0, 3000),
        ("reserve", "POST /v1/chat/completions", 500, 1000),
        ("queue", "reserve", 600, 1000),
        ("chat gpt-4o", "POST /v1/chat/completions", 1000, 1400),
        ("reserve", "POST /v1/chat/completions", 1500, 1900),
        ("queue", "reserve", 1600, 1900),
        ("chat gpt-4o", "POST /v1/chat/completions", 1900, 2900),
        ("relay", "chat gpt-4o", 2200, 2900),
    ]
    first, second = [span for span in maker().spans(record, TRACE) if span.kind == "client"]
    assert (first.failed, first.attributes["error.type"]) == (True, "rate_limit_exceeded")
    assert (second.failed, "error.type" in second.attributes) == (False, False)
    assert second.attributes["gen_ai.response.time_to_first_chunk"] == pytest.approx(0.3)
    assert (first.span_id, second.span_id) == (TRACE.attempt_id(0), TRACE.attempt_id(1))  # as upstream may know them


def test_one_that_is_refused_in_the_queue_has_no_attempt():
    waited = WaitedFor("gpt-4o", "tpm", "acme", "queue_timeout", 12.0)
    refused = ended(status=429, code="queue_timeout", source="proxy", queued_s=2.0, waited_for=waited)
    assert drawn(refused) == [
        ("POST /v1/chat/completions", "", 0, 3000),
        ("reserve", "POST /v1/chat/completions", 500, 3000),
        ("queue", "reserve", 1000, 3000),
    ]
    span = whole(refused)
    assert (span.failed, span.attributes["quotapool.code"]) == (False, "queue_timeout")  # its client's error, not ours
    assert span.attributes["quotapool.waited_for"] == "tpm of gpt-4o, account acme"


def test_one_that_is_refused_at_the_door_is_one_span():
    refused = ended(status=403, code="model_not_allowed", source="proxy", asked=0.0, ended=100.001)
    assert drawn(refused) == [("POST /v1/chat/completions", "", 0, 1)]


def test_a_kept_answer_has_a_relay_and_nothing_else():
    hit = ended(source="cache", cache="hit", asked=0.0, first_byte=100.2, ended=100.3)
    assert drawn(hit) == [
        ("POST /v1/chat/completions", "", 0, 300),
        ("relay", "POST /v1/chat/completions", 200, 300),
    ]
    assert whole(hit).attributes["quotapool.cache"] == "hit"


def test_a_session_is_relayed_for_as_long_as_it_lives_and_its_responses_are_calls():
    session = ended(method="GET", path="realtime", endpoint="realtime", status=101, streamed=True, first_byte=100.8)
    session.attempts = [attempt(100.6, 0.2, status=101)]
    assert drawn(session) == [
        ("GET /v1/realtime", "", 0, 3000),
        ("reserve", "GET /v1/realtime", 500, 600),
        ("GET", "GET /v1/realtime", 600, 800),
        ("relay", "GET /v1/realtime", 800, 3000),
    ]
    one = attempt(0.0, 0.5, usage=Usage(Certainty.EXACT, 5, 6))
    response = msgspec.structs.replace(session, id="qp-1.1", attempts=[one], started=101.0, ended=101.5)
    (span,) = maker().response(response, TRACE)
    assert (span.name, span.parent_id, span.kind) == ("chat gpt-4o", TRACE.span_id, "client")
    assert (span.start_ns - CLOCK_NS, span.end_ns - CLOCK_NS) == (101 * 10**9, 101_500_000_000)
    assert span.attributes["gen_ai.usage.output_tokens"] == 6
    assert "http.response.status_code" not in span.attributes


def test_usage_is_told_as_far_as_it_is_known():
    def usage(**members: Any) -> dict[str, Any]:
        record = ended(attempts=[attempt(101.0, 1.0, usage=Usage(**members))])
        return {
            name.removeprefix("gen_ai.usage."): value
            for name, value in called(record).attributes.items()
            if "usage" in name
        }

    exact = usage(certainty=Certainty.EXACT, prompt=100, completion=20, cached_prompt=64, reasoning=5)
    assert exact == {
        "input_tokens": 100,
        "output_tokens": 20,
        "cache_read.input_tokens": 64,
        "reasoning.output_tokens": 5,
    }
    cut = usage(certainty=Certainty.AT_LEAST, completion=3)
    assert cut == {"input_tokens": 0, "output_tokens": 3, "quotapool.usage.certainty": "at_least"}
    assert usage(certainty=Certainty.NOTHING) == {}


@pytest.mark.parametrize(
    ("key", "address", "port", "provider"),
    [
        ("a1", "api.openai.com", 443, "openai"),
        ("azure", "east.openai.azure.com", 443, "azure.ai.openai"),
        ("own", "vllm.corp", 8000, "openai"),
    ],
)
def test_where_a_call_went(key, address, port, provider):
    attributes = called(ended(attempts=[attempt(101.0, 1.0, key=key)])).attributes
    assert attributes["server.address"] == address
    assert attributes["server.port"] == port
    assert attributes["gen_ai.provider.name"] == provider


@pytest.mark.parametrize(
    ("method", "path", "name", "operation"),
    [
        ("POST", "chat/completions", "chat gpt-4o", "chat"),
        ("POST", "responses", "chat gpt-4o", "chat"),
        ("POST", "completions", "text_completion gpt-4o", "text_completion"),
        ("POST", "embeddings", "embeddings gpt-4o", "embeddings"),
        ("POST", "images/generations", "generate_content gpt-4o", "generate_content"),
        ("GET", "chat/completions", "GET", None),  # it lists stored ones
        ("GET", "files/{id}", "GET", None),
        ("POST", "", "POST", None),  # a path that nobody knows
    ],
)
def test_a_call_to_a_model_is_named_as_the_conventions_say_and_others_by_their_method(method, path, name, operation):
    span = called(ended(method=method, path=path, attempts=[attempt(101.0, 1.0)]))
    assert span.name == name
    assert span.attributes.get("gen_ai.operation.name") == operation
    assert span.attributes.get("gen_ai.request.model") == (operation and "gpt-4o")


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"status": 200}, None),
        ({"status": 404, "code": "model_not_available", "source": "proxy"}, None),
        ({"status": 503, "code": "pool_no_usable_keys", "source": "proxy"}, "pool_no_usable_keys"),
        ({"status": 500}, "500"),
        ({"status": 499, "cut": True, "attempts": [attempt(101.0, 1.0, outcome="cancelled")]}, None),
        ({"cut": True, "attempts": [attempt(101.0, 1.0, outcome="network", reason="reset")]}, "reset"),
    ],
)
def test_an_error_is_what_is_not_the_clients_doing(members, error):
    span = whole(ended(**members))
    assert (span.failed, span.attributes.get("error.type")) == (error is not None, error)


def test_names_that_others_chose_are_masked_and_bounded():
    record = ended(model=SECRET, attempts=[attempt(101.0, 1.0, outcome="request", reason=f"{SECRET}!" + "x" * 500)])
    for span in maker().spans(record, TRACE):
        text = repr((span.name, span.attributes))
        assert SECRET not in text
        assert all(len(value) <= 128 for value in span.attributes.values() if isinstance(value, str))


def test_an_unknown_method_is_no_name():
    span = whole(ended(method="BREW", path=""))
    assert (span.name, span.attributes["http.request.method"]) == ("_OTHER", "_OTHER")


moments = st.floats(0, 50)


@given(st.lists(st.tuples(moments, moments, moments), max_size=200), moments, st.booleans(), st.sampled_from([0, 3.0]))
def test_every_span_but_one_has_its_parent_among_them_and_none_ends_before_it_begins(steps, last_s, cut, first_after):
    """Whatever a record says: each step has a wait, a pause and a call."""
    record, at, waited = ended(cut=cut), 100.0, 0.0
    for wait_s, pause_s, call_s in steps:
        waited += wait_s
        record.attempts.append(attempt(at + wait_s, call_s, waited_s=waited, asked=at))
        record.asked, at = at, at + wait_s + call_s + pause_s
    record.queued_s, record.ended = waited, at + last_s
    record.first_byte = 100.0 + first_after if first_after else None
    spans = maker().spans(record, TRACE)
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans) <= 3 * 128 + 4
    assert [span.parent_id for span in spans if span.parent_id not in ids] == [TRACE.parent_id]
    assert all(span.start_ns <= span.end_ns for span in spans)
    assert all(value for span in spans for name, value in span.attributes.items() if isinstance(value, str))
