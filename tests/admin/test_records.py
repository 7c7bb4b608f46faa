"""What operators do over HTTP is recorded, with what changed and without secrets; floods are not."""

from __future__ import annotations

import json
import stat

import pytest
from aiohttp import DummyCookieJar
from quotapool.admin.routes import ApiError
from quotapool.alerts.rules import of_event
from quotapool.domain.actor import Actor
from quotapool.ledger.clients import digest
from quotapool.login.audit import REFUSED_A_MINUTE, Audit
from quotapool.observe.events import Events
from quotapool.observe.redaction import Redactor
from quotapool.operators.clients import ClientOperations
from quotapool.operators.teams import TeamOperations
from quotapool.shapes.general import EventQuery

from tests.fakes.connect import connect
from tests.fakes.operators_port import BEARER, operators_port

JANE = Actor("jane@example.com", "operator", "oidc", "192.0.2.7")


@pytest.fixture
async def port(valkey_url, tmp_path):
    made = operators_port(valkey_url, tmp_path, pool="test")
    clients, teams = (kind(lambda: made.settings, made.store) for kind in (ClientOperations, TeamOperations))

    async def answer(name, call):
        """What the real handlers do, for these few."""
        match name:
            case "add_client":
                await clients.add(call.body.id, call.body.options())
            case "set_client":
                await clients.set(call.id, call.body.options())
            case "rotate_client":
                await clients.rotate(call.id, 0)
            case "suspend_client":
                await clients.suspend(call.id, call.body.reason)
            case "revoke_client":
                await clients.revoke(call.id)
            case "add_team":
                await teams.add(call.body.id, call.body.options())
            case "probe_key":
                call.changes["answer"] = [None, "OK"]
            case "enable_key":
                raise ApiError("not_found", "no such key")
        return {"id": call.id}

    made.answer = answer
    yield made
    await made.store.close()


@pytest.fixture
async def client(port, aiohttp_client):
    return await aiohttp_client(port.app(), cookie_jar=DummyCookieJar())


async def events_of(port, **query):
    return await Events(port.store, port.settings.pool).latest(1000, EventQuery(**query).matches)


async def do(client, method, path, body=None):
    answer = await client.request(method, f"/admin{path}", json=body, headers=BEARER)
    assert answer.status < 300, await answer.text()


async def test_every_change_has_a_line_and_an_event_with_old_and_new(port, client):
    await do(client, "POST", "/teams", {"id": "search", "limits": {"rpm": 60}})
    await do(client, "POST", "/clients", {"id": "app", "weight": 2.0})
    await do(client, "PATCH", "/clients/app", {"weight": 3.0, "team": "search"})
    await do(client, "POST", "/clients/app/rotate", {})
    await do(client, "POST", "/clients/app/suspend", {"reason": "a leak"})
    await do(client, "DELETE", "/clients/app")
    lines = port.audit_lines()
    assert [(line["action"], line["subject"]) for line in lines] == [
        ("add_team", "t/search"),
        ("add_client", "c/app"),
        ("set_client", "c/app"),
        ("rotate_client", "c/app"),
        ("suspend_client", "c/app"),
        ("revoke_client", "c/app"),
    ]
    changes = [line["changes"] for line in lines]
    assert changes[0]["limits"] == [None, {"rpm": 60.0}]
    assert changes[1] == {"key": [None, "new key"], "weight": [None, 2.0]}
    assert changes[2] == {"weight": [2.0, 3.0], "team": [None, "search"]}
    assert changes[3] == {"key": ["…", "new key"]}
    assert changes[4] == {"suspended": [None, "a leak"]}
    assert changes[5]["key"] == ["…", None]
    for line in lines:
        assert (line["actor"], line["role"], line["by"], line["address"]) == (
            "admin token",
            "operator",
            "token",
            "127.0.0.1",
        )
    events = (await events_of(port, kind="operator"))[::-1]
    assert [json.loads(event.data["changes"]) for event in events] == changes
    assert [event.data["field"] for event in events] == [line["subject"] for line in lines]
    assert all(of_event({**event.data, "at": event.at}) is None for event in events)  # no alert


async def test_no_record_has_a_secret_or_its_hash(port, client):
    await do(client, "POST", "/clients", {"id": "app", "notes": "once sk-proj-canaryOfThisTest0001 was it"})
    stored = (await ClientOperations(lambda: port.settings, port.store)._clients.get("app")).hash
    text = (port.settings.state_dir / "audit.log").read_text()
    assert "canary" not in text
    assert stored not in text
    assert digest(stored) not in text


async def test_what_changed_nothing_is_not_recorded_unless_it_was_done(port, client):
    assert (await client.post("/admin/keys/nowhere/enable", headers=BEARER)).status == 404
    await client.get("/admin/keys", headers=BEARER)
    assert port.audit_lines() == []
    await do(client, "POST", "/keys/alpha/probe")
    (line,) = port.audit_lines()
    assert (line["action"], line["subject"], line["changes"]) == ("probe_key", "k/alpha", {"answer": [None, "OK"]})


async def test_the_file_is_its_owners_and_only_grows(port, client):
    file = port.settings.state_dir / "audit.log"
    await do(client, "POST", "/keys/alpha/disable")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    await do(client, "POST", "/keys/alpha/drain")
    assert file.read_bytes().startswith(before)
    assert file.read_bytes().count(b"\n") == 2


async def test_a_link_in_the_files_place_is_not_followed(port, client, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("")
    (port.settings.state_dir / "audit.log").symlink_to(victim)
    await do(client, "POST", "/keys/alpha/disable")  # done, and in the stream
    assert victim.read_text() == ""
    assert len(await events_of(port, kind="operator")) == 1


async def test_a_flood_of_refusals_is_counted_and_not_kept(valkey_url, tmp_path, monkeypatch):
    store = connect(valkey_url)
    audit = Audit(store, "test", tmp_path, Redactor([]))
    now = [1_000_000.0]
    monkeypatch.setattr("quotapool.login.audit.time.time", lambda: now[0])
    for _ in range(1000):
        await audit.refused(JANE, "login", "", "login_failed")
    now[0] += 60
    await audit.refused(JANE, "login", "", "login_failed")
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert len(lines) == REFUSED_A_MINUTE + 1
    assert lines[-1]["changes"] == {"untold": [None, 1000 - REFUSED_A_MINUTE]}
    assert await store.client.xlen("qp:{test}:events") == REFUSED_A_MINUTE + 1
    await store.close()


async def test_a_record_is_written_while_the_store_is_away(tmp_path):
    store = connect(f"unix://{tmp_path}/nowhere.sock")
    await Audit(store, "test", tmp_path, Redactor([])).record(JANE, "disable_key", "k/a", {"state": ["active", "x"]})
    (line,) = (tmp_path / "audit.log").read_text().splitlines()
    assert json.loads(line)["actor"] == "jane@example.com"
    await store.close()


async def test_a_name_cannot_forge_a_line(tmp_path):
    store = connect(f"unix://{tmp_path}/nowhere.sock")
    forged = Actor('x"}\n{"actor": "jane"', "viewer", "oidc", "")
    await Audit(store, "test", tmp_path, Redactor([])).record(forged, "a\nb", "c/\x1b[2J", {"n\n": ["\n", 1]})
    (line,) = (tmp_path / "audit.log").read_text().splitlines()
    assert json.loads(line)["subject"] == "c/[2J"
    await store.close()


async def test_events_are_found_by_kind_and_subject_among_many(valkey_url):
    store = connect(valkey_url)
    for n in range(1500):
        await store.client.xadd("qp:{test}:events", {"kind": "state", "field": f"k/{n % 3}", "at": str(n)})
    await store.client.xadd("qp:{test}:events", {"kind": "operator", "field": "k/1", "at": "1500"}, id="*")
    events = Events(store, "test")
    assert [event.at for event in await events.latest(3, EventQuery().matches)] == ["1500", "1499", "1498"]
    assert [event.at for event in await events.latest(10, EventQuery(kind="operator").matches)] == ["1500"]
    found = await events.latest(2, EventQuery(subject="k/1").matches)
    assert [event.at for event in found] == ["1500", "1498"]
    more = await events.latest(1, EventQuery(subject="k/1", kind="state").matches, before=found[-1].id)
    assert [event.at for event in more] == ["1495"]
    assert [event.at for event in await events.latest(1, EventQuery(subject="k/1", kind="state").matches)] == ["1498"]
    assert await events.latest(5, EventQuery(subject="k/none").matches) == []
    seen = [event.at async for some in events.since("0", EventQuery(subject="k/0").matches) for event in some]
    assert (len(seen), seen[:2]) == (500, ["0", "3"])
    await store.close()
