"""Commands at a real terminal: `top` as a whole screen, `logs` in its lines, questions, bars while something lasts."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import APIStatusError, OpenAI

from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.fakes.running import running_proxy, running_simulator
from tests.fakes.terminal import Terminal

LIMITS = {"default": {"rpm": 600, "tpm": 200_000}}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(3) as running:
        yield running


@pytest.fixture(scope="module")
def pool(simulator, tmp_path_factory) -> Iterator[RunningProxy]:
    """A dead key, three that serve, and a client with a request that was answered and one that was refused."""
    config = pool_config(simulator, limits=LIMITS, sticky=False)
    config["keys"].append({"id": "dead-key", "secret": "sk-proj-of-nobody-0000000000000000000"})
    with running_proxy(tmp_path_factory.mktemp("pool"), config) as proxy:
        for _ in range(12):
            ask(proxy, "gpt-5.5")
        ask(proxy, "no-such-model-that-anybody-has")
        wait_until(lambda: "dead-key" in proxy.command("keys", "list", "--state", "removed").stdout, "the key is out")
        wait_until(lambda: len(proxy.command("logs", "--json").stdout.splitlines()) >= 13, "they are kept")
        wait_until(lambda: json.loads(proxy.command("now", "--json").stdout)["room"], "there is a sample")
        yield proxy


def ask(proxy: RunningProxy, model: str) -> None:
    with OpenAI(base_url=proxy.base_url, api_key="x", max_retries=0) as client:
        try:
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])
        except APIStatusError:
            return


@contextmanager
def at_terminal(proxy: RunningProxy, *words: str, size: tuple[int, int] = (80, 24), **env: str) -> Iterator[Terminal]:
    """`quotapool WORDS` at a terminal of so many columns and lines."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    command = [sys.executable, "-m", "quotapool", *words, "--config", str(proxy.config_file)]
    with Terminal(command, proxy.state_dir.parent, {**kept, "TERM": "xterm-256color", **env}, size) as terminal:
        yield terminal


def line_of(lines: list[str], word: str) -> str:
    return next((line for line in lines if word in line), "")


# ---- top


@pytest.mark.parametrize("size", [(80, 24), (120, 36)])
def test_top_is_one_screen_of_what_there_is(pool, size):
    with at_terminal(pool, "top", size=size) as terminal:
        lines = terminal.wait_until(lambda lines: lines[-1].startswith("q quit"))
        assert lines[0].startswith("quotapool top  default  3 of 4 keys")
        assert lines[1].startswith("Serving: 3 of 4 keys.")
        assert "requests/s" in lines[2]
        assert "dead-key" in line_of(lines, "critical:")
        assert line_of(lines, "gpt-5.5").split()[1:2] in (["rpm"], ["tpm"])
        assert "removed" in line_of(lines, "dead-key  ")
        assert "anonymous" in lines[lines.index(line_of(lines, "CLIENTS")) + 1]
        assert any(line.startswith("ERRORS") for line in lines)
        terminal.type("q")
        assert terminal.end() == 0


@pytest.mark.parametrize("leave", ["q", "\x03", signal.SIGTERM], ids=["q", "ctrl-c", "sigterm"])
def test_the_terminal_is_given_back_as_it_was_however_top_ends(pool, leave):
    with at_terminal(pool, "top") as terminal:
        before = terminal.mode()
        terminal.wait_for("\x1b[?1049h")
        terminal.wait_until(lambda lines: lines[-1].startswith("q quit"))
        assert terminal.mode() != before
        if isinstance(leave, str):
            terminal.type(leave)
        else:
            os.kill(terminal.pid, leave)
        terminal.wait_for("\x1b[?7h\x1b[?25h\x1b[?1049l")
        wait_until(lambda: terminal.mode() == before, "the mode is what it was", 10)
        assert terminal.end() == 0


def test_after_ctrl_z_the_shell_has_its_terminal_and_top_comes_back_with_fg(pool):
    with at_terminal(pool, "top") as terminal:
        before = terminal.mode()
        terminal.wait_until(lambda lines: lines[-1].startswith("q quit"))
        terminal.type("\x1a")
        terminal.wait_for("\x1b[?1049l")
        wait_until(lambda: terminal.mode() == before, "the mode is what it was", 10)
        wait_until(lambda: _state_of(terminal.pid) == "T", "it is stopped", 10)
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.wait_for("\x1b[?1049h")
        terminal.wait_until(lambda lines: lines[-1].startswith("q quit"))
        terminal.type("q")
        assert terminal.end() == 0


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_top_follows_the_size_of_its_terminal(pool):
    with at_terminal(pool, "top", size=(120, 40)) as terminal:
        for columns, lines in ((120, 40), (60, 16), (100, 30)):
            terminal.resize(columns, lines)
            terminal.wait_for("\x1b[2J")  # drawn as a whole
            shown = terminal.wait_until(lambda lines: lines[-1].startswith("q quit"))
            assert shown[0].startswith("quotapool top")
            assert len(shown[0]) == columns  # which ends with the time


def test_keys_choose_what_top_shows(pool):
    with at_terminal(pool, "top") as terminal:
        terminal.wait_until(lambda lines: line_of(lines, "CLIENTS"))
        terminal.type("?")
        terminal.wait_until(lambda lines: lines[-1] == "any key goes back")
        terminal.type("x2\r")
        lines = terminal.wait_until(lambda lines: not line_of(lines, "CLIENTS") and line_of(lines, "KEYS"))
        assert all(line_of(lines, name) for name in ("dead-key", "key-0", "key-1", "key-2"))
        terminal.type("/dead\r")
        lines = terminal.wait_until(lambda lines: "Esc all rows (now: dead)" in lines[-1])
        assert not line_of(lines, "key-0 ")
        terminal.type("\x1b")
        terminal.wait_until(lambda lines: line_of(lines, "key-0 "))
        terminal.type("\x1b[Z\r")  # Shift-Tab
        terminal.wait_until(lambda lines: line_of(lines, "CLIENTS"))


def test_what_happens_appears_and_while_it_pauses_does_not(pool):
    with at_terminal(pool, "top", "--every", "1s") as terminal:
        terminal.wait_until(lambda lines: line_of(lines, "ERRORS"))
        terminal.type("4 ")
        terminal.wait_until(lambda lines: "PAUSED" in lines[0])
        ask(pool, "a-model-that-was-just-invented")
        wait_until(lambda: "just-invented" in pool.command("logs", "--json").stdout, "it is kept")
        terminal.type("?")
        terminal.wait_until(lambda lines: lines[-1] == "any key goes back")
        terminal.type("?")
        lines = terminal.wait_until(lambda lines: line_of(lines, "ERRORS"))
        assert not line_of(lines, "a-model-that")
        terminal.type(" ")
        terminal.wait_until(lambda lines: line_of(lines, "a-model-that"))


def test_top_follows_a_reload_of_the_configuration(simulator, tmp_path):
    config = pool_config(simulator)
    with (
        running_proxy(tmp_path, {**config, "keys": config["keys"][:2]}) as proxy,
        at_terminal(proxy, "top") as terminal,
    ):
        terminal.wait_until(lambda lines: line_of(lines, "key-1 ") and not line_of(lines, "key-2 "))
        proxy.config_file.write_text(yaml.safe_dump({**proxy.config, "keys": config["keys"][1:]}))
        terminal.wait_until(lambda lines: line_of(lines, "key-2 ") and not line_of(lines, "key-0 "))


def test_where_there_is_no_terminal_it_is_one_frame_without_control_characters(pool):
    done = pool.command("top")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith("quotapool top  default  3 of 4 keys")
    document = json.loads(pool.command("top", "--json").stdout)
    assert {row["id"] for row in document["keys"]} == {"dead-key", "key-0", "key-1", "key-2"}
    assert pool.command("top", "--every", "0.1s").returncode == 2
    with at_terminal(pool, "top", "--once", TERM="dumb") as terminal:
        assert terminal.end() == 0
        assert "\x1b[?1049h" not in terminal.shown
        assert "ERRORS" in terminal.shown


# ---- logs


@pytest.mark.parametrize("columns", [80, 120])
def test_a_request_is_a_line_of_the_terminal(pool, columns):
    with at_terminal(pool, "logs", "--last", "20", size=(columns, 40)) as terminal:
        assert terminal.end() == 0
        lines = terminal.shown.splitlines()
    whole = pool.command("logs", "--last", "20").stdout.splitlines()
    assert len(lines) == len(whole)
    assert all(len(line) <= columns for line in lines)
    ids = {line.split()[-1] for line in lines[1:]}
    assert ids == {line.split()[-1] for line in whole[1:]}  # for `explain`, whole
    assert re.match(r"time +client +model +status", lines[0])


@pytest.mark.parametrize("columns", [80, 120])
def test_an_event_is_a_line_of_the_terminal(pool, columns):
    with at_terminal(pool, "events", size=(columns, 40)) as terminal:
        assert terminal.end() == 0
        lines = terminal.shown.splitlines()
    whole = pool.command("events").stdout.splitlines()
    assert len(lines) == len(whole) > 0
    assert all(len(line) <= columns for line in lines)
    assert max(map(len, whole)) > columns  # upstream's words about the dead key


def test_new_requests_follow_until_ctrl_c(pool):
    with at_terminal(pool, "logs", "--last", "1", "-f") as terminal:
        terminal.wait_for("id\r\n")
        ask(pool, "text-that-follows")
        terminal.wait_for("text-that")
        terminal.type("\x03")
        assert terminal.end() == 0


# ---- questions and bars


def test_many_keys_are_changed_after_a_question_that_names_their_number(pool):
    with at_terminal(pool, "keys", "disable", "--match", "key-*") as terminal:
        terminal.wait_for("disable 3 of 4 keys, after which no key serves? [y/N]: ")
        terminal.type("n\r")
        assert terminal.end() == 2
    for key in "\x03", "\x04":  # Ctrl-C, Ctrl-D
        with at_terminal(pool, "keys", "disable", "--match", "key-*") as terminal:
            terminal.wait_for("[y/N]: ")
            terminal.type(key)
            terminal.wait_for("nothing was done")
            assert terminal.end() == 2
    with at_terminal(pool, "keys", "disable", "key-1", "key-2") as terminal:
        terminal.wait_for("disable 2 of 4 keys? [y/N]: ")
        terminal.type("y\r")
        terminal.wait_for("2 keys: 2 disabled")
        assert terminal.end() == 0
    found = pool.command("keys", "enable", "--state", "disabled", "--yes", "--json")
    assert json.loads(found.stdout) == {"keys": 2, "counts": {"enabled": 2}, "not_done": []}
    wrong = pool.command("keys", "enable", "--state", "disable", "--yes")
    assert (wrong.returncode, "--state is active, suspect" in wrong.stderr) == (2, True)
    assert json.loads(pool.command("keys", "drain", "key-1", "--json").stdout) == {"id": "key-1", "state": "draining"}
    listed = json.loads(pool.command("keys", "list", "--state", "draining", "--json").stdout)
    assert [row["id"] for row in listed["keys"]] == ["key-1"]
    assert pool.command("keys", "enable", "key-1").returncode == 0


def test_many_clients_are_suspended_resumed_and_revoked_at_once(simulator, tmp_path):
    written = [{"id": name, "key": name * 9, "team": "trials"} for name in ("trial-1", "trial-2")]
    written.append({"id": "shop", "key": "s" * 32})
    with running_proxy(tmp_path, pool_config(simulator, teams={"trials": {}}, clients=written)) as proxy:
        assert proxy.command("clients", "add", "web").returncode == 0
        with at_terminal(proxy, "clients", "suspend", "--team", "trials", "--reason", "over") as terminal:
            terminal.wait_for("suspend 2 of 4 clients? [y/N]: ")
            terminal.type("y\r")
            terminal.wait_for("2 clients are suspended")
            assert terminal.end() == 0

        def suspended() -> dict[str, Any]:
            rows = json.loads(proxy.command("clients", "list", "--json").stdout)["clients"]
            return {row["id"]: row["suspended"] for row in rows}

        assert suspended() == {"trial-1": "over", "trial-2": "over", "web": None, "shop": None}
        done = proxy.command("clients", "resume", "trial-1", "web", "--yes")
        assert done.returncode == 1
        assert "1 client is served again" in done.stdout
        assert "web: client 'web' is not suspended" in done.stdout
        unasked = proxy.command("clients", "revoke", "--match", "*")
        assert (unasked.returncode, "this would revoke 4 of 4 clients; --yes does it" in unasked.stderr) == (2, True)
        done = proxy.command("clients", "revoke", "--match", "*", "--yes")
        assert done.returncode == 1
        assert "1 client revoked" in done.stdout
        assert "shop: client shop is in the configuration" in done.stdout
        assert proxy.command("clients", "suspend", "nobody", "web").returncode == 2
        changes = [
            json.loads(line) for line in proxy.command("events", "--kind", "operator", "--json").stdout.splitlines()
        ]
        assert [(one["action"], one["field"]) for one in changes if one["action"] == "suspend_client"] == [
            ("suspend_client", "c/trial-1"),
            ("suspend_client", "c/trial-2"),
        ]


def test_what_lasts_has_a_bar_at_a_terminal_that_is_gone_afterwards(simulator, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("".join(f"sk-proj-imported-{n:032}\n" for n in range(6)))
    with running_proxy(tmp_path / "proxy", pool_config(simulator)) as proxy:
        words = ("keys", "import", str(keys), "--dry-run", "--per-second", "3")
        with at_terminal(proxy, *words) as terminal:
            terminal.wait_for("checking keys")
            terminal.wait_for("/6")
            terminal.wait_for("6 lines:")
            terminal.end()
            last = terminal.shown.rpartition("\x1b[2K")[2]  # erasing the bar's line
            assert "checking keys" not in last
        piped = proxy.command(*words, "--json")
        assert piped.stderr == ""
        assert json.loads(piped.stdout)["lines"] == 6


def test_checking_and_probing_many_keys_has_a_bar(tmp_path):
    with running_simulator(3, "--latency-ms", "1500") as slow, running_proxy(tmp_path, pool_config(slow)) as proxy:
        with at_terminal(proxy, "check") as terminal:
            terminal.wait_for("asking OpenAI about keys")
            terminal.wait_for("0/3")
            terminal.wait_for("3 of 3 keys usable")
            assert terminal.end() == 0
        with at_terminal(proxy, "keys", "probe", "--match", "*", "--yes") as terminal:
            terminal.wait_for("asking OpenAI about keys")
            terminal.wait_for("3 keys: 3 valid")
            assert terminal.end() == 0
        checked = proxy.command("check", "--json")
        assert (checked.stderr, json.loads(checked.stdout)["summary"]["usable"]) == ("", 3)
