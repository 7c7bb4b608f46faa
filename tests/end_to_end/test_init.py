"""`quotapool init` as a first user meets it, at a terminal and without one; the proxy serves from what it wrote."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from openai import OpenAI
from quotapool.settings import load

from tests.fakes.processes import Simulator, fetch, wait_until
from tests.fakes.running import running_simulator
from tests.fakes.terminal import Terminal
from tests.fakes.valkey import free_port

INIT = [sys.executable, "-m", "quotapool", "init"]
ALPHA, BETA = "sk-proj-alpha-0123456789abcdef", "sk-proj-beta-0123456789abcdef"


def environment(**more: str) -> dict[str, str]:
    """The tester's own without its keys and forward proxies."""
    plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**{name: value for name, value in plain.items() if not name.startswith("OPENAI_")}, **more}


def init(directory: Path, *words: str, typed: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Without a terminal."""
    return subprocess.run(
        [*INIT, *words], input=typed, capture_output=True, text=True, cwd=directory, env=environment(**env), timeout=60
    )


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def at_terminal(tmp_path: Path) -> Iterator[Terminal]:
    with Terminal(INIT, tmp_path, environment()) as terminal:
        terminal.wait_for("Key: ")
        yield terminal


# ---- at a terminal


def test_keys_are_asked_for_without_echo_until_an_empty_line(at_terminal: Terminal, tmp_path: Path):
    at_terminal.type(f"{ALPHA}\n")
    at_terminal.wait_for("taken: key-")
    at_terminal.type(f"{BETA}, {ALPHA}\n")  # a comma between, and one that was there
    at_terminal.wait_for("not taken: the same key")
    at_terminal.type("sk-admin-0123456789abcdef\n")
    at_terminal.wait_for("not taken: an sk-admin- key")
    at_terminal.type("\n")
    at_terminal.wait_for("[y/N]")
    at_terminal.type("\n")
    assert at_terminal.end() == 0
    assert "quotapool check --config quotapool.yaml" in at_terminal.shown
    assert "quotapool serve --config quotapool.yaml" in at_terminal.shown
    assert "0123456789" not in at_terminal.shown
    assert names(tmp_path) == ["quotapool.keys", "quotapool.yaml"]
    assert (tmp_path / "quotapool.keys").read_text() == f"{ALPHA}\n{BETA}\n"
    assert stat.S_IMODE((tmp_path / "quotapool.keys").stat().st_mode) == 0o600
    assert "sk-" not in (tmp_path / "quotapool.yaml").read_text()


def test_lines_that_are_pasted_together_are_all_taken(at_terminal: Terminal, tmp_path: Path):
    pasted = [f"sk-proj-{number:04d}-0123456789abcdef" for number in range(40)]
    at_terminal.type("\n".join(pasted) + "\n\n\n")  # the last empty line answers the question
    assert at_terminal.end() == 0
    assert (tmp_path / "quotapool.keys").read_text().split() == pasted


def test_whoever_lets_other_machines_in_gets_a_client_key_once(at_terminal: Terminal, tmp_path: Path):
    at_terminal.type(f"{ALPHA}\n\n")
    at_terminal.wait_for("[y/N]")
    at_terminal.type("y\n")
    assert at_terminal.end() == 0
    config = yaml.safe_load((tmp_path / "quotapool.yaml").read_text())
    assert config["listen"] == "0.0.0.0:8080"
    assert [client["id"] for client in config["clients"]] == ["app"]
    key = re.search(r"OPENAI_API_KEY=(qp-\S+)", at_terminal.shown)
    assert key
    assert key[1] not in (tmp_path / "quotapool.yaml").read_text()


@pytest.mark.parametrize("question", ["Key: ", "[y/N]"])
def test_ctrl_c_in_the_middle_leaves_nothing_and_a_terminal_that_echoes(question: str, tmp_path: Path):
    shell = ["/bin/sh", "-c", f'trap : INT; {" ".join(INIT)}; echo "code $?"; read line; echo "read <$line>"']
    with Terminal(shell, tmp_path, environment()) as terminal:
        terminal.wait_for("Key: ")
        terminal.type(f"{ALPHA}\n")
        terminal.wait_for("Key: ")
        if question != "Key: ":
            terminal.type("\n")
            terminal.wait_for(question)
        terminal.type("\x03")
        terminal.wait_for("nothing was written")
        terminal.wait_for("code 130")
        terminal.type("seen\n")
        terminal.wait_for("read <seen>")
        assert "seen\r\n" in terminal.shown.partition("read <")[0]  # echoed again
    assert names(tmp_path) == []


def test_ctrl_d_at_a_question_leaves_nothing(at_terminal: Terminal, tmp_path: Path):
    at_terminal.type(f"{ALPHA}\n\n")
    at_terminal.wait_for("[y/N]: ")
    at_terminal.type("\x04")
    assert at_terminal.end() == 130
    assert "nothing was written" in at_terminal.shown
    assert names(tmp_path) == []


def test_a_process_that_is_ended_while_it_asks_gives_the_terminal_back(tmp_path: Path):
    script = f'{" ".join(INIT)} & echo "pid $!"; fg; echo "code $?"; read line'
    with Terminal(["/bin/sh", "-mc", script], tmp_path, environment()) as terminal:
        terminal.wait_for("Key: ")
        pid = re.search(r"pid (\d+)", terminal.shown)
        assert pid
        os.kill(int(pid[1]), signal.SIGTERM)
        terminal.wait_for("code 143")
        terminal.type("seen\n")
        terminal.wait_for("seen")
    assert names(tmp_path) == []


def test_keys_in_the_environment_may_stay_there(tmp_path: Path):
    with Terminal(INIT, tmp_path, environment(OPENAI_API_KEYS=f"{ALPHA},{BETA}")) as terminal:
        terminal.wait_for("OPENAI_API_KEYS is set")
        terminal.wait_for("[Y/n]: ")
        terminal.type("maybe\n")
        terminal.wait_for("Please answer y or n.")
        terminal.wait_for("[Y/n]: ")
        terminal.type("\n")
        terminal.wait_for("[y/N]")
        terminal.type("\n")
        assert terminal.end() == 0
        assert "0123456789" not in terminal.shown
    assert names(tmp_path) == ["quotapool.yaml"]


def test_a_line_that_the_terminal_cuts_is_not_taken(at_terminal: Terminal, tmp_path: Path):
    at_terminal.type("sk-" + "x" * 5000 + "\n")
    at_terminal.wait_for("too long for a terminal")
    at_terminal.type("\n")
    at_terminal.wait_for("no key was given")
    assert at_terminal.end() == 2
    assert names(tmp_path) == []


# ---- without one


@pytest.mark.parametrize(
    ("words", "typed", "says"),
    [
        ((), "", "--from-env"),
        (("--from-env",), "", "OPENAI_API_KEYS is not set"),
        (("--keys", "nowhere.txt"), "", "nowhere.txt: no such file"),
        (("--keys", "-"), "", "contains no secrets"),
        (("--keys", "-"), "sk-good-0123456789\nsk-admin-0123456789\n", "standard input:2: secret: an sk-admin- key"),
        (("--keys", "-"), "two words of text 0123456789é\n", "standard input:1: "),
        (("--keys", "-"), "id,secret,acount\na,sk-good-0123456789,x\n", "standard input:1: "),
        (("--keys", "-"), "sk-good-0123456789\nsk-good-0123456789\n", "standard input:2: has the same secret"),
        (("--keys", "-", "--compose"), "secret,account\nsk-good-0123456789,acme\n", "no place for ids and accounts"),
        (("--keys", "-", "--from-env"), "", "choose one of"),
        (("--keys", "-", "--listen", "8080"), f"{ALPHA}\n", "--listen: must be host:port"),
        (("--keys", "-", "--listen", "127.0.0.1:9090"), f"{ALPHA}\n", "admin_listen"),
        (("--keys", "-", "--client", "sk-0123456789abcdef"), f"{ALPHA}\n", "--client: looks like a secret"),
        (("--systemd", "--compose"), "", "choose one of"),
        (("--keys", "-", "quotapool.txt"), f"{ALPHA}\n", "must end with .yaml"),
        (("--keys", "-", "/proc/quotapool.yaml"), f"{ALPHA}\n", "/proc: "),
        ((".",), "", "is a directory"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_remedy_and_nothing_is_written(words, typed, says, tmp_path: Path):
    done = init(tmp_path, *words, typed=typed)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "0123456789" not in done.stdout + done.stderr
    assert names(tmp_path) == []


def test_a_table_of_keys_is_kept_with_its_ids_and_accounts(tmp_path: Path):
    table = f"# of the team\nid,secret,account\na,{ALPHA},acme\nb,{BETA},acme\n"
    assert init(tmp_path, "--keys", "-", typed=table).returncode == 0
    assert (tmp_path / "quotapool.keys").read_text() == table
    settings = load(tmp_path / "quotapool.yaml", env={})
    assert [(key.id, key.account) for key in settings.keys] == [("a", "acme"), ("b", "acme")]


def test_files_that_exist_are_left_alone_without_force(tmp_path: Path):
    (tmp_path / "quotapool.keys").write_text("mine\n")
    done = init(tmp_path, "--keys", "-", typed=f"{ALPHA}\n")
    assert done.returncode == 2
    assert "quotapool.keys exists already" in done.stderr
    assert "--force" in done.stderr
    assert names(tmp_path) == ["quotapool.keys"]
    assert (tmp_path / "quotapool.keys").read_text() == "mine\n"
    assert init(tmp_path, "--keys", "-", "--force", typed=f"{ALPHA}\n").returncode == 0
    assert (tmp_path / "quotapool.keys").read_text() == f"{ALPHA}\n"


def test_a_variable_that_the_proxy_would_refuse_is_found_before_anything_is_written(tmp_path: Path):
    done = init(tmp_path, "--keys", "-", typed=f"{ALPHA}\n", QUOTAPOOL_WROKERS="2")
    assert done.returncode == 2
    assert "QUOTAPOOL_WROKERS" in done.stderr
    assert names(tmp_path) == []


def test_compose_gets_the_keys_in_an_env_file_and_a_client(tmp_path: Path):
    done = init(tmp_path, "--keys", "-", "--compose", typed=f"{ALPHA}\n{BETA}\n")
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == ["compose.yaml", "quotapool.env", "quotapool.yaml"]
    assert (tmp_path / "quotapool.env").read_text() == f"OPENAI_API_KEYS={ALPHA},{BETA}\n"
    assert stat.S_IMODE((tmp_path / "quotapool.env").stat().st_mode) == 0o600
    assert yaml.safe_load((tmp_path / "compose.yaml").read_text())["services"]["proxy"]["env_file"] == [
        "./quotapool.env"
    ]
    assert "OPENAI_API_KEY=qp-" in done.stdout


def test_a_unit_can_be_made_for_a_configuration_that_exists(tmp_path: Path):
    assert init(tmp_path, "--keys", "-", typed=f"{ALPHA}\n").returncode == 0
    before = (tmp_path / "quotapool.yaml").read_text()
    done = init(tmp_path, "--systemd")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "quotapool.yaml").read_text() == before
    unit = (tmp_path / "quotapool.service").read_text()
    assert "LoadCredential=keys_file:/etc/quotapool/quotapool.keys" in unit
    assert f"install --mode 600 --target-directory /etc/quotapool {tmp_path}/quotapool.keys" in done.stdout
    assert init(tmp_path, "--systemd").returncode == 2  # the unit exists


@pytest.mark.parametrize("form", ["--systemd", "--compose", "--helm"])
def test_secrets_in_a_configuration_that_others_will_read_are_refused(form: str, tmp_path: Path):
    config = f"keys: [{{secret: {ALPHA}}}]\nallow_anonymous: true\n"
    (tmp_path / "quotapool.yaml").write_text(config)
    done = init(tmp_path, form)
    assert done.returncode == 2
    assert "${NAME}" in done.stderr
    assert done.stdout == ""
    assert names(tmp_path) == ["quotapool.yaml"]


def test_helm_only_prints(tmp_path: Path):
    done = init(tmp_path, "--helm")
    assert done.returncode == 0
    values = yaml.safe_load(done.stdout)
    assert values["keys"] == {"existingSecret": "quotapool-keys", "secretKey": "OPENAI_API_KEYS"}
    assert [client["id"] for client in values["config"]["clients"]] == ["app"]
    assert "qp-" in done.stderr
    assert "qp-" not in done.stdout
    assert names(tmp_path) == []


# ---- it serves


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(3) as running:
        yield running


def test_the_proxy_serves_from_what_was_written_and_says_so_to_a_service_manager(simulator: Simulator, tmp_path: Path):
    port, admin_port = free_port(), free_port()
    done = init(
        tmp_path, "--keys", "-", "--listen", f"127.0.0.1:{port}", "--client", "app", typed="\n".join(simulator.secrets)
    )
    assert done.returncode == 0, done.stderr
    url, key = re.search(r"OPENAI_BASE_URL=(\S+)\s+export OPENAI_API_KEY=(\S+)", done.stdout).groups()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        env = environment(
            QUOTAPOOL_UPSTREAM=simulator.url,
            QUOTAPOOL_ADMIN_LISTEN=f"127.0.0.1:{admin_port}",
            QUOTAPOOL_STATE_DIR=str(tmp_path / "state"),
            NOTIFY_SOCKET=str(tmp_path / "notify"),
        )
        # The command that it said, word for word.
        serve = next(line.split() for line in done.stdout.splitlines() if line.startswith("  quotapool serve"))
        proxy = subprocess.Popen(
            [sys.executable, "-m", *serve], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            assert manager.recv(100) == b"READY=1"
            assert fetch(f"http://127.0.0.1:{admin_port}/readyz")[0] == 200
            client = OpenAI(base_url=url, api_key=key)
            answer = client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}]
            )
            assert answer.choices[0].message.content
            assert fetch(f"{url}/models", headers={"Authorization": "Bearer anything-else"})[0] == 401
            proxy.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            wait_until(lambda: proxy.poll() is not None, "the proxy stops")
        finally:
            proxy.kill()
            proxy.wait(10)
