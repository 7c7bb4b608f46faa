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
from quotapool.money.usage_report import document, report
from quotapool.store.store import connect

NOW = datetime(2026, 11, 22, 17, 23, 45, tzinfo=UTC)


@pytest.fixture
async def spend(valkey_url):
    store = connect(valkey_url, timeout_s=5.0)
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
    asked = question(by, since, until, every, zone=zone, now=NOW)
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
    with pytest.raises(BadQuestionError, match="more than 10 rows"):
        await found(spend, "client", "5m", most_rows=10)


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
