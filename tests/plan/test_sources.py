"""Demand is read from logs of ours, LiteLLM's and gpt-load's, from the ring and from usage; what is missing is said."""

from __future__ import annotations

import gzip
import json
import random
import sqlite3
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.cli import plan_database
from quotapool.domain.request_record import AskedFor
from quotapool.domain.wallet import PICO
from quotapool.money.spend_store import Entry, SpendBatch, SpendStore, new_batch_id
from quotapool.observe.kept_request import KeptAttempt, KeptRequest
from quotapool.plan.demand import UNSEEN, Demand
from quotapool.plan.sources import log_lines, ring
from quotapool.plan.sources.files import read_file
from quotapool.plan.sources.record import Collector, Known, SourceError, moment_of
from quotapool.plan.sources.rollups import read_usage, slots_of
from quotapool.plan.sources.samples import Samples
from quotapool.store.store import connect

AT = 1_795_000_000.0  # 2026-11-18 11:06:40 UTC
HASH = "ab" * 32
KNOWN = Known(
    group_of=lambda model: model.removesuffix("-2024-08-06"),
    patience_of=lambda client: 30.0 if client != "hasty" else 5.0,
    client_by_hash={HASH: "app"},
    price=lambda _model, prompt, _cached, completion: 1000 * (prompt + completion),
)
EVER = datetime.fromtimestamp(0, UTC)


def read(path, *, tokens=None, **options) -> list[Demand]:
    return read_file(str(path), KNOWN, Collector(**options), tokens=tokens, progress=lambda *_: None).demand


def record(path, *, tokens=None, **options):
    return read_file(str(path), KNOWN, Collector(**options), tokens=tokens, progress=lambda *_: None)


# ---- our own log


def line(**changed) -> dict:
    """A request that came at AT and took 2 s, 1.5 s of them upstream."""
    fields = {
        "ts": "2026-11-18T11:06:42Z",
        "level": "info",
        "event": "request",
        "request_id": "qp_1",
        "client": "app",
        "endpoint": "chat",
        "model": "gpt-4o",
        "status": 200,
        "attempts": [{"key": "alpha", "outcome": "ok", "wait_ms": 500.0, "status": 200, "ms": 1500.0}],
        "tokens": {"prompt": 100, "completion": 50, "certainty": "exact"},
        "queue_ms": 500.0,
        "ttfb_ms": 230.0,
        "total_ms": 2000.0,
        "overhead_ms": 0.4,
        "source": "upstream",
        "asked_for": {"tokens": 900, "max_wait_s": 30.0},
        "usd": 0.001,
    }
    return {**fields, **changed}


def write_lines(path, *lines: dict | str) -> None:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines))


def test_a_line_of_our_log_is_one_request_as_it_came_and_what_it_used(tmp_path):
    write_lines(tmp_path / "log", line())
    (one,) = read(tmp_path / "log")
    assert one == Demand(AT, "app", "gpt-4o", "", 900, 150, 0, 1.5, PICO // 1000)


@pytest.mark.parametrize(
    ("changed", "tokens", "reserved"),
    [
        ({"tokens": {"prompt": 10, "completion": 5, "certainty": "at_least"}}, 900, 900),  # the rest was not seen
        ({"tokens": {"prompt": 900, "completion": 50, "certainty": "at_least"}}, 950, 900),
        ({"status": 400, "tokens": {"prompt": 0, "completion": 0, "certainty": "nothing"}}, 0, 900),  # its own mistake
        ({"status": 429, "tokens": {"prompt": 0, "completion": 0, "certainty": "nothing"}}, UNSEEN, 900),
        ({"status": 503, "source": "proxy", "tokens": None, "attempts": [], "code": "queue_full"}, UNSEEN, 900),
    ],
)
def test_what_is_known_of_its_use_depends_on_how_it_ended(tmp_path, changed, tokens, reserved):
    write_lines(tmp_path / "log", line(**changed))
    (one,) = read(tmp_path / "log")
    assert (one.tokens, one.reserved) == (tokens, reserved)


def test_what_a_request_said_of_itself_is_asked_again_and_what_its_client_says_may_be_changed(tmp_path):
    asked = {"tokens": 0, "max_wait_s": 4.0, "group": "gpt-4o", "images": 2, "priority": -1, "only": "acme"}
    hasty = line(client="hasty", asked_for={"tokens": 900, "max_wait_s": 5.0})  # its client's own patience
    write_lines(tmp_path / "log", line(model="gpt-4o-2024-08-06", asked_for=asked), hasty)
    special, plain = read(tmp_path / "log")
    assert (special.group, special.images, special.priority, special.patience_s, special.only) == (
        *("gpt-4o", 2, -1, 4.0, "acme"),
    )
    assert plain.patience_s is None


def test_refusals_and_waits_are_what_happened(tmp_path):
    refused = line(status=429, code="queue_full", source="proxy", attempts=[], tokens=None)
    write_lines(tmp_path / "log", line(), line(queue_ms=0.0), refused)
    happened = record(tmp_path / "log").happened
    assert happened.refused == {"queue_full": 1}
    assert list(happened.waits_s) == [0.5, 0.0]
    assert happened.pico == 2 * PICO // 1000


def test_other_lines_are_passed_over_and_prefixes_of_container_engines_too(tmp_path):
    write_lines(
        tmp_path / "log",
        json.dumps({"event": "key is removed", "level": "warning"}),
        "a line of somebody else",
        f"proxy-1  | {json.dumps(line())}",
        json.dumps(line(source="cache", asked_for=None, attempts=[])),
        json.dumps(line(status=401, code="invalid_proxy_key", asked_for=None, attempts=[], tokens=None)),
        json.dumps(line(endpoint="files", model="", asked_for=None, tokens=None)),
        json.dumps(line(ts="when?")),
    )
    found = record(tmp_path / "log")
    assert len(found.demand) == 1
    assert found.left_out == {
        "answered by the cache": 1,
        "refused before they asked for room, or in need of none": 2,
        "unreadable": 1,
    }


def test_an_older_versions_line_counts_by_what_it_used_and_that_is_said(tmp_path):
    older = line()
    del older["asked_for"], older["usd"]
    write_lines(tmp_path / "log", older)
    found = record(tmp_path / "log")
    (one,) = found.demand
    assert (one.reserved, one.tokens, one.pico) == (150, 150, 150_000)  # at 1000 a token
    assert ring.OLD in found.assumed


def test_names_are_shown_without_control_characters_and_without_secrets(tmp_path):
    secret = "sk-proj-0123456789abcdefghijklmnopqrstuv"
    write_lines(tmp_path / "log", line(model=secret, client="app\x1b[31m"))
    (one,) = read(tmp_path / "log")
    assert "0123456789" not in one.model + one.group
    assert one.client == "app[31m"


def test_gzip_standard_input_and_a_long_line_are_read(tmp_path, monkeypatch):
    text = "".join(f"{json.dumps(line(client=f'c{n}'))}\n" for n in range(1000)).encode()
    (tmp_path / "log.gz").write_bytes(gzip.compress(text))
    assert len(read(tmp_path / "log.gz")) == 1000
    with (tmp_path / "log.gz").open("rb") as packed, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", type("In", (), {"buffer": packed}))
        assert len(read("-")) == 1000
    (tmp_path / "cut.gz").write_bytes(gzip.compress(text)[:-300])
    with pytest.raises(SourceError, match=r"cut\.gz: it is damaged, or not complete"):
        read(tmp_path / "cut.gz")
    long = json.dumps(line()) + " " * (9 * 2**20)
    write_lines(tmp_path / "long", line(), long, line())
    found = record(tmp_path / "long")
    assert (len(found.demand), found.left_out) == (2, {"longer than 8 MiB": 1})


def test_a_damaged_archive_an_empty_file_and_a_directory_are_told_by_the_name_that_was_typed(tmp_path):
    packed = gzip.compress(json.dumps(line()).encode() * 1000)
    (tmp_path / "damaged.gz").write_bytes(packed[:20] + b"\xff" * 300)
    (tmp_path / "empty").touch()
    for name, why in (
        ("damaged.gz", ": it is damaged, or not complete"),
        ("empty", " is empty"),
        ("", ": Is a directory"),
        ("none", ": No such file or directory"),
    ):
        with pytest.raises(SourceError) as refused:
            read(tmp_path / name)
        assert str(refused.value) == f"{tmp_path / name}{why}"
    with pytest.raises(SourceError, match="File name too long"):
        plan_database.is_database("x" * 5000)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_logs_in_other_encodings_are_read(tmp_path, encoding):
    ours = "\r\n".join(json.dumps(line(client=f"müller-{n}"), ensure_ascii=False) for n in range(500))
    (tmp_path / "ours").write_bytes(ours.encode(encoding))
    assert {one.client for one in read(tmp_path / "ours")} == {f"müller-{n}" for n in range(500)}
    (tmp_path / "theirs").write_bytes(json.dumps(spend_log()).encode(encoding))
    assert read(tmp_path / "theirs") == [FROM_LITELLM]
    table = f"id,timestamp,model,status_code,duration_ms\n1,{AT + 1.5},gpt-4o,200,1500\n"
    (tmp_path / "table").write_bytes(table.encode(encoding))
    assert [one.at for one in read(tmp_path / "table", tokens=5)] == [AT]


HUGE = 10**400  # beyond a float


@pytest.mark.parametrize(
    "changed",
    [
        {"ts": "1970-01-01T00:00:01Z"},
        {"ts": "2099-01-01T00:00:01Z"},
        {"ts": "9999-12-31T23:59:59Z"},
        {"total_ms": 1e300},
        {"queue_ms": -1000.0},
        {"queue_ms": 1e300},
        {"usd": 1e308},
        {"usd": -1.0},
        {"tokens": {"prompt": HUGE, "completion": 0, "certainty": "exact"}},
        {"tokens": {"prompt": -1, "completion": 0, "certainty": "exact"}},
        {"attempts": [{"ms": 1e300}]},
        {"attempts": [{"ms": -5.0}]},
        *({"asked_for": {"tokens": 1, "max_wait_s": 9.0} | more} for more in ({"tokens": HUGE}, {"images": HUGE})),
        *({"asked_for": {"tokens": 1, "max_wait_s": 9.0} | more} for more in ({"priority": HUGE}, {"max_wait_s": -1})),
    ],
)
def test_a_line_that_no_request_has_is_left_out_and_the_others_are_read(tmp_path, changed):
    write_lines(tmp_path / "log", line(), line(**changed), line())
    found = record(tmp_path / "log", now=AT)
    assert [one.at for one in found.demand] == [AT, AT]
    assert sum(found.left_out.values()) == 1


def test_rows_of_other_programs_with_numbers_out_of_range_end_in_no_error(tmp_path):
    odd = (HUGE, -HUGE, 1e300, -1e300, [[1]], {"a": 1}, True, "NaN", "9" * 400)
    for make in (spend_log, logged_1, logged_2):
        rows = [make(**{name: value}) for name in make() for value in odd]
        write_lines(tmp_path / "log", make(), *rows)
        found = record(tmp_path / "log", tokens=100, now=AT + 60)
        assert len(found.demand) + sum(found.left_out.values()) == len(rows) + 1


def test_json_that_is_nested_too_deeply_is_unreadable(tmp_path):
    deep = "[" * 5000 + "]" * 5000
    write_lines(tmp_path / "ours", line(), json.dumps(line())[:-1] + f',"x":{deep}}}')
    assert record(tmp_path / "ours").left_out == {"unreadable": 1}
    write_lines(
        tmp_path / "theirs", spend_log(metadata=f'{{"x":{deep}}}'), json.dumps(spend_log())[:-1] + f',"x":{deep}}}'
    )
    found = record(tmp_path / "theirs")
    assert (len(found.demand), found.left_out) == (1, {"unreadable": 1})
    (tmp_path / "document").write_text(deep)
    with pytest.raises(SourceError, match="is no valid JSON"):
        read(tmp_path / "document")


def test_codes_of_refusals_are_shown_without_control_characters(tmp_path):
    write_lines(tmp_path / "log", line(status=503, source="proxy", tokens=None, code="\x1b[31mbad"))
    assert record(tmp_path / "log").happened.refused == {"[31mbad": 1}


def test_only_the_last_requests_of_a_span_are_kept_in_order_of_time(tmp_path):
    lines = [line(ts=f"2026-11-18T11:06:{second:02d}Z") for second in (42, 12, 52, 22, 32)]
    write_lines(tmp_path / "log", *lines)
    assert [one.at - AT for one in read(tmp_path / "log")] == [-30, -20, -10, 0, 10]
    assert [one.at - AT for one in read(tmp_path / "log", since=AT - 20, until=AT + 10)] == [-20, -10, 0]
    found = record(tmp_path / "log", most=2)
    assert [one.at - AT for one in found.demand] == [-20, -10]  # the last ones in the file
    assert found.left_out == {"before the last 2 that are replayed": 3}


@given(st.binary(max_size=2000))
def test_whatever_a_file_holds_is_read_or_refused_in_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    with pytest.raises(SourceError) as refused:
        read(path)
    assert "\n" not in str(refused.value)


@given(st.dictionaries(st.sampled_from([*line(), "prompt_tokens", "startTime"]), st.none() | st.text() | st.integers()))
def test_a_line_with_anything_in_its_fields_is_taken_or_left_out(fields):
    into = Collector()
    log_lines.take(json.dumps({"event": "request", **fields} | {"event": "request"}).encode(), KNOWN, into)
    assert into.taken + into.left_out.total() == 1


# ---- LiteLLM


def spend_log(**changed) -> dict:
    fields = {
        "request_id": "chatcmpl-1",
        "call_type": "acompletion",
        "api_key": HASH,
        "spend": 0.002,
        "total_tokens": 150,
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "startTime": "2026-11-18T11:06:40Z",
        "endTime": "2026-11-18T11:06:41.500Z",
        "model": "gpt-4o-2024-08-06",
        "model_group": "gpt-4o",
        "custom_llm_provider": "openai",
        "cache_hit": "False",
        "status": "success",
        "metadata": {"user_api_key_alias": "the app"},
        "messages": {},
    }
    return {**fields, **changed}


FROM_LITELLM = Demand(AT, "app", "gpt-4o", "", 100, 150, 0, 1.5, 2 * PICO // 1000)


@pytest.mark.parametrize(
    "document",
    [
        lambda row: json.dumps([row]),  # /spend/logs
        lambda row: json.dumps({"data": [row], "total": 1, "page": 1, "page_size": 50, "total_pages": 1}, indent=2),
        lambda row: json.dumps(row) + "\n",
        lambda row: json.dumps({"standard_logging_object": row}) + "\n",
    ],
    ids=["spend/logs", "spend/logs/v2", "lines", "payload"],
)
def test_a_spend_log_of_litellm_is_read_in_every_form(tmp_path, document):
    (tmp_path / "spend.json").write_text(document(spend_log()))
    found = record(tmp_path / "spend.json")
    assert found.demand == [FROM_LITELLM]
    assert any(one.startswith("LiteLLM does not record the largest output") for one in found.assumed)
    assert found.happened.waits_s is None


def test_a_csv_of_the_table_is_read_too(tmp_path):
    names = list(spend_log())
    cells = [value if isinstance(value, str) else json.dumps(value) for value in spend_log().values()]
    quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    (tmp_path / "spend.csv").write_text(f"{','.join(names)}\n{quoted}\n")
    assert read(tmp_path / "spend.csv") == [FROM_LITELLM]


def test_a_standard_logging_payload_has_times_in_seconds_and_the_largest_output(tmp_path):
    payload = spend_log(
        startTime=AT, endTime=AT + 1.5, response_cost=0.002, model_parameters={"max_tokens": 400, "n": 2}, metadata={}
    )
    del payload["spend"], payload["api_key"]
    write_lines(tmp_path / "log", payload)
    (one,) = read(tmp_path / "log")
    assert (one.at, one.reserved, one.client, one.pico) == (AT, 800, "", 2 * PICO // 1000)


@pytest.mark.parametrize(
    ("changed", "tokens", "code"),
    [
        ({"metadata": {"error_information": {"error_code": "429"}}}, UNSEEN, "rate_limit_exceeded"),
        ({"metadata": json.dumps({"error_information": {"error_code": "503"}})}, UNSEEN, "503"),
        ({"error_information": {"error_code": "400"}}, 0, None),
        ({}, UNSEEN, "500"),
    ],
)
def test_a_failure_was_refused_or_its_clients_own_mistake(tmp_path, changed, tokens, code):
    write_lines(tmp_path / "log", spend_log(status="failure", **changed))
    found = record(tmp_path / "log")
    assert [one.tokens for one in found.demand] == [tokens]
    assert list(found.happened.refused) == ([] if code is None else [code])


def test_keys_become_clients_that_moved_over_or_aliases_or_beginnings_of_hashes_never_secrets(tmp_path):
    secret = "sk-litellm-0123456789abcdef"
    write_lines(
        tmp_path / "log",
        spend_log(),
        spend_log(api_key="cd" * 32),
        spend_log(api_key="cd" * 32, metadata={}),
        spend_log(api_key=secret, metadata={}),
        spend_log(api_key="", metadata={}),
    )
    clients = [one.client for one in read(tmp_path / "log")]
    assert clients[:3] == ["app", "the app", "litellm-cdcdcdcd"]
    assert clients[4] == ""
    assert clients[3].startswith("litellm-")
    assert "0123456789" not in clients[3]


def test_what_this_pool_would_not_serve_is_left_out(tmp_path):
    write_lines(
        tmp_path / "log",
        spend_log(),
        spend_log(custom_llm_provider="anthropic", model_group="claude-sonnet-5"),
        spend_log(cache_hit="True"),
        spend_log(startTime=None),
    )
    assert record(tmp_path / "log").left_out == {
        "of vendors that this pool does not serve": 1,
        "answered by the cache": 1,
        "without a time or a model": 1,
    }


# ---- gpt-load


def logged_1(**changed) -> dict:
    """As gpt-load 1.x writes it when a request has ended."""
    fields = {
        "id": "5c0b",
        "timestamp": "2026-11-18 19:06:41.500000000+08:00",
        "group_id": 1,
        "group_name": "openai",
        "key_value": "sealed",
        "model": "gpt-4o",
        "is_success": 1,
        "status_code": 200,
        "request_path": "/proxy/openai/v1/chat/completions",
        "duration_ms": 1500,
        "request_type": "final",
        "request_body": "",
    }
    return {**fields, **changed}


def logged_2(**changed) -> dict:
    """As gpt-load 2 does."""
    fields = {
        "id": "5c0b",
        "completed_at_ms": int((AT + 1.5) * 1000),
        "access_key_id": 7,
        "protocol": "openai",
        "client_model": "gpt-4o",
        "upstream_model": "gpt-4o-2024-08-06",
        "status": "success",
        "status_code": 200,
        "duration_ms": 1500,
        "uncached_input_tokens": 60,
        "cache_read_tokens": 40,
        "cache_write_5m_tokens": 0,
        "cache_write_1h_tokens": 0,
        "cache_write_unknown_tokens": 0,
        "output_tokens": 50,
        "estimated_cost_nano_usd": 2_000_000,
    }
    return {**fields, **changed}


def database(path, table: str, row: dict, **others: dict):
    with sqlite3.connect(path) as made:
        for name, values in {table: row, **others}.items():
            made.execute(f'CREATE TABLE "{name}" ({", ".join(f"{column}" for column in values)})')
            made.execute(f'INSERT INTO "{name}" VALUES ({", ".join("?" * len(values))})', list(values.values()))
    return path


def read_database(path, *, tokens=None, since=EVER):
    assert plan_database.is_database(str(path))
    return plan_database.read(str(path), KNOWN, Collector(), tokens=tokens, since=since, progress=lambda *_: None)


def test_gpt_loads_record_has_no_tokens_so_it_has_to_be_said_how_many(tmp_path):
    write_lines(tmp_path / "log", logged_1())
    with pytest.raises(SourceError, match="say how many tokens a request uses with --tokens 1500"):
        read(tmp_path / "log")
    expected = Demand(AT, "openai", "gpt-4o", "", 1500, 1500, 0, 1.5, 1_500_000)
    found = record(tmp_path / "log", tokens=1500)
    assert found.demand == [expected]
    assert "gpt-load 1.x records no tokens: each request is taken to use 1,500 (--tokens)" in found.assumed
    assert read_database(database(tmp_path / "gpt-load.db", "request_logs", logged_1()), tokens=1500).demand == [
        expected
    ]


def test_where_bodies_are_recorded_they_say_what_a_request_reserves(tmp_path):
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 700})
    write_lines(tmp_path / "log", logged_1(request_body=body), logged_1(request_body=body))
    assert [(one.reserved, one.tokens) for one in read(tmp_path / "log")] == [(700, 700)] * 2
    assert [(one.reserved, one.tokens) for one in read(tmp_path / "log", tokens=120)] == [(700, 120)] * 2


def test_attempts_that_another_followed_are_no_requests_and_refusals_are_unseen(tmp_path):
    write_lines(
        tmp_path / "log",
        logged_1(request_type="retry", is_success=0, status_code=429),
        logged_1(is_success=0, status_code=429),
        logged_1(is_success=0, status_code=400),
        logged_1(is_success="f", status_code=502),
        logged_1(parent_group_name="everybody"),
    )
    found = record(tmp_path / "log", tokens=100)
    assert [one.tokens for one in found.demand] == [UNSEEN, 0, UNSEEN, 100]
    assert found.demand[3].client == "everybody"
    assert found.happened.refused == {"rate_limit_exceeded": 1, "502": 1}


def test_the_record_of_gpt_load_2_has_everything_but_the_largest_output(tmp_path):
    write_lines(tmp_path / "log", logged_2())
    expected = Demand(AT, "gpt-load-7", "gpt-4o", "", 100, 150, 0, 1.5, 2 * PICO // 1000)
    assert read(tmp_path / "log") == [expected]
    path = database(tmp_path / "v2.db", "request_logs", logged_2(), access_keys={"id": 7, "name": "search"})
    assert read_database(path).demand == [msgspec.structs.replace(expected, client="search")]
    with pytest.raises(SourceError, match="has no request to replay"):
        read_database(path, since=datetime.fromtimestamp(AT + 60, UTC))
    (tmp_path / "api.json").write_text(json.dumps({"code": 0, "data": {"items": [logged_2()], "pagination": {}}}))
    assert read(tmp_path / "api.json") == [expected]


def test_the_export_of_gpt_loads_page_is_told_apart(tmp_path):
    (tmp_path / "logs.csv").write_text("key_value,group_name,status_code\nsk-1,openai,200\n")
    with pytest.raises(SourceError, match="neither times nor models"):
        read(tmp_path / "logs.csv")


def test_litellms_table_is_read_from_a_database(tmp_path):
    row = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in spend_log().items()}
    path = database(tmp_path / "litellm.db", "LiteLLM_SpendLogs", row)
    assert read_database(path).demand == [FROM_LITELLM]
    other = database(tmp_path / "other.db", "users", {"id": 1})
    with pytest.raises(SourceError, match="has neither the table LiteLLM_SpendLogs of LiteLLM nor request_logs"):
        read_database(other)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (AT, AT),
        (AT * 1000, AT),
        ("1795000000", AT),
        ("2026-11-18T11:06:40Z", AT),
        ("2026-11-18 11:06:40", AT),
        ("2026-11-18 19:06:40.000000000+08:00", AT),
        (datetime(2026, 11, 18, 11, 6, 40), AT),  # noqa: DTZ001 - as drivers give them
        ("soon", None),
        (None, None),
        (True, None),
        (-5, None),
    ],
)
def test_times_are_read_as_programs_write_them(given, seconds):
    assert moment_of(given) == seconds


# ---- the ring


def kept(**changed) -> KeptRequest:
    fields = {
        "id": "qp_1",
        "at": AT,
        "client": "anonymous",
        "endpoint": "chat",
        "model": "gpt-4o",
        "status": 200,
        "code": "",
        "rules": (),
        "streamed": False,
        "cut": False,
        "source": "upstream",
        "attempts": (KeptAttempt("beta", "acme", "ok", "", 200, 0, 1_500_000, "req_2"),),
        "waited_for": None,
        "queued_us": 250_000,
        "first_byte_us": None,
        "total_us": 2_000_000,
        "overhead_us": 400,
        "prompt": 100,
        "cached": 0,
        "completion": 50,
        "certainty": "exact",
        "pico": 7,
        "asked_for": AskedFor("", 900, max_wait_s=30.0),
    }
    return KeptRequest(**{**fields, **changed})


def test_a_kept_request_is_the_same_demand_as_its_log_line():
    into = Collector()
    ring.take(kept(), KNOWN, into)
    refused = kept(status=429, code="rate_limit_exceeded", source="proxy", attempts=(), certainty="", pico=0)
    ring.take(refused, KNOWN, into)
    ring.take(kept(source="cache", asked_for=None), KNOWN, into)
    ring.take(kept(status=403, asked_for=None, attempts=()), KNOWN, into)
    found = into.record("The ring")
    served, unseen = found.demand
    assert served == Demand(AT, "", "gpt-4o", "", 900, 150, 0, 1.5, 7)
    assert (unseen.reserved, unseen.tokens, unseen.pico) == (900, UNSEEN, None)
    assert found.about == "The ring holds 2 requests of 0 seconds, until 2026-11-18 11:06 UTC"
    assert found.happened.refused == {"rate_limit_exceeded": 1}


# ---- usage


NOW = datetime(2026, 11, 18, 12, 30, tzinfo=UTC)
NO_SAMPLES = Samples((), random.Random(1))


@pytest.fixture
async def spend(valkey_url):
    connection = connect(valkey_url, timeout_s=2.0)
    yield SpendStore(connection, "test")
    await connection.close()


async def send(spend: SpendStore, at: datetime, *entries: Entry, refused: int = 0) -> None:
    batch = SpendBatch()
    for entry in entries:
        batch.add(entry, at)
    if refused:
        batch.refuse("app", "rate_limit_exceeded", refused, at)
        batch.refuse("app", "invalid_json", 3, at)
    await spend.send(batch, new_batch_id())


def used(client: str, requests: int) -> Entry:
    """Of each, a prompt of 100 tokens and 50 of an answer, for 1000 picodollars a token."""
    tokens = {"prompt": 100 * requests, "completion": 50 * requests}
    return Entry("acme", "key-1", "gpt-4o", client, "exact", 150_000 * requests, requests, **tokens)


async def read_from(spend, samples=NO_SAMPLES, *, since=timedelta(hours=2), most=1000):
    slots = slots_of(NOW - since, NOW, NOW)
    return await read_usage(spend, slots, KNOWN, samples, Collector(), most=most, seed=1, progress=lambda *_: None)


async def test_usage_becomes_as_many_requests_that_used_as_much_in_their_minutes(spend):
    await send(spend, NOW - timedelta(minutes=50), used("app", 30), refused=5)
    await send(spend, NOW - timedelta(minutes=10), used("web", 8))
    found = await read_from(spend)
    by_client = {name: [one for one in found.demand if one.client == name] for name in ("app", "web")}
    seen = [one for one in by_client["app"] if one.is_seen]
    assert (len(seen), len(by_client["app"]), len(by_client["web"])) == (30, 35, 8)
    assert sum(one.tokens for one in seen) == pytest.approx(4500, abs=30)  # each is rounded
    assert sum(one.pico for one in seen) == pytest.approx(4_500_000, abs=30)
    begin = (NOW - timedelta(minutes=50)).timestamp()
    assert all(begin <= one.at < begin + 60 for one in by_client["app"])
    assert {one.model for one in by_client["app"]} == {"gpt-4o"}
    assert found.happened.refused == {"rate_limit_exceeded": 5}
    assert found.left_out == {"refused before they asked for room": 3}
    assert any("evenly at random (Poisson)" in one for one in found.assumed)


async def test_sizes_and_bursts_are_those_of_the_ring_where_it_shows_them(spend):
    # Given a ring of 20 minutes in which all of a client's requests come in the first second of each minute, half of
    # them of 10 tokens and half of 290, each reserving the double
    seen = [
        Demand(AT + 60 * minute + number / 100, "app", "gpt-4o", "", 2 * size, size, 0, 3.0, 5)
        for minute in range(20)
        for number, size in enumerate((10, 290) * 10)
    ]
    samples = Samples(seen, random.Random(1))
    await send(spend, NOW - timedelta(minutes=50), used("app", 400))
    found = await read_from(spend, samples)
    # then those that are made come as close together, relative to when the ring begins ...
    assert len({int((one.at - found.since) // 1.5) for one in found.demand}) <= 2
    # ... and are as unlike, with the sum that usage has
    assert sum(one.tokens for one in found.demand) == pytest.approx(60_000, rel=0.01)
    small = [one for one in found.demand if one.tokens < 100]
    assert 150 < len(small) < 250
    assert all(one.reserved == pytest.approx(2 * one.tokens, abs=1) for one in found.demand)
    assert {one.took_s for one in found.demand} == {3.0}


async def test_what_is_more_than_may_be_replayed_is_left_out_from_the_oldest_on_and_said(spend):
    await send(spend, NOW - timedelta(minutes=50), used("app", 30))
    await send(spend, NOW - timedelta(minutes=10), used("app", 8))
    found = await read_from(spend, most=20)
    assert len(found.demand) == 8
    assert any("(--most)" in one for one in found.assumed)


async def test_days_that_only_hours_are_kept_of_are_spread_over_these_hours(spend):
    at = NOW - timedelta(days=5)
    await send(spend, at, used("app", 60))
    found = await read_from(spend, since=timedelta(days=6))
    hour = at.replace(minute=0).timestamp()
    assert len(found.demand) == 60
    assert all(hour <= one.at < hour + 3600 for one in found.demand)
    assert found.until - found.since > 1800  # and not in one minute of it
    with pytest.raises(SourceError, match="kept for 90 days"):
        slots_of(NOW - timedelta(days=100), NOW, NOW)
