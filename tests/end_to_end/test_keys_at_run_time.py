"""Keys come and go while requests flow, in every replica; no secret of theirs is in the store, an answer or a log."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import msgspec
import pytest
import redis
import yaml
from quotapool.admin.routes import ROUTES
from quotapool.shapes import general as shapes

from tests.fakes.processes import RunningProxy, fetch, wait_until

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
MASTER = "the-master-key-of-this-test-file-1"


def ask(proxy: RunningProxy) -> int:
    return fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)[0]


def quotapool(proxy: RunningProxy, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quotapool", *arguments, "--config", str(proxy.config_file)]
    done = subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def admin(proxy: RunningProxy, method: str, path: str, body=None) -> tuple[int, dict]:
    token = (proxy.state_dir / "admin-token").read_text().strip()
    status, text = fetch(
        f"{proxy.admin_url}/admin{path}", method=method, body=body, headers={"Authorization": f"Bearer {token}"}
    )
    return status, json.loads(text)


def has_usable(proxy: RunningProxy, count: int) -> None:
    wait_until(lambda: admin(proxy, "GET", "/pool")[1]["usable_keys"] == count, f"{count} keys are usable", 10)


def states(proxy: RunningProxy) -> dict[str, str]:
    return {row["id"]: row["state"] for row in admin(proxy, "GET", "/keys")[1]["keys"]}


def listed(proxy: RunningProxy) -> dict[str, str]:
    """The same by the command."""
    return {row["id"]: row["state"] for row in json.loads(quotapool(proxy, "keys", "list", "--json").stdout)["keys"]}


def attempts(simulator) -> list[int]:
    return [account["attempts"] for account in simulator.stats()["accounts"]]


def id_of(secret: str) -> str:
    return "key-" + hashlib.sha256(secret.encode()).hexdigest()[:8]


class Traffic:
    """Requests without a pause, until told to stop; `statuses` are what came back."""

    def __init__(self, *proxies: RunningProxy) -> None:
        self.statuses: list[int] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go, args=(proxy,)) for proxy in proxies]

    def _go(self, proxy: RunningProxy) -> None:
        while not self._stop.wait(0.02):
            self.statuses.append(ask(proxy))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def replicas(start_simulator, start_proxy, valkey_url, tmp_path) -> tuple:
    """(simulator, two proxies on one Valkey with one master key file, each with the first of the simulator's keys)."""
    simulator = start_simulator(4, "--rpm", "0", "--tpm", "0")
    file = tmp_path / "master"
    file.write_text(MASTER + "\n")
    config = {
        "upstream": simulator.url,
        "keys": [{"id": "first", "secret": simulator.secrets[0]}],
        "redis": valkey_url,
        "master_key_file": str(file),
        "sticky": False,
    }
    return simulator, start_proxy(config), start_proxy(config)


def everything_in(url: str) -> bytes:
    """DUMP and value of each key of a Valkey."""
    client = redis.Redis(unix_socket_path=url.removeprefix("unix://"))
    read = {b"hash": client.hgetall, b"string": client.get, b"stream": client.xrange}
    pieces = []
    for name in client.keys("*"):  # some are gone before they are read
        pieces += [name, client.dump(name) or b"", repr(read.get(client.type(name), lambda _: "")(name)).encode()]
    client.close()
    return b"\n".join(pieces)


def test_a_key_added_while_requests_flow_serves_in_both_replicas_and_drops_none(replicas, valkey_url):
    simulator, one, two = replicas
    with Traffic(one, two) as traffic:
        # By the command line at one replica, by the API at the other.
        added = quotapool(one, "keys", "add", "--id", "second", stdin=f"{simulator.secrets[1]}\n")
        assert (added.returncode, added.stdout) == (0, "key second: added\n")
        status, answer = admin(two, "POST", "/keys", {"secret": simulator.secrets[2], "id": "third", "account": "acme"})
        assert (status, answer) == (201, {"id": "third", "result": "added"})
        for proxy in (one, two):
            has_usable(proxy, 3)
        wait_until(lambda: min(attempts(simulator)[:3]) > 5, "all three serve", 15)
        # Taken out and deleted, it serves no more, anywhere.
        assert admin(one, "DELETE", "/keys/third") == (200, {"id": "third", "gone": True})
        for proxy in (one, two):
            has_usable(proxy, 2)
        answered = len(traffic.statuses)
        wait_until(lambda: len(traffic.statuses) > answered + 4, "what was under way has ended", 15)
        _, of_second, of_third, *_ = attempts(simulator)
        wait_until(lambda: attempts(simulator)[1] > of_second + 10, "more requests came", 15)
        assert attempts(simulator)[2] == of_third
    assert set(traffic.statuses) == {200}
    assert len(traffic.statuses) > 30
    stored = everything_in(valkey_url)
    assert b"second" in stored
    for secret in (*simulator.secrets, MASTER):
        assert secret.encode() not in stored
        assert secret not in one.log() + two.log() + added.stdout + added.stderr


def test_the_vault_in_a_shared_store_wants_a_master_key_of_ours(start_simulator, start_proxy, valkey_url):
    simulator = start_simulator(2)
    keys = [{"id": "first", "secret": simulator.secrets[0]}]
    proxy = start_proxy({"upstream": simulator.url, "keys": keys, "redis": valkey_url})
    refused = quotapool(proxy, "keys", "add", stdin=simulator.secrets[1])
    assert refused.returncode == 2
    assert "keys in a shared store need a master key" in refused.stderr
    status, answer = admin(proxy, "POST", "/keys", {"secret": simulator.secrets[1]})
    assert (status, answer["error"]["code"]) == (409, "no_master_key")
    assert not (proxy.state_dir / "master-key").exists()
    assert b":vault" not in everything_in(valkey_url)


def test_a_wrong_master_key_loses_nothing_and_the_configured_keys_serve(replicas, start_proxy, valkey_url, tmp_path):
    simulator, one, _ = replicas
    quotapool(one, "keys", "add", "--id", "second", stdin=simulator.secrets[1])
    wrong = tmp_path / "wrong"
    wrong.write_text("this-is-not-the-right-master-key-2")
    stranger = start_proxy({**one.config, "master_key_file": str(wrong), **ports()})
    assert ask(stranger) == 200
    assert "sealed with the master key" in stranger.log()
    assert re.search(r"Not served: 1 key\b", stranger.log())
    assert states(stranger) == listed(stranger) == {"first": "active", "second": "locked"}
    for refused in (
        quotapool(stranger, "keys", "add", "--id", "third", stdin=simulator.secrets[2]),
        quotapool(stranger, "keys", "rotate-master-key", "--new-file", str(tmp_path / "newer")),
    ):
        assert refused.returncode == 2
        assert "sealed with the master key" in refused.stderr
    assert admin(stranger, "GET", "/pool")[1]["problem"]
    assert states(one) == {"first": "active", "second": "active"}
    # The right one in the same file is found without a restart.
    wrong.write_text(MASTER)
    has_usable(stranger, 2)


def ports() -> dict[str, str]:
    from tests.fakes.valkey import free_port

    return {"listen": f"127.0.0.1:{free_port()}", "admin_listen": f"127.0.0.1:{free_port()}"}


def test_the_master_key_is_changed_while_both_replicas_serve(replicas, tmp_path):
    simulator, one, two = replicas
    quotapool(one, "keys", "add", "--id", "second", stdin=simulator.secrets[1])
    file, new = Path(one.config["master_key_file"]), tmp_path / "new"
    with Traffic(one, two) as traffic:
        rotated = quotapool(one, "keys", "rotate-master-key", "--new-file", str(new))
        assert rotated.returncode == 0
        assert "1 key sealed with the new master key" in rotated.stdout
        assert new.stat().st_mode & 0o777 == 0o600
        # Replicas that have only the old one yet go on with what they had opened; then they get the new one.
        assert admin(two, "GET", "/pool")[1]["usable_keys"] == 2
        file.write_text(new.read_text())
        wait_until(lambda: not admin(two, "GET", "/pool")[1]["problem"], "the replica knows the new one", 10)
        quotapool(one, "keys", "add", "--id", "third", stdin=simulator.secrets[2])
        for proxy in (one, two):
            has_usable(proxy, 3)
    assert set(traffic.statuses) == {200}
    assert new.read_text().strip() not in one.log() + two.log() + rotated.stdout


def test_an_import_takes_keys_from_a_pipe_and_says_when_its_report_cannot_be_written(
    start_simulator, start_proxy, tmp_path
):
    simulator = start_simulator(2)
    proxy = start_proxy({"upstream": simulator.url, "keys": []})
    nowhere = tmp_path / "nowhere" / "report.json"
    refused = quotapool(proxy, "keys", "import", "/dev/stdin", "--report", str(nowhere), stdin=simulator.secrets[0])
    assert (refused.returncode, refused.stderr) == (2, f"quotapool: {nowhere}: there is no such directory\n")
    assert states(proxy) == {}
    piped = "".join(f"{secret}\n" for secret in simulator.secrets)
    done = quotapool(proxy, "keys", "import", "/dev/stdin", "--report", str(tmp_path), stdin=piped)
    assert done.stdout == "2 lines: 2 added\n"
    assert (done.returncode, done.stderr) == (2, f"quotapool: {tmp_path}: Is a directory\n")
    has_usable(proxy, 2)
    again = quotapool(proxy, "keys", "import", "/dev/stdin", stdin=simulator.secrets[1])
    assert (again.returncode, again.stdout) == (0, "1 line: 1 unchanged\n")


def test_an_import_reports_its_bad_lines_and_may_be_repeated_and_states_outlive_a_restart(
    start_simulator, start_proxy, tmp_path
):
    simulator = start_simulator(9)
    config = {"upstream": simulator.url, "keys": [{"id": "first", "secret": simulator.secrets[0]}]}
    config["tiers"] = {"trial": {"rpm": 3}}
    proxy = start_proxy(config)
    simulator.fault(7, "invalid_api_key")
    lines = [
        "secret,id,account,tier,grant_usd,expires_on",  # 1
        f"{simulator.secrets[1]},one,acme,trial,5,2099-01-01",
        f"{simulator.secrets[2]},two,acme,trial,5,2099-01-01",
        f"{simulator.secrets[3]},three,,,,",
        f"{simulator.secrets[3]},again,,,,",  # 5: the same secret as line 4
        "sk-admin-not-for-requests,four,,,,",
        f"{simulator.secrets[4]},five,,gold,,",  # no such tier
        f"{simulator.secrets[0]},six,,,,",  # configured
        "sk-proj-nobodyKnowsThisOne00001,seven,,,,",
        f"{simulator.secrets[7]},eight,,,,",  # 10: dead
        f"{simulator.secrets[5]},nine,,,minus five,",
    ]
    file, report = tmp_path / "keys.csv", tmp_path / "report.json"
    file.write_text("\n".join(lines))
    dry = quotapool(proxy, "keys", "import", str(file), "--dry-run", "--json")
    assert (dry.returncode, states(proxy)) == (1, {"first": "active"})
    assert not (proxy.state_dir / "master-key").exists()
    done = quotapool(proxy, "keys", "import", str(file), "--json", "--report", str(report))
    told = json.loads(done.stdout)
    assert (done.returncode, told) == (1, json.loads(report.read_text()))
    counts = {"added": 3, "configured": 1, "duplicate": 1, "bad line": 3, "refused": 2}
    assert (told["lines"], told["counts"]) == (10, counts)
    assert json.loads(dry.stdout)["counts"] == counts
    why = {bad["line"]: bad["why"] for bad in told["not_imported"]}
    assert set(why) == {5, 6, 7, 9, 10, 11}
    assert why[5] == "the same secret as line 4"
    assert "sk-admin- key manages the organisation" in why[6]
    assert "no such tier" in why[7]
    assert "invalid_api_key" in why[9]
    assert "replace" in why[10]
    assert why[11] == "grant_usd must be a number greater than 0"
    again = json.loads(quotapool(proxy, "keys", "import", str(file), "--json").stdout)
    assert again["counts"] == {**{name: n for name, n in counts.items() if name != "added"}, "unchanged": 3}
    # What came with the keys counts: the account's tier limits it to 3 a minute.
    has_usable(proxy, 4)
    status, row = admin(proxy, "GET", "/keys/one")
    assert (status, row["account"], row["source"]) == (200, "acme", "store")
    quotapool(proxy, "keys", "disable", "two")
    before = states(proxy)
    assert before == {"first": "active", "one": "active", "two": "disabled", "three": "active"}
    proxy.stop()
    assert listed(proxy) == before  # the command starts the store by itself
    restarted = start_proxy({**config, "state_dir": proxy.config["state_dir"]})
    assert states(restarted) == before
    assert admin(restarted, "GET", "/pool")[1]["keys"]["disabled"] == 1
    assert ask(restarted) == 200
    for secret in (*simulator.secrets, (proxy.state_dir / "master-key").read_text().strip()):
        assert secret not in done.stdout + done.stderr + report.read_text() + restarted.log() + proxy.log()
        for part in (proxy.state_dir / "valkey").rglob("*"):
            assert part.is_dir() or secret.encode() not in part.read_bytes()


def test_what_the_command_line_does_not_take(start_simulator, start_proxy):
    simulator = start_simulator(2)
    proxy = start_proxy({"upstream": simulator.url, "keys": [{"id": "first", "secret": simulator.secrets[0]}]})
    argument = quotapool(proxy, "keys", "add", simulator.secrets[1])
    assert argument.returncode == 2
    assert "a secret is not taken as an argument" in argument.stderr
    assert simulator.secrets[1] not in argument.stderr
    for stdin, complaint in (
        ("", "no secret on standard input"),
        ("sk-proj-nobodyKnowsThisOne00001", "upstream answers dead: invalid_api_key"),
    ):
        refused = quotapool(proxy, "keys", "add", stdin=stdin)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert complaint in refused.stderr
        assert not stdin or stdin not in refused.stderr
    unchecked = quotapool(proxy, "keys", "add", "--no-check", stdin="sk-proj-nobodyKnowsThisOne00001\n")
    assert unchecked.stdout == f"key {id_of('sk-proj-nobodyKnowsThisOne00001')}: added\n"
    assert "the key first is in the configuration" in quotapool(proxy, "keys", "remove", "first", "--forget").stderr
    # A key that is added and configured: the configured one counts, and it is said.
    assert admin(proxy, "POST", "/keys", {"id": "second", "secret": simulator.secrets[1]})[0] == 201
    config = yaml.safe_load(proxy.config_file.read_text())
    config["keys"].append({"id": "second", "secret": simulator.secrets[1]})
    proxy.config_file.write_text(yaml.safe_dump(config))
    wait_until(lambda: "the configured one is used" in proxy.log(), "the double key is noticed", 10)
    assert ask(proxy) == 200


def test_with_a_wrong_master_key_a_rotation_changes_nothing_not_even_a_file(start_simulator, start_proxy, tmp_path):
    simulator = start_simulator(1)
    proxy = start_proxy({"upstream": simulator.url, "keys": []})
    assert quotapool(proxy, "keys", "add", stdin=simulator.secrets[0]).returncode == 0
    file = proxy.state_dir / "master-key"
    right, wrong = file.read_text(), "another-master-key-of-more-than-32-characters\n"
    file.write_text(wrong)
    refused = quotapool(proxy, "keys", "rotate-master-key", "--new-file", str(tmp_path / "new"))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert file.read_text() == wrong
    assert not (tmp_path / "new").exists()
    file.write_text(right)
    assert quotapool(proxy, "keys", "rotate-master-key", "--new-file", str(tmp_path / "new")).returncode == 0
    assert quotapool(proxy, "check").returncode == 0


def test_a_check_of_the_pool_is_one_line_in_a_pipeline(start_simulator, start_proxy):
    simulator = start_simulator(3)
    keys = [{"id": f"key-{n}", "secret": secret} for n, secret in enumerate(simulator.secrets)]
    proxy = start_proxy({"upstream": simulator.url, "keys": keys})
    well = quotapool(proxy, "check", "--json")
    assert (well.returncode, json.loads(well.stdout)["summary"]["usable"]) == (0, 3)
    assert quotapool(proxy, "keys", "probe", "key-0").returncode == 0
    simulator.fault(1, "invalid_api_key")
    simulator.fault(2, "credit_balance_exhausted")
    found = {"key-0": "active", "key-1": "removed", "key-2": "quarantined"}
    wait_until(lambda: ask(proxy) == 200 and states(proxy) == found, "both are found out", 10)
    bad = quotapool(proxy, "check", "--json")
    told = json.loads(bad.stdout)
    assert (bad.returncode, told["summary"]["usable"], told["summary"]["keys"]) == (1, 1, 3)
    next_ = {row["id"]: row["next"] for row in told["keys"]}
    assert next_["key-0"] == ""
    assert next_["key-1"].startswith("replace: make a new key")
    assert "is not credit of $30" in next_["key-2"]
    assert "next try" in next_["key-2"]
    assert quotapool(proxy, "keys", "probe", "key-1").returncode == 1


def test_every_answer_of_the_admin_api_is_of_its_documented_shape(start_simulator, start_proxy):
    simulator = start_simulator(2)
    proxy = start_proxy({"upstream": simulator.url, "keys": [{"id": "first", "secret": simulator.secrets[0]}]})
    assert ask(proxy) == 200
    wait_until(lambda: admin(proxy, "GET", "/requests")[1]["requests"], "the request is kept", 10)
    asked = admin(proxy, "GET", "/requests")[1]["requests"][0]["id"]
    calls = [
        ("add_key", "/keys", {"secret": simulator.secrets[1], "id": "second", "grants": [{"usd": 5}]}),
        ("list_keys", "/keys", None),
        ("show_key", "/keys/second", None),
        ("disable_key", "/keys/second/disable", None),
        ("enable_key", "/keys/second/enable", None),
        ("drain_key", "/keys/second/drain", None),
        ("remove_key", "/keys/second/remove", {}),
        ("enable_key", "/keys/second/enable", None),
        ("probe_key", "/keys/second/probe", None),
        ("list_key_lines", "/key-lines", None),
        ("list_key_users", "/keys/first/users", None),
        ("start_key_job", "/jobs/keys", {"action": "probe", "ids": ["first"]}),
        ("start_import", "/jobs/import", {"text": "sk-proj-only-tried-0001", "check": False, "dry_run": True}),
        ("list_jobs", "/jobs", None),
        ("show_job", "/jobs/{job}", None),
        ("stop_job", "/jobs/{job}", None),
        ("list_accounts", "/accounts", None),
        ("top_up_account", "/accounts/second/topup", {"usd": 5, "expires_on": "2099-01-01"}),
        ("show_reconciliation", "/reconciliation", None),
        ("show_configuration", "/configuration", None),
        ("try_request", "/dry-run", {"body": {"model": "gpt-4o", "messages": []}}),
        ("show_pool", "/pool", None),
        ("show_now", "/now", None),
        ("show_samples", "/samples?minutes=5", None),
        ("show_savings", "/savings", None),
        ("show_cache", "/cache", None),
        ("show_advice", "/advice", None),
        ("clear_cache", "/cache?client=app&model=gpt-4o", None),
        ("list_events", "/events?limit=3&kind=state", None),
        ("show_usage", "/usage?by=key", None),
        ("show_now", "/now", None),
        ("show_samples", "/samples?model=gpt-4o", None),
        ("show_savings", "/savings", None),
        ("list_requests", "/requests?limit=3", None),
        ("show_request", f"/requests/{asked}", None),
        ("explain_request", f"/requests/{asked}/explanation", None),
        ("add_team", "/teams", {"id": "red", "limits": {"rpm": 60}, "budgets": [{"usd": 5, "per": "day"}]}),
        ("set_team", "/teams/red", {"limits": {"rpm": None, "tpm": "2M"}, "time_zone": "Europe/Berlin"}),
        ("show_team", "/teams/red", None),
        ("list_teams", "/teams", None),
        ("remove_team", "/teams/red", None),
        ("add_client", "/clients", {"id": "app", "weight": 2, "models": ["gpt-5*"], "limits": {"concurrent": 5}}),
        ("list_clients", "/clients", None),
        ("show_client", "/clients/app", None),
        ("set_client", "/clients/app", {"max_wait": "10s", "models": []}),
        ("rotate_client", "/clients/app/rotate", {"overlap_s": 60}),
        ("suspend_client", "/clients/app/suspend", {"reason": "a leaked key"}),
        ("resume_client", "/clients/app/resume", None),
        ("revoke_client", "/clients/app", None),
        ("forget_key", "/keys/second", None),
        ("login_methods", "/login-methods", None),
        ("login", "/login", {"token": (proxy.state_dir / "admin-token").read_text().strip()}),
        ("show_session", "/session", None),
        ("list_logins", "/logins", None),
        ("end_login", "/logins/{its id}", None),
        ("logout", "/logout", {}),
    ]
    table = {route.name: route for route in ROUTES}
    assert {name for name, *_ in calls} == set(table)
    answers = {}
    for name, path, body in calls:
        path = path.replace("{job}", answers["start_key_job"]["id"]) if "{job}" in path else path  # noqa: PLW2901
        where = path if name != "end_login" else f"/logins/{answers['list_logins']['logins'][0]['id']}"
        status, answers[name] = admin(proxy, table[name].method, where, body)
        assert status == table[name].status, (name, answers[name])
        msgspec.convert(answers[name], table[name].answer)
    assert answers["add_client"]["key"].startswith("qp-")
    changed = answers["set_client"]
    assert (changed["weight"], changed["models"], changed["max_wait"]) == (2.0, [], 10.0)
    assert answers["rotate_client"]["key"] not in {None, answers["add_client"]["key"]}
    assert answers["suspend_client"]["changed"]
    assert answers["resume_client"]["changed"]
    assert [event["data"]["to"] for event in answers["list_events"]["events"]] == ["active", "removed", "draining"]
    older = admin(proxy, "GET", f"/events?kind=state&before={answers['list_events']['events'][-1]['id']}")[1]["events"]
    assert [event["data"]["to"] for event in older][:2] == ["active", "disabled"]
    assert msgspec.convert(answers["show_pool"], shapes.PoolRow).usable_keys == 2
    for path, body, status, code in (
        ("/keys", {"secret": simulator.secrets[0]}, 409, "conflict"),
        ("/keys", {"id": "first", "secret": simulator.secrets[1]}, 409, "conflict"),
        ("/keys", {"secret": "sess-0123456789abcdef0123456789"}, 400, "bad_request"),
        ("/keys", {"secret": simulator.secrets[1], "tier": "gold"}, 400, "bad_request"),
        ("/keys", {"secret": "sk-admin-manages-only-0001"}, 400, "bad_request"),
        ("/keys", {"secret": "sk-proj-nobodyKnowsThisOne00001"}, 422, "key_refused"),
        ("/clients", {"id": "two words"}, 400, "bad_request"),
        ("/clients", {"id": "app2", "weight": 0}, 400, "bad_request"),
        ("/clients/nobody/rotate", {}, 404, "not_found"),
        ("/clients/nobody/suspend", {}, 404, "not_found"),
        ("/keys/nobody/disable", None, 404, "not_found"),
    ):
        got, answer = admin(proxy, "POST", path, body)
        assert (got, answer["error"]["code"]) == (status, code)
        assert all(secret not in json.dumps(answer) for secret in simulator.secrets)
    assert admin(proxy, "DELETE", "/keys/first")[0] == 409
