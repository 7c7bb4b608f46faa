"""Logging in to a running proxy from its machine, and the record of what was done there, by page and by command."""

from __future__ import annotations

import csv
import io
import json
import os
import pwd
import re
import socket
import stat
import subprocess
import sys

from tests.fakes.processes import fetch, pool_config, wait_until
from tests.fakes.running import post_json, raw

ME = f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"


def test_a_link_of_the_command_line_logs_in_once_and_everything_is_recorded(start_simulator, start_proxy):
    simulator = start_simulator(2)
    proxy = start_proxy(pool_config(simulator))
    token = (proxy.state_dir / "admin-token").read_text().strip()

    # The link: its code is in the fragment, which goes to no server.
    done = proxy.command("dashboard", "--no-open")
    assert done.returncode == 0, done.stderr
    url, code = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)#code=([\w-]{43})\n", done.stdout).groups()
    assert url == f"{proxy.admin_url}/"
    first = post_json(proxy.admin_url, "/admin/login", {"code": code})
    assert (first.status, first.json()["actor"], first.json()["by"]) == (200, ME, "link")
    assert post_json(proxy.admin_url, "/admin/login", {"code": code}).error["code"] == "login_failed"
    cookie = first.header("Set-Cookie").partition(";")[0]
    page = {"Cookie": cookie, "X-Quotapool-CSRF": first.json()["csrf"]}
    assert raw(proxy.admin_url, "GET", "/admin/pool", {"Cookie": cookie}).status == 200

    # A change by the page, one by the token, and some by commands.
    assert raw(proxy.admin_url, "POST", "/admin/keys/key-0/disable", page).status == 200
    bearer = {"Authorization": f"Bearer {token}"}
    assert fetch(f"{proxy.admin_url}/admin/keys/key-0/enable", method="POST", headers=bearer)[0] == 200
    for words in (
        ("keys", "disable", "key-1"),
        ("teams", "add", "search", "--rpm", "60"),
        ("clients", "add", "app", "--team", "search"),
        ("clients", "set", "app", "--weight", "2"),
        ("clients", "rotate", "app"),
        ("clients", "suspend", "app"),
        ("clients", "resume", "app"),
        ("clients", "revoke", "app"),
        ("teams", "remove", "search"),
        ("keys", "topup", "key-1", "50"),
    ):
        done = proxy.command(*words)
        assert done.returncode == 0, (words, done.stderr)
    assert proxy.command("clients", "revoke", "nobody").returncode == 2  # nothing was done: no record
    assert proxy.command("clients", "list").returncode == 0

    file = proxy.state_dir / "audit.log"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    told = [(line["actor"], line["by"], line["action"], line["subject"]) for line in lines if line["result"] == "done"]
    assert told == [
        (ME, "command", "login_link", ""),
        (ME, "link", "login", ""),
        (ME, "link", "disable_key", "k/key-0"),
        ("admin token", "token", "enable_key", "k/key-0"),
        (ME, "command", "disable_key", "k/key-1"),
        (ME, "command", "add_team", "t/search"),
        (ME, "command", "add_client", "c/app"),
        (ME, "command", "set_client", "c/app"),
        (ME, "command", "rotate_client", "c/app"),
        (ME, "command", "suspend_client", "c/app"),
        (ME, "command", "resume_client", "c/app"),
        (ME, "command", "revoke_client", "c/app"),
        (ME, "command", "remove_team", "t/search"),
        (ME, "command", "top_up_account", "a/key-1"),
    ]
    changes = {(line["action"], line["subject"]): line["changes"] for line in lines}
    assert changes["disable_key", "k/key-0"] == {"state": ["active", "disabled"]}
    assert changes["enable_key", "k/key-0"] == {"state": ["disabled", "active"]}
    assert changes["disable_key", "k/key-1"] == {"state": ["active", "disabled"]}
    assert changes["set_client", "c/app"] == {"weight": [None, 2.0]}
    assert changes["rotate_client", "c/app"] == {"key": ["…", "new key"]}
    assert changes["suspend_client", "c/app"] == {"suspended": [None, "by the operator"]}
    assert changes["top_up_account", "a/key-1"]["usd"] == [None, 50.0]
    assert [line["result"] for line in lines if line["result"] != "done"] == ["login_failed"]

    # The same in the stream, by the API and by the command, which exports.
    status, text = fetch(f"{proxy.admin_url}/admin/events?kind=operator&subject=c/app", headers=bearer)
    assert status == 200
    assert [event["data"]["action"] for event in json.loads(text)["events"]][:2] == ["revoke_client", "resume_client"]
    exported = [
        json.loads(line) for line in proxy.command("events", "--kind", "operator", "--json").stdout.splitlines()
    ]
    assert [event["action"] for event in exported] == [line["action"] for line in lines]
    assert exported[3]["changes"] == {"state": ["active", "disabled"]}
    rows = list(csv.DictReader(io.StringIO(proxy.command("events", "--subject", "k/key-0", "--csv").stdout)))
    assert [(row["kind"], row["action"]) for row in rows if row["kind"] == "operator"] == [
        ("operator", "disable_key"),
        ("operator", "enable_key"),
    ]
    assert {row["kind"] for row in rows} == {"operator", "state"}
    for_people = proxy.command("events", "--kind", "operator").stdout
    assert f"{ME} from 127.0.0.1: disable_key k/key-0 (state: active → disabled)" in for_people

    # No secret is anywhere.
    secret = cookie.partition("=")[2]
    everything = file.read_text() + proxy.log() + json.dumps(exported) + for_people
    for text in (secret, code, token, first.json()["csrf"], *simulator.secrets):
        assert text not in everything


def test_keys_that_commands_add_are_recorded_by_their_names(start_simulator, start_proxy, tmp_path):
    simulator = start_simulator(4)
    proxy = start_proxy(pool_config(simulator, keys=[{"id": "first", "secret": simulator.secrets[0]}]))
    command = [sys.executable, "-m", "quotapool", "keys", "add", "--id", "second", "--account", "acme"]
    for secret, more in ((simulator.secrets[1], []), (simulator.secrets[2], ["--replace"])):
        words = [*command, *more, "--config", str(proxy.config_file)]
        assert subprocess.run(words, input=secret, capture_output=True, text=True, timeout=60).returncode == 0
    file = tmp_path / "keys.txt"
    file.write_text(f"{simulator.secrets[3]}\n{simulator.secrets[3]}\n")
    proxy.command("keys", "import", str(file), "--no-check", "--dry-run")
    proxy.command("keys", "import", str(file), "--no-check")
    proxy.command("keys", "remove", "second", "--forget")
    text = (proxy.state_dir / "audit.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["action"], line["subject"]) for line in lines] == [
        ("add_key", "k/second"),
        ("add_key", "k/second"),
        ("import_keys", ""),
        ("forget_key", "k/second"),
    ]
    assert lines[0]["changes"]["secret"] == [None, "new key"]
    assert lines[0]["changes"]["account"] == [None, "acme"]
    assert lines[1]["changes"]["secret"] == ["…", "new key"]
    assert lines[2]["changes"] == {"added": [None, 1], "duplicate": [None, 1]}
    assert lines[3]["changes"]["secret"] == ["…", None]
    assert all(secret not in text for secret in simulator.secrets)


def test_who_may_log_in_changes_with_a_reload(start_simulator, start_proxy):
    proxy = start_proxy(pool_config(start_simulator(1)))

    def methods():
        found = json.loads(fetch(f"{proxy.admin_url}/admin/login-methods")[1])
        return {name: value for name, value in found.items() if name != "signed_in"}

    assert methods() == {"token": True, "oidc": None, "header": False}
    header = {"from": ["127.0.0.1"], "operators": ["jane@example.com"]}
    proxy.config_file.write_text(json.dumps({**proxy.config, "dashboard": {"trusted_header": header}}))
    wait_until(lambda: methods()["header"], "the reload", 10)
    jane = raw(proxy.admin_url, "GET", "/admin/session", {"X-Forwarded-User": "jane@example.com"})
    assert (jane.status, jane.json()["actor"]) == (200, "jane@example.com")
    assert "can claim to be anybody" in proxy.log()


def test_events_are_followed(start_simulator, start_proxy, tmp_path):
    proxy = start_proxy(pool_config(start_simulator(1)))
    output = tmp_path / "followed"
    command = [sys.executable, "-m", "quotapool", "events", "-f", "--json", "--config", str(proxy.config_file)]
    with output.open("w") as file, subprocess.Popen(command, stdout=file) as following:
        proxy.command("keys", "disable", "key-0")
        proxy.command("keys", "enable", "key-0")
        wait_until(lambda: output.read_text().count('"action"') == 2, "both changes are shown", 20)
        following.terminate()
    shown = [json.loads(line) for line in output.read_text().splitlines()]
    assert [event["kind"] for event in shown] == ["state", "operator", "state", "operator"]
    assert len({event["id"] for event in shown}) == 4


def test_without_a_running_proxy_there_is_no_link(tmp_path):
    config = tmp_path / "quotapool.yaml"
    config.write_text(f"{{state_dir: {tmp_path}/state, keys: [{{secret: sk-test}}]}}")
    command = [sys.executable, "-m", "quotapool", "dashboard", "--no-open", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the proxy is not running" in done.stderr
