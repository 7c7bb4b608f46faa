"""Demand is read from our own log, in whatever file it is; what is missing is said."""

from __future__ import annotations

import gzip
import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.cli import plan_database
from quotapool.domain.wallet import PICO
from quotapool.plan.demand import UNSEEN, Demand
from quotapool.plan.sources import log_lines, ring
from quotapool.plan.sources.record import Collector, SourceError, moment_of

from tests.plan.records import AT, FROM_LITELLM, HUGE, KNOWN, line, read, record, spend_log, write_lines


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


def test_blank_lines_without_an_end_are_not_read_for_ever(monkeypatch, tmp_path):
    monkeypatch.setattr("quotapool.plan.sources.files.MOST_BYTES", 1_000)
    (tmp_path / "log").write_text("\n" * 1_001)
    with pytest.raises(SourceError, match="is longer than"):
        record(tmp_path / "log")


def test_a_first_line_that_is_long_is_a_line_and_no_document(tmp_path):
    rows = [spend_log(messages="x" * 1_000_000), spend_log(), spend_log()]
    write_lines(tmp_path / "log", "", *map(json.dumps, rows))
    assert len(record(tmp_path / "log").demand) == 3


def test_json_that_is_nested_too_deeply_is_unreadable(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
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
