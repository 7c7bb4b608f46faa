"""Demand is read from LiteLLM's and gpt-load's records; what they lack is said."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime

import msgspec
import pytest
from quotapool.cli import plan_database
from quotapool.domain.wallet import PICO
from quotapool.plan.demand import UNSEEN, Demand
from quotapool.plan.sources.record import Collector, SourceError

from tests.plan.records import AT, EVER, FROM_LITELLM, HUGE, KNOWN, read, record, spend_log, write_lines

# ---- LiteLLM


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


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_of_the_table_is_read_too_whichever_way_its_columns_are_separated(tmp_path, separator):
    names = list(spend_log())
    cells = [value if isinstance(value, str) else json.dumps(value) for value in spend_log().values()]
    quoted = separator.join('"' + cell.replace('"', '""') + '"' for cell in cells)
    (tmp_path / "spend.csv").write_text(f"{separator.join(names)}\n{quoted}\n")
    assert read(tmp_path / "spend.csv") == [FROM_LITELLM]


def test_a_csv_with_commas_in_its_numbers_has_the_same_numbers(tmp_path):
    row = spend_log()
    del row["metadata"]
    row["spend"] = f"{row['spend']:.6f}".replace(".", ",")
    (tmp_path / "spend.csv").write_text(";".join(row) + "\r\n" + ";".join(map(str, row.values())) + "\r\n")
    (found,) = read(tmp_path / "spend.csv")
    assert (found.pico, found.model) == (FROM_LITELLM.pico, FROM_LITELLM.model)


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


def test_rows_of_other_programs_with_numbers_out_of_range_end_in_no_error(tmp_path):
    odd = (HUGE, -HUGE, 1e300, -1e300, [[1]], {"a": 1}, True, "NaN", "9" * 400)
    for make in (spend_log, logged_1, logged_2):
        rows = [make(**{name: value}) for name in make() for value in odd]
        write_lines(tmp_path / "log", make(), *rows)
        found = record(tmp_path / "log", tokens=100, now=AT + 60)
        assert len(found.demand) + sum(found.left_out.values()) == len(rows) + 1
