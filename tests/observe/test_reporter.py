"""What happened to a request becomes numbers and one line, and no series for what clients invent."""

from __future__ import annotations

import os

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import AskedFor, AttemptRecord, RequestRecord, Saved
from quotapool.domain.trace import Trace
from quotapool.domain.waited_for import WaitedFor
from quotapool.domain.wallet import PICO
from quotapool.observe.labels import Labels
from quotapool.observe.log_writer import LogWriter
from quotapool.observe.metrics import Metrics
from quotapool.observe.redaction import Redactor
from quotapool.observe.reporter import Reporter
from quotapool.observe.request_log import RequestLog


class Seen:
    """A reporter, and what it said."""

    def __init__(self, tmp_path):
        self.path = tmp_path / "log"
        self.writer = LogWriter(os.open(self.path, os.O_WRONLY | os.O_CREAT))
        self.registry = CollectorRegistry()
        self.labels = Labels(models=["gpt-4o"], clients=["team-a"], endpoints=["chat"])
        log = RequestLog(self.writer, Redactor())
        self.reporter = Reporter(Metrics(self.registry), self.labels, log)

    def lines(self):
        self.writer.flush()
        return [msgspec.json.decode(line) for line in self.path.read_bytes().splitlines()]

    def count(self, name, **labels):
        return self.registry.get_sample_value(f"quotapool_{name}", labels)


@pytest.fixture
def seen(tmp_path):
    made = Seen(tmp_path)
    yield made
    made.writer.close()


def a_record(**changed) -> RequestRecord:
    """Half a second in all: 0.1 s in line before the second attempt, 0.25 s upstream, so 0.15 s are ours."""
    refused = AttemptRecord("alpha", "acme", 0.0, "wait", status=429, took_s=0.05)
    served = AttemptRecord("beta", "acme", 0.1, "ok", status=200, took_s=0.2, usage=Usage(Certainty.EXACT, 221, 27))
    record = RequestRecord(
        "qp_1", 100.0, client="team-a", endpoint="chat", model="gpt-4o", status=200, source="upstream"
    )
    record.attempts, record.queued_s, record.upstream_s, record.first_byte, record.ended = (
        [refused, served],
        0.1,
        0.25,
        100.25,
        100.5,
    )
    for name, value in changed.items():
        setattr(record, name, value)
    return record


def test_a_request_is_one_line(seen):
    seen.reporter.ended(a_record())
    (line,) = seen.lines()
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": "qp_1",
        "client": "team-a",
        "endpoint": "chat",
        "model": "gpt-4o",
        "status": 200,
        "attempts": [
            {"key": "alpha", "outcome": "wait", "wait_ms": 0.0, "status": 429, "ms": 50.0},
            {"key": "beta", "outcome": "ok", "wait_ms": 100.0, "status": 200, "ms": 200.0},
        ],
        "tokens": {"prompt": 221, "completion": 27, "certainty": "exact"},
        "queue_ms": 100.0,
        "ttfb_ms": 250.0,
        "total_ms": 500.0,
        "overhead_ms": 150.0,
        "source": "upstream",
    }


def test_a_request_in_a_trace_is_told_to_it_and_its_line_names_its_span(seen):
    traced: list[RequestRecord] = []
    seen.reporter.traced = traced.append
    seen.reporter.ended(a_record())
    record = a_record(trace=Trace(0x4BF92F35, 0xF067, 1, 1, "", 0, goes_on=False))
    seen.reporter.ended(record)
    assert traced == [record]
    without, line = seen.lines()
    assert (line["trace_id"], line["span_id"]) == (f"{0x4BF92F35:032x}", "000000000000f067")
    assert "trace_id" not in without


def test_what_becomes_of_traces_is_counted_from_0(seen):
    assert seen.count("traced_requests_total", result="dropped") == 0
    seen.reporter.traces_counted("sent", 3)
    assert seen.count("traced_requests_total", result="sent") == 3


def test_the_line_has_what_was_asked_for_and_what_it_cost(seen):
    seen.reporter.ended(a_record(asked_for=AskedFor("", 900, max_wait_s=30.0), pico=1_915_000_000))
    pinned = AskedFor("sk-proj-0123456789abcdefghijklmnop", 0, 3, -1, 5.0, "acme")
    seen.reporter.ended(a_record(asked_for=pinned, pico=None))
    seen.reporter.ended(a_record(asked_for=AskedFor("", 900, max_wait_s=30.0), attempts=[], pico=0))
    first, second, refused = seen.lines()
    assert (first["asked_for"], first["usd"]) == ({"tokens": 900, "max_wait_s": 30.0}, 0.001915)
    assert "0123456789abcdef" not in second["asked_for"].pop("group")
    assert second["asked_for"] == {"tokens": 0, "max_wait_s": 5.0, "images": 3, "priority": -1, "only": "acme"}
    assert second["usd"] is None
    assert "usd" not in refused


def test_the_line_of_a_refusal_has_its_code(seen):
    seen.reporter.ended(a_record(status=429, code="queue_full", source="proxy", attempts=[]))
    (line,) = seen.lines()
    assert (line["status"], line["code"], line["attempts"]) == (429, "queue_full", [])


def test_the_line_names_what_a_request_waited_for_and_hides_what_looks_like_a_secret_in_it(seen):
    seen.reporter.ended(a_record(waited_for=WaitedFor("gpt-4o", "tpm", "acme")))
    seen.reporter.ended(a_record(waited_for=WaitedFor("sk-proj-0123456789abcdefghijklmnop", "tpm")))
    first, second = seen.lines()
    assert first["waited_for"] == "tpm of gpt-4o, account acme"
    assert "0123456789abcdef" not in second["waited_for"]


def test_a_request_counts_under_its_names(seen):
    seen.reporter.began()
    assert seen.count("requests_in_flight") == 1
    seen.reporter.ended(a_record())
    assert seen.count("requests_in_flight") == 0
    assert seen.count("requests_total", endpoint="chat", model="gpt-4o", status="200", client="team-a") == 1
    assert seen.count("request_duration_seconds_sum", endpoint="chat", model="gpt-4o") == 0.5
    assert seen.count("time_to_first_byte_seconds_sum", endpoint="chat", model="gpt-4o") == 0.25
    assert seen.count("proxy_overhead_seconds_sum", endpoint="chat") == pytest.approx(0.15)
    assert seen.count("queue_wait_seconds_sum") == pytest.approx(0.1)


def test_a_request_that_went_nowhere_has_no_times(seen):
    seen.reporter.ended(a_record(attempts=[], status=401, code="invalid_key", first_byte=None, queued_s=0.0))
    assert seen.count("refusals_total", reason="invalid_key") == 1
    assert seen.count("request_duration_seconds_count", endpoint="chat", model="gpt-4o") is None
    assert seen.count("queue_wait_seconds_count") == 0
    (line,) = seen.lines()
    assert (line["attempts"], line["tokens"], line["ttfb_ms"]) == ([], None, None)


def test_what_clients_invent_is_one_series_until_upstream_knows_it(seen):
    for n in range(50):
        seen.reporter.ended(a_record(model=f"made-up-{n}", endpoint="/etc", client="nobody"))
    assert seen.count("requests_total", endpoint="other", model="other", status="200", client="anonymous") == 50
    # When upstream serves one of them
    seen.reporter.served("made-up-7")
    seen.reporter.ended(a_record(model="made-up-7"))
    assert seen.count("requests_total", endpoint="chat", model="made-up-7", status="200", client="team-a") == 1
    # And when a reload takes a client away, its name goes from new counts
    seen.labels.configure(models=["gpt-4o"], clients=[])
    seen.reporter.ended(a_record())
    assert seen.count("requests_total", endpoint="chat", model="gpt-4o", status="200", client="anonymous") == 1


def test_only_what_the_proxy_refused_is_counted_as_refused(seen):
    refused = []
    seen.reporter.refused = lambda record: refused.append((record.client, record.code, record.rules))
    seen.reporter.ended(a_record())
    seen.reporter.ended(a_record(status=429))  # upstream's word
    seen.reporter.ended(a_record(status=429, code="queue_full", rules=("rpm",), attempts=[]))
    assert refused == [("team-a", "queue_full", ("rpm",))]


def test_an_attempt_is_priced_if_upstream_did_work(seen):
    priced = []
    seen.reporter.spend = lambda attempt, record: priced.append((attempt.key, record.id))
    record = a_record()
    refused, served = record.attempts
    refused.usage = Usage(Certainty.NOTHING)
    for attempt in (refused, served):
        seen.reporter.attempted(attempt, record)
    assert priced == [("beta", "qp_1")]
    assert seen.count("upstream_attempts_total", key="alpha", model="gpt-4o", outcome="wait") == 1
    assert seen.count("upstream_attempts_total", key="beta", model="gpt-4o", outcome="ok") == 1
    assert seen.count("tokens_total", key="beta", model="gpt-4o", kind="prompt") == 221
    assert seen.count("tokens_total", key="alpha", model="gpt-4o", kind="prompt") is None
    assert seen.count("settled_tokens_total", certainty="exact") == 248


# ---- the cache


def a_hit(**changed) -> RequestRecord:
    saved = Saved(1, 221, 27, 3 * PICO // 1000)
    record = a_record(attempts=[], queued_s=0.0, source="cache", cache="hit", saved=saved)
    for name, value in changed.items():
        setattr(record, name, value)
    return record


def test_what_the_cache_did_and_saved_is_counted_by_model(seen):
    for _ in range(3):
        seen.reporter.ended(a_hit())
    seen.reporter.ended(a_hit(cache="coalesced", saved=Saved(1, 10, 1, PICO)))
    seen.reporter.ended(a_record(cache="miss"))
    assert [seen.count("cache_requests_total", result=one) for one in ("hit", "coalesced", "miss", "bypass")] == [
        *(3, 1, 1, 0)
    ]
    assert seen.count("cache_saved_requests_total", model="gpt-4o") == 4
    assert seen.count("cache_saved_tokens_total", model="gpt-4o", kind="prompt") == 3 * 221 + 10
    assert seen.count("cache_saved_tokens_total", model="gpt-4o", kind="completion") == 3 * 27 + 1
    assert seen.count("cache_saved_usd_total", model="gpt-4o") == pytest.approx(1.009)


def test_requests_that_the_cache_is_not_for_are_none_of_its_metrics(seen):
    seen.reporter.ended(a_record())
    assert seen.count("cache_requests_total", result="miss") == 0
    (line,) = seen.lines()
    assert not {"cache", "kept", "saved"} & line.keys()


def test_why_an_answer_is_not_kept_is_counted_beside_what_the_cache_did(seen):
    seen.reporter.ended(a_record(cache="miss", kept="tools"))
    seen.reporter.ended(a_record(cache="bypass", kept="query"))
    seen.reporter.ended(a_record(cache="miss"))
    assert seen.count("cache_not_kept_total", result="miss", reason="tools") == 1
    assert seen.count("cache_not_kept_total", result="bypass", reason="query") == 1


def test_a_model_without_a_known_price_saves_calls_and_tokens_but_no_dollars(seen):
    seen.reporter.ended(a_hit(saved=Saved(1, 5, 0, None)))
    assert seen.count("cache_saved_requests_total", model="gpt-4o") == 1
    assert seen.count("cache_saved_usd_total", model="gpt-4o") is None


def test_a_model_that_is_in_the_cache_exists_also_for_a_worker_that_never_saw_it_answered(seen):
    seen.reporter.ended(a_hit(model="gpt-new"))
    assert seen.count("cache_saved_requests_total", model="gpt-new") == 1
    assert seen.count("requests_total", endpoint="chat", model="gpt-new", status="200", client="team-a") == 1
    # A miss tells nothing of the kind: any caller can invent a model.
    seen.reporter.ended(a_record(model="invented", attempts=[], cache="miss", status=404))
    assert seen.count("requests_total", endpoint="chat", model="other", status="404", client="team-a") == 1


def test_an_error_that_was_shared_saves_nothing_and_proves_no_model(seen):
    seen.reporter.ended(a_hit(cache="coalesced", model="invented", status=404, saved=Saved()))
    assert seen.count("cache_requests_total", result="coalesced") == 1
    assert seen.count("cache_saved_requests_total", model="invented") is None
    assert seen.count("requests_total", endpoint="chat", model="other", status="404", client="team-a") == 1


def test_a_hit_has_no_times_since_it_did_not_go_upstream(seen):
    seen.reporter.ended(a_hit())
    assert seen.count("request_duration_seconds_count", endpoint="chat", model="gpt-4o") is None
    assert seen.count("time_to_first_byte_seconds_count", endpoint="chat", model="gpt-4o") is None


def test_the_line_of_a_hit_has_what_it_saved_and_that_of_a_miss_why_it_is_not_kept(seen):
    seen.reporter.ended(a_hit())
    seen.reporter.ended(a_hit(cache="miss", source="upstream", saved=None, kept="too_large"))
    seen.reporter.ended(a_hit(saved=Saved(1, 5, 0, None)))
    hit, miss, unpriced = seen.lines()
    assert (hit["source"], hit["cache"], "kept" in hit) == ("cache", "hit", False)
    assert hit["saved"] == {"requests": 1, "prompt": 221, "completion": 27, "usd": 0.003}
    assert (miss["cache"], miss["kept"], "saved" in miss) == ("miss", "too_large", False)
    assert unpriced["saved"]["usd"] is None


def test_what_the_cache_did_is_told_to_who_keeps_savings_once_a_request(seen):
    told = []
    seen.reporter.cached = told.append
    hit, plain = a_hit(), a_record()
    for record in (hit, plain):
        seen.reporter.ended(record)
    assert told == [hit]


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        *[("timeout", "timeout"), ("closed", "connection"), ("script", "script"), ("out_of_memory", "full")],
        *[("no_room", "full"), ("busy", "dropped"), ("damaged", "damaged"), ("x" * 99, "other")],
    ],
)
def test_failures_of_the_cache_are_counted_by_a_few_words(seen, why, reason):
    assert seen.count("cache_failures_total", reason=reason) == 0
    seen.reporter.cache_failed(why)
    assert seen.count("cache_failures_total", reason=reason) == 1


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("timeout", "timeout"),
        ("closed", "connection"),
        ("out_of_memory", "full"),
        ("disk", "disk"),
        ("read_only", "read_only"),
        ("cluster_down", "cluster"),
        ("replicas", "cluster"),
        ("login", "rights"),
        ("permission", "rights"),
        ("loading", "other"),
    ],
)
def test_how_the_store_fails_is_told_by_what_an_operator_has_to_do(seen, reason, kind):
    seen.reporter.store_failed(reason)
    assert seen.count("store_errors_total", kind=kind) == 1
