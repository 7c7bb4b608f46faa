"""Commands of the proxy's user, and of root, get the settings in force from its socket; nobody else gets anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from quotapool.app.command_server import CommandServer
from quotapool.app.command_socket import FILE, NotAllowed, Silent, ask, given_in
from quotapool.settings import Settings, from_wire, with_origin
from quotapool.settings.model import Origin

SECRET = "sk-of-the-command-socket"


def settings_of(state_dir: Path, **options) -> Settings:
    keys = [{"id": "alpha", "secret": SECRET}]
    return Settings.model_validate({"state_dir": state_dir, "pool": "team", "keys": keys, **options})


@contextlib.asynccontextmanager
async def answering(state_dir: Path, settings: Settings | None = None):
    """A server that is ready with `settings`; without: one that still starts."""
    state_dir.mkdir(parents=True, exist_ok=True)
    server = CommandServer(state_dir)
    await server.open()
    if settings is not None:
        server.ready(lambda: settings, settings, "unix:///nowhere/valkey.sock")
    try:
        yield server
    finally:
        await server.close()


async def asked(state_dir: Path, **options):
    return await asyncio.to_thread(ask, state_dir, **{"with_settings": True, "patience_s": 30.0, **options})


async def test_a_command_gets_the_settings_with_their_secrets_and_where_they_came_from(tmp_path):
    settings = settings_of(tmp_path, redis="redis://user:hunter2@10.0.0.1:6380/3", admin_token="admin-token-0123456789")
    with_origin(
        settings, Origin(warnings=("one warning",), places={"pool": "quotapool.yaml:3"}, loaded_at=1764000000.5)
    )
    async with answering(tmp_path, settings):
        answer = await asked(tmp_path)
    told = from_wire(answer.wire)
    assert told.model_dump() == settings.model_dump()
    assert told.keys[0].secret.get_secret_value() == SECRET
    head = answer.head
    assert (head.pid, answer.pid, head.phase, head.pool) == (os.getpid(), os.getpid(), "", "team")
    assert (head.store, head.embedded_url) == ("redis://10.0.0.1:6380/3", "")
    assert (head.places, head.warnings, head.loaded_at) == (
        {"pool": "quotapool.yaml:3"},
        ("one warning",),
        1764000000.5,
    )
    assert "hunter2" not in str(head)


async def test_what_needs_a_restart_is_told_as_it_is_in_force(tmp_path):
    started = settings_of(tmp_path, workers=1, tiers={})
    reloaded = settings_of(tmp_path, workers=4, pool="renamed", allow_anonymous=True)
    async with answering(tmp_path) as server:
        now = started
        server.ready(lambda: now, started, "unix:///nowhere/valkey.sock")
        assert from_wire((await asked(tmp_path)).wire) == started
        now = reloaded
        answer = await asked(tmp_path)
    told = from_wire(answer.wire)
    assert (told.workers, told.pool, told.allow_anonymous) == (1, "team", True)
    assert answer.head.embedded_url == "unix:///nowhere/valkey.sock"


async def test_while_it_starts_and_stops_it_says_so_and_tells_nothing(tmp_path):
    async with answering(tmp_path) as server:
        answer = await asked(tmp_path)
        assert (answer.head.phase, answer.wire) == ("starting", b"")
        settings = settings_of(tmp_path)
        server.ready(lambda: settings, settings, "")
        assert (await asked(tmp_path)).head.phase == ""
        server.stopping()
        answer = await asked(tmp_path)
        assert (answer.head.phase, answer.wire) == ("stopping", b"")
    assert await asked(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


async def test_only_its_user_can_open_the_socket_whatever_the_directory_allows(tmp_path):
    tmp_path.chmod(0o777)
    before = os.umask(0)
    try:
        async with answering(tmp_path, settings_of(tmp_path)):
            assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_a_path_that_is_too_long_for_a_socket_is_no_hindrance(tmp_path):
    long = tmp_path / ("a" * 100) / ("b" * 100)
    async with answering(long, settings_of(long)):
        assert (await asked(long)).head.state_dir == str(long)


async def test_what_a_killed_proxy_left_behind_is_nobody_and_is_replaced(tmp_path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / FILE))
    left.listen()
    left.close()
    assert await asked(tmp_path) is None
    async with answering(tmp_path, settings_of(tmp_path)):
        assert (await asked(tmp_path)).head.pool == "team"


async def test_a_second_proxy_on_the_state_dir_leaves_the_first_ones_socket_alone(tmp_path):
    async with answering(tmp_path, settings_of(tmp_path)):
        async with answering(tmp_path, settings_of(tmp_path, pool="second")):
            assert (await asked(tmp_path)).head.pool == "team"
        assert (await asked(tmp_path)).head.pool == "team"


async def test_a_socket_that_replaced_ours_stays_when_we_end(tmp_path):
    async with answering(tmp_path, settings_of(tmp_path)):
        (tmp_path / FILE).unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(tmp_path / FILE))
    assert (tmp_path / FILE).exists()
    other.close()


async def test_where_there_can_be_no_socket_the_proxy_serves_without(tmp_path):
    server = CommandServer(tmp_path / "not-there")
    await server.open()
    await server.close()
    (tmp_path / FILE).mkdir()
    async with answering(tmp_path, settings_of(tmp_path)):
        assert await asked(tmp_path) is None


# ---- callers that behave badly


async def test_what_a_caller_sends_is_not_read(tmp_path):
    async with answering(tmp_path, settings_of(tmp_path)):
        reader, writer = await asyncio.open_unix_connection(tmp_path / FILE)
        writer.write(os.urandom(100_000) + b"\nGET / HTTP/1.1\r\n\r\n" + b'{"pid": 1}\n')
        with contextlib.suppress(OSError):
            await writer.drain()
            await reader.read()
        writer.close()
        assert (await asked(tmp_path)).head.pool == "team"


async def test_a_thousand_callers_that_read_nothing_hold_nobody_up_for_long(tmp_path):
    """Each of them would have to take more than the kernel keeps for it, 208 KiB."""
    keys = [{"id": f"key-{number:05}", "secret": f"sk-{number:05}-{'x' * 60}"} for number in range(5_000)]
    settings = settings_of(tmp_path, keys=keys)
    async with answering(tmp_path, settings):
        size = len((await asked(tmp_path)).wire)
        assert size > 500_000
        silent = []
        for _ in range(1_000):
            one = socket.socket(socket.AF_UNIX)
            one.setblocking(False)
            silent.append(one)
            with contextlib.suppress(BlockingIOError):
                one.connect(str(tmp_path / FILE))
        with pytest.raises(Silent):
            await asked(tmp_path, patience_s=0.5)
        for one in silent:
            one.close()
        assert len((await asked(tmp_path)).wire) == size


@pytest.mark.usefixtures("virtual_time")
async def test_a_caller_that_does_not_take_its_answer_is_cut_off_after_five_seconds(tmp_path):
    keys = [{"id": f"key-{number:05}", "secret": f"sk-{number:05}-{'x' * 60}"} for number in range(5_000)]
    async with answering(tmp_path, settings_of(tmp_path, keys=keys)) as server:
        size = len(await server._text())
        slow = socket.socket(socket.AF_UNIX)
        slow.connect(str(tmp_path / FILE))
        await asyncio.sleep(4.9)
        assert len(server._callers) == 1
        await asyncio.sleep(0.2)
        assert len(server._callers) == 0
        received = 0
        while some := slow.recv(2**20):
            received += len(some)
        assert 0 < received < size
        slow.close()


async def has_its_socket_again(server: CommandServer) -> bool:
    """After the time in which it looks, which it does in a thread."""
    await asyncio.sleep(5.1)
    for _ in range(1_000):
        await asyncio.to_thread(os.getpid)
        if server._opened is not None and (server._state_dir / FILE).exists():
            return True
    return False


@pytest.mark.usefixtures("virtual_time")
async def test_a_proxy_that_outlives_the_other_on_its_state_dir_takes_the_socket_over(tmp_path):
    first = CommandServer(tmp_path)
    await first.open()
    async with answering(tmp_path, settings_of(tmp_path, pool="second")) as second:
        assert second._opened is None
        await first.close()
        assert await has_its_socket_again(second)
        assert (await asked(tmp_path)).head.pool == "second"


@pytest.mark.usefixtures("virtual_time")
async def test_a_socket_that_was_removed_is_there_again(tmp_path):
    async with answering(tmp_path, settings_of(tmp_path)) as server:
        (tmp_path / FILE).unlink()
        assert await has_its_socket_again(server)
        assert (await asked(tmp_path)).head.pool == "team"


async def test_a_caller_that_goes_away_half_way_is_forgotten(tmp_path):
    keys = [{"id": f"key-{number:05}", "secret": f"sk-{number:05}-{'x' * 60}"} for number in range(5_000)]
    async with answering(tmp_path, settings_of(tmp_path, keys=keys)):
        for _ in range(30):  # more than are answered at the same time
            _, writer = await asyncio.open_unix_connection(tmp_path / FILE)
            writer.transport.abort()
        assert (await asked(tmp_path)).head.pool == "team"


# ---- answers that are none


@pytest.mark.parametrize("said", [b"", b"rubbish\n", b'{"pid": "one"}\n', b"x" * 100_000, b"[" * 100_000 + b"\n"])
async def test_whoever_says_something_else_is_said_not_to_answer(said, tmp_path):
    async def say(_, writer):
        writer.write(said)
        writer.close()

    server = await asyncio.start_unix_server(say, tmp_path / FILE)
    async with server:
        with pytest.raises(Silent) as raised:
            await asked(tmp_path, patience_s=0.3)
    assert raised.value.pid == os.getpid()


async def test_a_proxy_that_hangs_is_named_by_its_process(tmp_path):
    hanging = socket.socket(socket.AF_UNIX)
    hanging.bind(str(tmp_path / FILE))
    hanging.listen()
    with hanging, pytest.raises(Silent) as raised:
        await asked(tmp_path, patience_s=0.2)
    assert raised.value.pid == os.getpid()


def test_no_directory_and_no_socket_is_no_proxy(tmp_path):
    assert ask(tmp_path, with_settings=False) is None
    assert ask(tmp_path / "nowhere", with_settings=False) is None
    (tmp_path / FILE).write_text("a file")
    assert ask(tmp_path, with_settings=False) is None


# ---- other users

ASK = """
import os, sys
from pathlib import Path
from quotapool.app.command_socket import NotAllowed, Silent, ask
# From here on as somebody who can enter neither root's home directory nor what is imported from it.
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    answer = ask(Path(sys.argv[1]), with_settings=True, patience_s=30.0)
    print("nobody" if answer is None else answer.head.pool)
except (NotAllowed, Silent) as refused:
    print(type(refused).__name__)
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


@pytest.fixture
def open_place(tmp_path_factory):
    """A directory that every user reaches."""
    place = Path("/tmp", f"quotapool-test-{os.getpid()}-{time.monotonic_ns()}")
    place.mkdir(mode=0o755)
    yield place
    for file in place.iterdir():
        file.unlink()
    place.rmdir()


def as_user(uid: int, state_dir: Path) -> str:
    """What a process of this user is told."""
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", ASK, str(state_dir), str(uid)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=300)
    return done.stdout.strip() or done.stderr


@as_root
async def test_another_user_is_refused_by_the_modes_and_if_these_were_changed_by_the_proxy(open_place):
    async with answering(open_place, settings_of(open_place)):
        assert await asyncio.to_thread(as_user, 0, open_place) == "team"
        assert await asyncio.to_thread(as_user, 4321, open_place) == "NotAllowed"
        (open_place / FILE).chmod(0o666)
        assert (await asyncio.to_thread(raw_as_user, 0, open_place / FILE)).startswith("b'{")
        received = await asyncio.to_thread(raw_as_user, 4321, open_place / FILE)
        assert received == "b''"


RAW = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
sock = socket.socket(socket.AF_UNIX); sock.settimeout(30); sock.connect(sys.argv[1])
print(sock.recv(1000))
"""


def raw_as_user(uid: int, path: Path) -> str:
    """The first bytes that a process of this user gets, whatever it thinks of the other end."""
    done = subprocess.run([sys.executable, "-c", RAW, path, str(uid)], capture_output=True, text=True, timeout=300)
    return done.stdout.strip() or done.stderr


@as_root
async def test_a_command_does_not_believe_another_user_who_put_a_socket_there(open_place):
    """Whoever may write into the directory could else give commands a store and an upstream of their own."""
    async with answering(open_place, settings_of(open_place)):
        (open_place / FILE).chmod(0o666)
        assert await asyncio.to_thread(as_user, 4321, open_place) == "NotAllowed"
    os.chown(open_place, 4321, 4321)
    async with answering(open_place, settings_of(open_place)):  # root's own proxy, in somebody's directory
        assert (await asked(open_place)).head.pool == "team"


# ---- which variables are a configuration


def test_a_place_and_a_clients_key_are_no_configuration_and_values_are_told_as_digests_only():
    env = {
        "QUOTAPOOL_STATE_DIR": "/x",
        "OPENAI_API_KEY": "any-text",
        "OPENAI_BASE_URL": "http://127.0.0.1:8080/v1",
        "PATH": "/bin",
        "QUOTAPOOL_POOL": "",
        "QUOTAPOOL_REDIS": " ",
    }
    assert given_in(env) == {}
    given = given_in({**env, "OPENAI_API_KEYS": SECRET, "QUOTAPOOL_CONFIG": "/etc/quotapool.yaml"})
    assert set(given) == {"OPENAI_API_KEYS", "QUOTAPOOL_CONFIG"}
    assert given == given_in({"OPENAI_API_KEYS": f" {SECRET}\n", "QUOTAPOOL_CONFIG": "/etc/quotapool.yaml"})
    assert SECRET not in str(given)
    assert given != given_in({"OPENAI_API_KEYS": SECRET + "x", "QUOTAPOOL_CONFIG": "/etc/quotapool.yaml"})


async def test_root_is_not_told_by_the_socket_of_a_user_who_does_not_own_the_state_dir(open_place):
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    open_place.chmod(0o777)
    listen = (
        "import os,socket,sys,time; os.setgid(4321); os.setuid(4321); s=socket.socket(socket.AF_UNIX);"
        "s.bind(sys.argv[1]); s.listen(); print('there', flush=True); time.sleep(20)"
    )
    command = [sys.executable, "-c", listen, str(open_place / FILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout.readline() == "there\n"
        with pytest.raises(NotAllowed):
            await asked(open_place)
        os.chown(open_place, 4321, 4321)
        with pytest.raises(Silent):  # believed now, and it says nothing
            await asked(open_place, patience_s=0.2)
        stranger.kill()
