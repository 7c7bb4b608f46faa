"""Reports of usage from a real Valkey: who burned the tokens at three."""

from __future__ import annotations

import csv
import io
import json
from contextlib import redirect_stdout
from datetime import UTC, datetime

import pytest
from quotapool.cli.usage import _show, _write_csv
from quotapool.domain.wallet import PICO
from quotapool.money.question import BadQuestionError, question
from quotapool.money.spend_store import PROBES, Entry, SpendBatch, SpendStore, new_batch_id
from quotapool.money.usage_report import NOT_SEEN, document, report

from tests.fakes.connect import connect

NOW = datetime(2026, 11, 22, 17, 23, 45, tzinfo=UTC)


@pytest.fixture
async def spend(valkey_url):
    store = connect(valkey_url)
    yield SpendStore(store, "test")
    await store.close()


async def use(spend, at, client, model="gpt-5.5", key="k1", *, pico=1000, tokens=100, kind="exact"):
    entry = Entry(f"of-{key}", key, model, client, kind, pico, 1, tokens, 0, 10)
    await spend.add([entry], at=datetime.fromisoformat(f"2026-11-{at}+00:00"))


async def refuse(spend, at, client, why, requests):
    batch = SpendBatch()
    batch.refuse(client, why, requests, datetime.fromisoformat(f"2026-11-{at}+00:00"))
    await spend.send(batch, new_batch_id())


async def found(spend, by, since, until=None, every=None, *, zone="UTC", **more):
    named = {option: more.pop(option) for option in ("only", "top") if option in more}
    asked = question(by, since, until, every, zone=zone, now=NOW, **named)
    return await report(spend, asked, NOW, **more)


def cells(answer, *columns):
    return [tuple(row.get(column) for column in columns) for row in document(answer)["rows"]]


async def test_who_burned_the_tokens_at_three(spend):
    await use(spend, "22T14:59:59", "web", tokens=1)
    await use(spend, "22T15:01:00", "web", tokens=20)
    await use(spend, "22T15:02:30", "batch", tokens=3_000_000, pico=9 * PICO)
    await use(spend, "22T15:58:00", "batch", "gpt-5.4", tokens=500, pico=PICO)
    await use(spend, "22T16:00:00", "web", tokens=7)
    hour = await found(spend, "client,model", "15:00", "16:00")
    assert cells(hour, "client", "model", "prompt_tokens", "usd") == [
        ("batch", "gpt-5.5", 3_000_000, 9.0),
        ("batch", "gpt-5.4", 500, 1.0),
        ("web", "gpt-5.5", 20, 0.0),  # 1,000 picodollars
    ]
    assert document(hour)["total"]["prompt_tokens"] == 3_000_520
    steps = await found(spend, "client", "15:00", "16:00", "5m")
    assert cells(steps, "from", "client", "prompt_tokens") == [
        ("2026-11-22T15:00:00+00:00", "batch", 3_000_000),
        ("2026-11-22T15:00:00+00:00", "web", 20),
        ("2026-11-22T15:55:00+00:00", "batch", 500),
    ]
    assert cells(await found(spend, "model", "15:00", "16:00"), "model", "prompt_tokens") == [
        ("gpt-5.5", 3_000_020), ("gpt-5.4", 500),
    ]  # fmt: skip


async def test_the_same_by_key_and_by_account(spend):
    await use(spend, "22T15:01:00", "web", key="k1", tokens=20, pico=PICO)
    await use(spend, "22T15:02:00", "web", "gpt-5.4", key="k2", tokens=30)
    for by, expected in (
        ("key,model", [("k1", "gpt-5.5", 20), ("k2", "gpt-5.4", 30)]),
        ("account,model", [("of-k1", "gpt-5.5", 20), ("of-k2", "gpt-5.4", 30)]),
    ):
        assert cells(await found(spend, by, "15:00", "16:00"), *by.split(","), "prompt_tokens") == expected
    assert cells(await found(spend, "account", "90m", "80m"), "account") == []
    assert cells(await found(spend, "account", "150m"), "account", "refusals") == [("of-k1", None), ("of-k2", None)]


@pytest.mark.parametrize("by", ["client", "client,model", "client,day", "pool", "day"])
@pytest.mark.parametrize(("since", "every"), [("3d", None), ("2026-11-20T22:00", None), ("24h", "1h"), ("20h", "5m")])
async def test_whatever_slots_a_report_is_read_from_its_sum_is_the_same(spend, by, since, every):
    if every is not None and "day" in by:
        every = "1d"
    for at in ("21T22:30:00", "22T00:00:00", "22T10:05:00", "22T17:23:00"):
        await use(spend, at, "web", pico=PICO // 4)
    await refuse(spend, "22T10:00:00", "web", "client_limit rpm", 5)
    answer = await found(spend, by, since, every=every)
    total = document(answer)["total"]
    assert (total["usd"], total["requests"], total["refused_requests"]) == (1.0, 4, 5)
    assert sum(row.spent.requests for row in answer.rows) == 4
    assert sum(row.refused for row in answer.rows) == 5


@pytest.mark.parametrize(("since", "until"), [("1d", None), ("15:00", "16:00")])
async def test_probes_are_a_row_of_their_own_and_so_is_a_client_that_was_only_refused(spend, since, until):
    await use(spend, "22T15:01:00", PROBES, kind="probe", pico=PICO)
    await use(spend, "22T15:01:00", "", tokens=20)
    await refuse(spend, "22T15:01:00", "noisy", "client_limit rpm", 40)
    await refuse(spend, "22T15:03:00", "noisy", "client_limit rpm", 2)
    await refuse(spend, "22T15:03:00", "noisy", "queue_full", 1)
    answer = await found(spend, "client", since, until)
    assert cells(answer, "client", "probe_usd", "requests", "refused_requests") == [
        ("(probes)", 1.0, 1, 0), ("anonymous", 0.0, 1, 0), ("noisy", 0.0, 0, 43),
    ]  # fmt: skip
    assert cells(answer, "refusals")[-1] == ({"client_limit rpm": 42, "queue_full": 1},)
    pairs = await found(spend, "client,model", since, until)
    assert cells(pairs, "client", "model", "refused_requests")[-1] == ("noisy", "-", 43)


async def test_days_by_one_name_have_every_name_while_slots_have_others(spend):
    batch = SpendBatch()
    for n in range(1_600):
        batch.add(Entry("a", "k", "m", f"c{n}", "exact", PICO, 1, 1), NOW)
    await spend.send(batch, new_batch_id())
    assert len((await found(spend, "client", "1d")).rows) == 1_600
    minute = await found(spend, "client", "1m")
    assert len(minute.rows) <= 200
    assert minute.rows[0].names == ("other",)
    assert minute.rows[0].spent.requests == 1_600 - (len(minute.rows) - 1)
    assert minute.total.spent.total == 1_600 * PICO


async def test_a_report_of_too_many_rows_is_refused(spend):
    for n in range(11):
        await use(spend, "22T17:20:00", f"c{n}")
    assert len((await found(spend, "client", "5m", most_rows=11)).rows) == 11
    for asked, option, advice in (
        ({}, "by", r"less time, or the largest names \(top\) or one \(only\)"),
        ({"every": "1m"}, "every", r"longer steps or less time, or the largest"),
        ({"every": "1m", "top": 10}, "every", r"longer steps or less time, or one of the names \(only\)"),
    ):
        with pytest.raises(BadQuestionError, match=f"more than 10 rows: ask for {advice}") as refused:
            await found(spend, "client", "5m", most_rows=10, **asked)
        assert refused.value.option == option
    with pytest.raises(BadQuestionError, match="ask for less time, or the largest") as refused:
        await found(spend, "client,day", "1d", most_rows=10)
    assert refused.value.option == "since"
    with pytest.raises(BadQuestionError, match=r"ask for longer steps or less time$"):
        await found(spend, "pool", "17:00", every="1m", most_rows=0)
    assert len((await found(spend, "client", "5m", top=9, most_rows=10)).rows) == 10
    assert len((await found(spend, "client", "5m", only="c7", most_rows=1)).rows) == 1


@pytest.mark.parametrize("since", ["2d", "30h"])  # from days' sums, and from slots
async def test_one_of_thousands_can_be_asked_for(spend, since):
    await use(spend, "21T15:00:00", "web", key="k1", tokens=1, pico=PICO)
    await use(spend, "22T15:00:00", "web", key="k1", tokens=2, pico=2 * PICO)
    await use(spend, "22T15:00:00", "web", key="k2", tokens=4, pico=4 * PICO)
    await use(spend, "22T15:00:00", "web", "gpt-99", key="k3", kind="unpriced", pico=0)
    (row,) = document(answer := await found(spend, "account", since, only="of-k1"))["rows"]
    assert (row["account"], row["usd"], row["prompt_tokens"], row["requests"]) == ("of-k1", 3.0, 3, 2)
    assert (answer.total.spent.requests, answer.month.requests, answer.unpriced) == (2, 4, [])
    assert (await found(spend, "key", since, only="k3")).unpriced == ["gpt-99"]
    days = await found(spend, "account,day", "2d", only="of-k1")
    assert cells(days, "day", "usd") == [("2026-11-21", 1.0), ("2026-11-22", 2.0)]
    assert document(days)["only"] == "of-k1"
    assert document(await found(spend, "account", since, only="nobody"))["rows"] == []


async def test_one_client_with_its_models_and_refusals(spend):
    await use(spend, "22T15:01:00", "search", "gpt-5.5", pico=PICO)
    await use(spend, "22T15:01:00", "search", "gpt-5.4", pico=2 * PICO)
    await use(spend, "22T15:01:00", "web", "gpt-5.5", pico=8 * PICO)
    await use(spend, "22T15:01:00", "", pico=16 * PICO)
    await refuse(spend, "22T15:01:00", "search", "queue_full", 3)
    await refuse(spend, "22T15:01:00", "web", "queue_full", 5)
    pairs = await found(spend, "client,model", "1d", only="search")
    assert cells(pairs, "client", "model", "usd", "refused_requests") == [
        ("search", "gpt-5.4", 2.0, 0), ("search", "gpt-5.5", 1.0, 0), ("search", "-", 0.0, 3),
    ]  # fmt: skip
    assert (pairs.total.spent.total, pairs.total.refused) == (3 * PICO, 3)
    assert cells(await found(spend, "model,client", "1d", only="gpt-5.5"), "client", "usd") == [
        ("anonymous", 16.0), ("web", 8.0), ("search", 1.0),
    ]  # fmt: skip
    for since in ("1d", "15:00"):
        assert cells(await found(spend, "client", since, only="anonymous"), "usd", "requests") == [(16.0, 1)]


@pytest.mark.parametrize("since", ["1d", "15:00"])
async def test_the_largest_are_kept_apart_and_the_others_summed(spend, since):
    # By dollars a, b; of the three that cost nothing, c by tokens, d by requests.
    await use(spend, "22T15:01:00", "a", pico=8 * PICO, tokens=1)
    await use(spend, "22T15:02:00", "b", pico=4 * PICO, tokens=2)
    await use(spend, "22T15:02:00", "c", pico=0, tokens=500)
    for at in ("22T15:02:00", "22T15:03:00"):
        await use(spend, at, "d", pico=0, tokens=10)  # and 10 that it answers
    await use(spend, "22T15:03:00", "e", pico=0, tokens=30)  # as many tokens as d, with one request
    await refuse(spend, "22T15:03:00", "e", "queue_full", 7)
    columns = ("client", "usd", "prompt_tokens", "requests", "refused_requests")
    a, b, c, d = ("a", 8.0, 1, 1, 0), ("b", 4.0, 2, 1, 0), ("c", 0.0, 500, 1, 0), ("d", 0.0, 20, 2, 0)
    e = ("e", 0.0, 30, 1, 7)
    for top, expected in (
        (1, [a, ("other", 4.0, 552, 5, 7)]),
        (2, [a, b, ("other", 0.0, 550, 4, 7)]),
        (3, [a, b, c, ("other", 0.0, 50, 3, 7)]),
        (4, [a, b, c, d, ("other", 0.0, 30, 1, 7)]),
        (5, [a, b, c, d, e]),
    ):
        answer = await found(spend, "client", since, top=top)
        assert sorted(cells(answer, *columns)) == sorted(expected)
        assert (answer.total.spent.total, answer.total.refused, document(answer)["top"]) == (12 * PICO, 7, top)


async def test_in_steps_the_largest_are_those_of_the_whole_time(spend):
    await use(spend, "22T15:01:00", "early", pico=PICO)
    await use(spend, "22T15:01:00", "web", pico=2 * PICO)
    await use(spend, "22T15:06:00", "late", pico=4 * PICO)
    await use(spend, "22T15:06:00", "web", pico=3 * PICO)
    await use(spend, "22T15:06:00", "little", pico=PICO // 2)
    steps = await found(spend, "client", "15:00", "16:00", "5m", top=1)
    assert [(at[11:16], *row) for at, *row in cells(steps, "from", "client", "usd")] == [
        ("15:00", "web", 2.0), ("15:00", "other", 1.0), ("15:05", "other", 4.5), ("15:05", "web", 3.0),
    ]  # fmt: skip
    pairs = await found(spend, "client,model", "15:00", "16:00", only="web", top=1)
    assert cells(pairs, "client", "model", "usd") == [("web", "gpt-5.5", 5.0)]
    await use(spend, "22T15:07:00", "web", "gpt-5.4", pico=PICO)
    pairs = await found(spend, "client,model", "15:00", "16:00", only="web", top=1)
    assert cells(pairs, "client", "model", "usd") == [("web", "gpt-5.5", 5.0), ("web", "other", 1.0)]


async def test_what_slots_keep_as_other_is_none_of_the_largest(spend):
    batch = SpendBatch()
    for n in range(1_600):
        batch.add(Entry("a", "k", "m", f"c{n}", "exact", PICO, 1, 1), NOW)
    batch.add(Entry("a", "k", "m", "big", "exact", 2 * PICO, 1, 1_000), NOW)
    await spend.send(batch, new_batch_id())
    assert cells(await found(spend, "client", "1m", top=1), "client", "usd") == [("other", 1_600.0), ("big", 2.0)]


async def test_unpriced_models_are_named_whatever_the_report_is_read_from(spend):
    await use(spend, "22T15:01:00", "web", "gpt-99", kind="unpriced", pico=0)
    for by, since in (("client", "1d"), ("client,model", "1d"), ("key", "15:00"), ("pool", "15:00")):
        assert (await found(spend, by, since)).unpriced == ["gpt-99"]


async def test_the_table_for_spreadsheets_has_plain_numbers_and_harmless_names(spend):
    await use(spend, "22T15:01:00", "web", "=cmd()", pico=4 * PICO)
    await use(spend, "22T15:02:00", "web", "gpt-5.5", pico=1_234_567)
    await refuse(spend, "22T15:03:00", "web", "client_limit rpm", 2)
    out = io.StringIO()
    with redirect_stdout(out):
        _write_csv(await found(spend, "client,model", "15:00", "15:05", "5m", zone="UTC"))
    columns, *rows = out.getvalue().splitlines()
    assert columns.split(",") == [
        *("from", "client", "model", "usd", "exact_usd", "estimated_usd", "probe_usd", "unpriced_requests"),
        *("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "refused_requests", "refusals"),
    ]
    assert rows == [
        "2026-11-22T15:00:00+00:00,web,'=cmd(),4,4,0,0,0,1,100,0,10,0,",
        "2026-11-22T15:00:00+00:00,web,gpt-5.5,0.000001,0.000001,0,0,0,1,100,0,10,0,",
        "2026-11-22T15:00:00+00:00,web,-,0,0,0,0,0,0,0,0,0,2,client_limit rpm: 2",
    ]
    assert len(list(csv.DictReader(io.StringIO(out.getvalue())))) == 3


async def test_what_is_said_below_the_table_breaks_between_words_at_a_terminal(spend, capsys, monkeypatch):
    for name, value in (("TTY_COMPATIBLE", "1"), ("TERM", "dumb"), ("COLUMNS", "80"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    await use(spend, "22T14:01:00", "web", pico=PICO)
    _show(await found(spend, "client", "2d"))
    out = capsys.readouterr().out
    notes = out[out.index("not seen here:") :].splitlines()
    assert len(notes) > 1
    assert max(map(len, notes)) <= 80
    assert " ".join(" ".join(notes).split()) == f"not seen here: {'; '.join(NOT_SEEN)}"


async def test_the_table_tells_its_zone_and_its_times_are_those_of_that_zone(spend, capsys):
    await use(spend, "22T14:01:00", "web", pico=PICO)
    await use(spend, "22T15:02:00", "later")
    _show(await found(spend, "client", "15:00", "16:00", "1m", zone="Europe/Berlin"))
    shown = capsys.readouterr().out
    assert "2026-11-22 15:01" in shown
    assert "2026-11-22 15:00 to 2026-11-22 16:00, in Europe/Berlin; this month: $1.00" in shown
    assert "later" not in shown
    _show(await found(spend, "client", "2d", zone="Europe/Berlin"))
    assert "UTC days 2026-11-21 to 2026-11-22, each from 01:00 in Europe/Berlin" in capsys.readouterr().out


async def test_a_document_has_what_was_asked_with_offsets(spend):
    told = json.loads(json.dumps(document(await found(spend, "client", "15:00", every="1h", zone="Asia/Kolkata"))))
    # Half past nine in UTC; steps are those of UTC's hours, and the last one is not over.
    assert (told["since"], told["until"]) == ("2026-11-22T14:30:00+05:30", "2026-11-22T23:30:00+05:30")
    assert (told["by"], told["every"], told["time_zone"], told["rows"]) == ("client", "1h", "Asia/Kolkata", [])
