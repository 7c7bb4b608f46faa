"""Which proxy a command is about, and what it says if that is not the one that was meant."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from quotapool.app import running_proxies
from quotapool.app.command_server import CommandServer
from quotapool.app.command_socket import FILE, Answer, Head, listening
from quotapool.cli import health, running
from quotapool.cli.access import run_with_store
from quotapool.cli.running import NoSettings, settings_for
from quotapool.settings import Settings
from quotapool.store.owner import give_to_owner

SECRET = "sk-of-the-running-proxy"


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """No service and no other proxy is on this machine, until a test says so."""
    monkeypatch.setattr(running_proxies, "SERVICE", tmp_path / "no-service")
    monkeypatch.setattr(running_proxies, "_UNIX_SOCKETS", tmp_path / "no-sockets")
    monkeypatch.setattr(running, "_WAIT_S", 0.3)


@pytest.fixture
def env(tmp_path) -> dict[str, str]:
    """That of a terminal: the state_dir is state/quotapool."""
    return {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}


@contextlib.asynccontextmanager
async def proxy(state_dir: Path, environment: dict[str, str] | None = None, monkeypatch=None, **options):
    """One that runs on `state_dir`, as far as commands ask it."""
    state_dir.mkdir(parents=True, exist_ok=True)
    settings = Settings.model_validate({"state_dir": state_dir, "keys": [{"secret": SECRET}], **options})
    for name, value in (environment or {}).items():
        monkeypatch.setenv(name, value)
    server = CommandServer(state_dir)
    for name in environment or {}:
        monkeypatch.delenv(name)
    await server.open()
    server.ready(lambda: settings, settings, "unix:///nowhere/valkey.sock")
    try:
        yield server
    finally:
        await server.close()


async def found(env, config: Path | None = None, env_file: Path | None = None) -> Settings:
    return await asyncio.to_thread(settings_for, config, env_file, env)


async def test_nothing_given_means_the_proxy_on_the_state_dir_of_this_user(env, tmp_path, capsys):
    async with proxy(tmp_path / "state" / "quotapool", pool="mine"):
        assert (await found(env)).pool == "mine"
        assert (await found({**env, "OPENAI_API_KEY": "any-text"})).keys[0].secret.get_secret_value() == SECRET
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("named", ["{home}/elsewhere", "~/elsewhere", " {home}/elsewhere "])
async def test_a_named_state_dir_is_the_only_place_where_it_looks(named, env, tmp_path):
    async with proxy(tmp_path / "state" / "quotapool", pool="mine"), proxy(tmp_path / "elsewhere", pool="theirs"):
        assert (await found({**env, "QUOTAPOOL_STATE_DIR": named.format(home=tmp_path)})).pool == "theirs"
        nowhere = await found({**env, "QUOTAPOOL_STATE_DIR": str(tmp_path / "new")})
        assert (nowhere.pool, nowhere.keys, nowhere.state_dir) == ("default", (), tmp_path / "new")


async def test_the_state_dir_is_the_one_that_leads_there_from_here(env, tmp_path):
    """A container's /var/lib/quotapool is elsewhere on its host."""
    seen_here = tmp_path / "volume"
    async with proxy(tmp_path / "inside"):
        seen_here.symlink_to(tmp_path / "inside")
        assert (await found({**env, "QUOTAPOOL_STATE_DIR": str(seen_here)})).state_dir == seen_here


async def test_a_service_is_found_after_the_users_own_proxy(env, tmp_path, monkeypatch):
    service = tmp_path / "var" / "lib"
    monkeypatch.setattr(running_proxies, "SERVICE", service)
    async with proxy(service, pool="service"):
        assert (await found(env)).pool == "service"
        async with proxy(tmp_path / "unit", pool="unit"):
            assert (await found({**env, "STATE_DIRECTORY": f"{tmp_path}/unit:/other"})).pool == "unit"
        async with proxy(tmp_path / "state" / "quotapool", pool="mine"):
            assert (await found(env)).pool == "mine"


AS_SOMEBODY = """
import os, sys
from pathlib import Path
from quotapool.app import running_proxies
from quotapool.cli import running
running_proxies.SERVICE = Path(sys.argv[1])
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(4321); os.setuid(4321)
try:
    running.settings_for(None, None, {"HOME": "/nowhere"})
except running.NoSettings as error:
    print(error)
"""


def test_a_service_of_another_user_is_named_with_the_way_in(tmp_path):
    service = tmp_path / "closed"
    service.mkdir(mode=0o000)
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", AS_SOMEBODY, service], capture_output=True, text=True, env=path)
    owner = pwd.getpwuid(os.geteuid()).pw_name
    way_in = "sudo quotapool …" if owner == "root" else f"sudo -u {owner} quotapool …"
    assert done.stdout.splitlines()[:2] == [
        "no proxy runs on /nowhere/.local/state/quotapool",
        f"{service} belongs to the user {owner}. Its proxy answers that user and root: {way_in}",
    ], done.stderr


async def test_a_stopped_service_is_not_mistaken_for_a_new_store(env, tmp_path, monkeypatch):
    service = tmp_path / "var" / "lib"
    service.mkdir(parents=True)
    monkeypatch.setattr(running_proxies, "SERVICE", service)
    with pytest.raises(NoSettings) as raised:
        await found(env)
    assert f"no proxy runs on {tmp_path}/state/quotapool\n" in str(raised.value)
    assert f"QUOTAPOOL_STATE_DIR={service} quotapool" in str(raised.value)


async def test_the_users_other_proxies_are_named(env, tmp_path, monkeypatch):
    place = tmp_path / "demo state"
    place.mkdir()
    sockets = tmp_path / "unix"
    monkeypatch.setattr(running_proxies, "_UNIX_SOCKETS", sockets)
    kernel = "Num       RefCount Protocol Flags    Type St Inode Path\n0000: 00000002 00000000 00010000 0001 01 123"
    sockets.write_text(f"{kernel}\n{kernel} {place}/{FILE}.new\n{kernel} @abstract\n{kernel} /gone/{FILE}.new\n")
    with listening(place), pytest.raises(NoSettings) as raised:
        await found(env)
    assert str(raised.value).splitlines()[1:] == [f"a proxy runs on {place}: QUOTAPOOL_STATE_DIR={place} quotapool …"]
    if (unix := Path("/proc/net/unix")).exists():  # as the kernel of this machine writes it
        monkeypatch.setattr(running_proxies, "_UNIX_SOCKETS", unix)
        with (
            tempfile.TemporaryDirectory(prefix="qp ") as short,
            listening(Path(short)),
        ):  # a long path is bound otherwise
            assert Path(short) in running_proxies.state_dirs() or len(running_proxies.state_dirs()) == 5


# ---- a configuration that is given


async def test_only_what_the_proxy_was_not_started_with_is_given(env, tmp_path, monkeypatch, capsys):
    theirs = {"QUOTAPOOL_POOL": "team", "OPENAI_API_KEYS": "sk-one-0123456789"}
    async with proxy(tmp_path / "state" / "quotapool", theirs, monkeypatch, pool="team", sticky=False):
        assert (await found({**env, **theirs})).sticky is False
        assert capsys.readouterr().err == ""
        own = await found({**env, **theirs, "OPENAI_API_KEYS": "sk-two-0123456789"})
        assert (own.sticky, own.keys[0].secret.get_secret_value()) == (True, "sk-two-0123456789")
        assert capsys.readouterr().err == ""  # the same pool in the same store
        await found({**env, **theirs, "QUOTAPOOL_POOL": "other"})
        assert (
            "has the pool team in the embedded store; this command is about the pool other" in capsys.readouterr().err
        )


async def test_a_given_file_comes_first_and_the_proxys_shared_store_is_said_without_its_login(env, tmp_path, capsys):
    file = tmp_path / "quotapool.yaml"
    file.write_text(f"{{keys: [{{secret: sk-of-the-file-0123}}], state_dir: {tmp_path}/there}}")
    async with proxy(tmp_path / "there", redis="redis://me:hunter2@10.1.1.1/2"):
        assert (await found(env, config=file)).keys[0].secret.get_secret_value() == "sk-of-the-file-0123"
    said = capsys.readouterr().err
    assert "has the pool default at redis://10.1.1.1:6379/2; this command is about the pool default in" in said
    assert "hunter2" not in said


async def test_what_is_wrong_with_it_is_said_and_that_there_is_a_proxy_to_ask(env, tmp_path):
    bad = tmp_path / "quotapool.yaml"
    bad.write_text("keys: [{secret: '${NOT_HERE}'}]")
    with pytest.raises(NoSettings) as alone:
        await found(env, config=bad)
    assert "NOT_HERE" in str(alone.value)
    assert "A proxy runs" not in str(alone.value)
    async with proxy(tmp_path / "state" / "quotapool"):
        with pytest.raises(NoSettings, match=r"NOT_HERE[\s\S]*A proxy runs on .*: without --config, this command"):
            await found(env, config=bad)
        with pytest.raises(NoSettings, match=r"without QUOTAPOOL_WORKRES, this command"):
            await found({**env, "QUOTAPOOL_WORKRES": "4"})


# ---- proxies that cannot be asked


async def test_one_that_does_not_become_ready_is_not_waited_for_forever(env, tmp_path):
    async with proxy(tmp_path / "state" / "quotapool") as server:
        server.stopping()
        with pytest.raises(NoSettings, match=rf"process {os.getpid()}\) is stopping; try again"):
            await found(env)


async def test_one_of_a_newer_version_is_named_and_none_of_its_secrets(env, tmp_path):
    state = tmp_path / "state" / "quotapool"
    state.mkdir(parents=True)
    wire = msgspec.json.encode({"keys": [{"secret": SECRET, "of_tomorrow": 1}], "admin_token": SECRET})
    head = Head(os.getpid(), "9.9.9", "", str(state), settings_bytes=len(wire))
    newer = listening(state)
    newer.setblocking(True)

    def answer_once():
        connection, _ = newer.accept()
        with connection:
            connection.sendall(msgspec.json.encode(head) + b"\n" + wire)

    with newer:
        answering = asyncio.create_task(asyncio.to_thread(answer_once))
        with pytest.raises(NoSettings, match=r"is version 9\.9\.9, and this command") as raised:
            await found(env)
        await answering
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


def test_the_embedded_store_of_a_proxy_with_a_tmp_of_its_own_is_reached_through_its_root(tmp_path):
    here = tmp_path / "valkey.sock"
    here.touch()
    head = Head(1, "0.1.0", "", "/s", embedded_url=f"unix://{here}")
    assert Answer(head, b"", os.getpid(), tmp_path).embedded_url == f"unix://{here}"
    here.unlink()
    assert Answer(head, b"", 4321, tmp_path).embedded_url == f"unix:///proc/4321/root{here}"


def test_a_command_that_reads_an_embedded_store_without_a_proxy_says_so_once(tmp_path, capsys):
    async def command(store):
        return 0 if await store.client.ping() else 1

    assert run_with_store(Settings(state_dir=tmp_path, pool="team"), command) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("no proxy runs on") == 1
    assert "of the pool team" in printed.err


async def test_with_a_configuration_a_proxy_that_starts_need_not_be_waited_for(tmp_path, env):
    state_dir = tmp_path / "state" / "quotapool"
    state_dir.mkdir(parents=True)
    server = CommandServer(state_dir)
    await server.open()  # and is not ready
    given = {**env, "OPENAI_API_KEYS": SECRET}
    settings = await asyncio.to_thread(settings_for, None, None, given, wait_s=0.3)
    assert [key.secret.get_secret_value() for key in settings.keys] == [SECRET]
    with pytest.raises(NoSettings, match=r"is starting|does not answer"):
        await asyncio.to_thread(settings_for, None, None, env, wait_s=0.3)
    await server.close()


# ---- root, beside a proxy of another user


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_creates_becomes_the_owners_and_nothing_else_does(tmp_path):
    os.chown(tmp_path, 4321, 4322)
    file = tmp_path / "audit.log"
    with file.open("w") as new:
        give_to_owner(new.fileno(), tmp_path)
    assert (file.stat().st_uid, file.stat().st_gid) == (4321, 4322)
    for name in ("filled", "linked"):
        (tmp_path / name).write_text("a secret of root's" if name == "filled" else "")
    (tmp_path / "link").hardlink_to(tmp_path / "linked")
    for name in ("filled", "link"):
        with (tmp_path / name).open("a") as old:
            give_to_owner(old.fileno(), tmp_path)
        assert (tmp_path / name).stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_does_not_start_the_store_of_another_user(tmp_path, capsys):
    data = tmp_path / "valkey"
    data.mkdir()
    os.chown(data, 65534, 65534)

    async def command(_):
        raise AssertionError("not reached")

    assert run_with_store(Settings(state_dir=tmp_path), command) == 2
    assert f"no proxy runs on {tmp_path}, whose store belongs to the user" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [data]


# ---- health


async def test_healthcheck_finds_the_service_and_else_this_users_only_proxy(tmp_path, monkeypatch):
    sockets = tmp_path / "unix"
    monkeypatch.setattr(running_proxies, "_UNIX_SOCKETS", sockets)
    async with proxy(tmp_path, admin_listen="0.0.0.0:9191"):
        line = f"0000: 00000002 00000000 00010000 0001 01 123 {tmp_path}/{FILE}.new\n"
        sockets.write_text(line)
        assert await asyncio.to_thread(health.operators_address, {}) == "0.0.0.0:9191"
        another = tmp_path / "another"
        another.mkdir()
        with listening(another):  # which of the two is meant?
            sockets.write_text(line + line.replace(f"{tmp_path}/", f"{another}/"))
            assert await asyncio.to_thread(health.operators_address, {}) == "127.0.0.1:9090"
            monkeypatch.setattr(running_proxies, "SERVICE", tmp_path)
            assert await asyncio.to_thread(health.operators_address, {}) == "0.0.0.0:9191"


async def test_healthcheck_asks_where_the_proxy_on_the_state_dir_listens(tmp_path):
    async with proxy(tmp_path, admin_listen="0.0.0.0:9191"):
        address = await asyncio.to_thread(health.operators_address, {"QUOTAPOOL_STATE_DIR": str(tmp_path)})
    assert address == "0.0.0.0:9191"
    assert health.operators_address({"QUOTAPOOL_STATE_DIR": str(tmp_path)}) == "127.0.0.1:9090"
    assert health.operators_address({}) == "127.0.0.1:9090"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as hanging:
        hanging.bind(str(tmp_path / FILE))
        hanging.listen()
        assert (
            await asyncio.to_thread(health.operators_address, {"QUOTAPOOL_STATE_DIR": str(tmp_path)})
            == "127.0.0.1:9090"
        )
