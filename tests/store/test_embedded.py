"""The embedded store keeps what it acknowledged, whichever process is killed, and lets nobody else in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
import structlog
from quotapool.store import runtime_dir
from quotapool.store.embedded import EmbeddedFailed, EmbeddedValkey, StateDirBusy, attach_url, temporary
from quotapool.store.runtime_dir import RuntimeDirUnsafe
from quotapool.store.store import Store, StoreLost
from quotapool.store.valkey_process import is_alive
from quotapool.store.verify import verify

from tests.fakes.connect import connect

LOG = structlog.get_logger()

SUPERVISOR = """
import asyncio, sys
from pathlib import Path
import structlog
from quotapool.store.embedded import EmbeddedValkey

async def main():
    server = EmbeddedValkey(Path(sys.argv[1]), log=structlog.get_logger())
    print(await server.start(), flush=True)
    await server.watch()

asyncio.run(main())
"""


@pytest.fixture
def state_dir(tmp_path, monkeypatch):
    """A state directory whose server, should a test fail half-way, does not outlive the test."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path) if len(str(tmp_path)) < 50 else "/tmp")
    yield tmp_path / "state"
    for record in tmp_path.rglob("valkey.json"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)


@contextlib.asynccontextmanager
async def running(state_dir: Path):
    """(server, connected store) of a started and watched embedded store, stopped at the end."""
    server = EmbeddedValkey(state_dir, log=LOG)
    store = connect(await server.start())
    watching = asyncio.create_task(server.watch())
    try:
        yield server, store
    finally:
        await store.close()
        await server.stop()
        await asyncio.wait_for(watching, 5)


def pid_of(state_dir: Path) -> int:
    return json.loads((state_dir / "valkey.json").read_text())["pid"]


def servers_in(state_dir: Path) -> list[int]:
    """Process ids of all servers that work in this state directory."""
    found = []
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if cwd.readlink() == state_dir / "valkey":
                found.append(int(cwd.parent.name))
    return found


async def answering(store: Store, within_s: float) -> float:
    """Seconds until the store answers again."""
    started = time.monotonic()
    while True:
        try:
            await store.ping()
        except StoreLost:
            assert time.monotonic() - started < within_s
            await asyncio.sleep(0.005)
        else:
            return time.monotonic() - started


async def test_a_killed_server_is_back_within_two_seconds_and_remembers_what_it_acknowledged(state_dir):
    async with running(state_dir) as (_, store):
        for expected in range(1, 101):
            assert await store.client.incr("charged") == expected

        os.kill(pid_of(state_dir), signal.SIGKILL)

        await answering(store, within_s=2)
        assert await store.client.get("charged") == b"100"


async def test_it_is_restarted_more_than_once(state_dir):
    async with running(state_dir) as (server, store):
        for deaths in (1, 2):
            dead = pid_of(state_dir)
            os.kill(dead, signal.SIGKILL)
            await answering(store, within_s=3)
            assert pid_of(state_dir) != dead
            assert server.failures == deaths


async def test_what_was_stored_is_there_after_stop_and_start(state_dir):
    async with running(state_dir) as (_, store):
        await store.client.set("level", "41.5")
    async with running(state_dir) as (_, store):
        assert await store.client.get("level") == b"41.5"


async def test_an_orphan_of_a_killed_supervisor_is_adopted_with_its_data_and_watched(state_dir):
    # Given a supervisor that was killed while its server ran
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, state_dir], stdout=subprocess.PIPE, text=True)
    first_url = supervisor.stdout.readline().strip()
    before = connect(first_url)
    await before.client.set("level", "7")
    await before.close()
    orphan = pid_of(state_dir)
    supervisor.kill()
    supervisor.wait(5)
    supervisor.stdout.close()

    # If another one starts
    async with running(state_dir) as (_, store):
        # I expect the same process, the same data
        assert pid_of(state_dir) == orphan
        assert await store.client.get("level") == b"7"
        # and a new server when the adopted one exits
        os.kill(orphan, signal.SIGKILL)
        await answering(store, within_s=2)
        assert pid_of(state_dir) != orphan
        assert await store.client.get("level") == b"7"


def orphaned(state_dir: Path, patience_s: float = 300.0) -> int:
    """The process id of a server whose supervisor was killed, after it stored `level` 7."""
    program = SUPERVISOR.replace("async def main", f"embedded._ORPHAN_LIVES_S = {patience_s}\nasync def main")
    program = program.replace("import structlog", "import structlog\nfrom quotapool.store import embedded")
    with subprocess.Popen([sys.executable, "-c", program, state_dir], stdout=subprocess.PIPE, text=True) as supervisor:
        url = supervisor.stdout.readline().strip()
        with redis.Redis(unix_socket_path=url.removeprefix("unix://")) as client:
            client.set("level", "7")
        pid = pid_of(state_dir)
        supervisor.kill()
    return pid


async def ended(pid: int, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while is_alive(pid):
            await asyncio.sleep(0.05)


async def test_an_orphan_that_nobody_adopts_ends_by_itself_with_its_data_on_disk(state_dir):
    orphan = orphaned(state_dir, patience_s=1.0)
    await ended(orphan, within_s=10)
    async with running(state_dir) as (_, store):
        assert await store.client.get("level") == b"7"


async def test_an_orphan_whose_state_directory_is_gone_ends_soon(state_dir):
    orphan = orphaned(state_dir)
    shutil.rmtree(state_dir)
    await ended(orphan, within_s=10)


async def test_an_adopted_server_outlives_the_patience_for_orphans(state_dir):
    orphan = orphaned(state_dir, patience_s=1.0)
    async with running(state_dir) as (_, store):
        assert pid_of(state_dir) == orphan
        await asyncio.sleep(4)
        assert is_alive(orphan)
        assert await store.client.get("level") == b"7"


async def test_no_process_is_left_when_the_store_is_stopped(state_dir):
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = children.read_text().split()
    async with running(state_dir):
        assert len(children.read_text().split()) == len(before) + 2  # the server and its watch
    assert children.read_text().split() == before


async def test_an_orphan_that_hangs_is_replaced(state_dir, monkeypatch):
    monkeypatch.setattr("quotapool.store.embedded._ORPHAN_READY_S", 0.2)
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, state_dir], stdout=subprocess.PIPE, text=True)
    supervisor.stdout.readline()
    orphan = pid_of(state_dir)
    supervisor.kill()
    supervisor.wait(5)
    supervisor.stdout.close()
    os.kill(orphan, signal.SIGSTOP)

    async with running(state_dir) as (_, store):
        await store.ping()
        assert pid_of(state_dir) != orphan
        assert not is_alive(orphan)


async def test_a_stale_record_of_a_foreign_process_harms_nobody(state_dir):
    # Given a record that names a living process which is not our server
    state_dir.mkdir()
    socket = runtime_dir.socket_path(state_dir)
    socket.touch()
    record = {"pid": os.getpid(), "socket": str(socket), "role": "serve"}
    (state_dir / "valkey.json").write_text(json.dumps(record))

    assert attach_url(state_dir) is None
    async with running(state_dir) as (_, store):
        await store.ping()
        assert pid_of(state_dir) != os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "socket": 1}'])
async def test_a_damaged_record_does_not_prevent_the_start(state_dir, content):
    state_dir.mkdir()
    (state_dir / "valkey.json").write_text(content)
    async with running(state_dir) as (_, store):
        await store.ping()


async def test_a_second_supervisor_is_refused_and_the_error_names_the_first(state_dir):
    async with running(state_dir) as (_, store):
        with pytest.raises(StateDirBusy, match=str(os.getpid())) as refusal:
            await EmbeddedValkey(state_dir, log=LOG).start()
        assert refusal.value.pid == os.getpid()
        await store.ping()  # and the first one's server is untouched


async def test_stop_ends_the_server_by_sigterm_and_leaves_no_socket(state_dir):
    server = EmbeddedValkey(state_dir, log=LOG)
    url = await server.start()
    pid, socket = pid_of(state_dir), Path(url.removeprefix("unix://"))

    await server.stop()

    assert not is_alive(pid)
    assert not socket.parent.exists()
    assert "Received SIGTERM" in (state_dir / "valkey.log").read_text()  # logged at an orderly end
    assert attach_url(state_dir) is None


async def test_a_server_that_ignores_sigterm_is_killed(state_dir, monkeypatch):
    monkeypatch.setattr("quotapool.store.embedded._STOP_S", 0.1)
    server = EmbeddedValkey(state_dir, log=LOG)
    await server.start()
    pid = pid_of(state_dir)
    os.kill(pid, signal.SIGSTOP)

    await server.stop()

    assert not is_alive(pid)


async def test_a_killed_server_that_hangs_in_its_disk_does_not_hang_us(state_dir, monkeypatch):
    monkeypatch.setattr("quotapool.store.embedded._STOP_S", 0.01)
    monkeypatch.setattr("quotapool.store.embedded._KILLED_S", 0.01)
    server = EmbeddedValkey(state_dir, log=LOG)
    await server.start()
    pid = pid_of(state_dir)
    with monkeypatch.context() as patch:
        patch.setattr("quotapool.store.valkey_process.ServerProcess.send_signal", lambda *_: None)

        await asyncio.wait_for(server.stop(), 5)

    assert attach_url(state_dir) is None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    async with running(state_dir):  # the directory is free again
        assert pid_of(state_dir) != pid


@pytest.mark.parametrize("turns", [0, 1, 5, 50])
async def test_stop_during_a_restart_leaves_no_server(state_dir, turns):
    async with running(state_dir) as (_, store):
        await store.ping()
        assert servers_in(state_dir) == [pid_of(state_dir)]
        os.kill(pid_of(state_dir), signal.SIGKILL)
        for _ in range(turns):
            await asyncio.sleep(0)
    assert servers_in(state_dir) == []


async def test_nobody_else_can_reach_the_socket_or_read_the_data(state_dir):
    async with running(state_dir):
        socket = Path(json.loads((state_dir / "valkey.json").read_text())["socket"])
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE((state_dir / "valkey").stat().st_mode) == 0o700
        assert stat.S_IMODE((state_dir / "valkey.json").stat().st_mode) == 0o600
        assert [path for path in state_dir.rglob("*") if path.stat().st_mode & 0o077] == []


async def test_our_secrets_are_not_in_the_servers_environment(state_dir, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEYS", "sk-secret")
    async with running(state_dir):
        assert b"sk-secret" not in Path(f"/proc/{pid_of(state_dir)}/environ").read_bytes()


async def test_ctrl_c_in_the_terminal_does_not_reach_the_server(state_dir):
    async with running(state_dir):
        assert os.getsid(pid_of(state_dir)) != os.getsid(0)


async def test_it_is_set_up_to_keep_everything(state_dir):
    async with running(state_dir) as (_, store):
        facts = await verify(store)
        assert (facts.name, facts.eviction) == ("valkey", "noeviction")
        settings = await store.client.config_get("append*")
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"


async def test_a_state_directory_with_a_very_long_path_works(tmp_path, state_dir):
    deep = state_dir / ("with a space " + "d" * 100) / ("e" * 100)
    assert len(str(deep)) > 200
    async with running(deep) as (_, store):
        await store.client.set("here", "1")
        assert (deep / "valkey" / "appendonlydir").is_dir()


def test_the_socket_path_is_short_and_different_for_each_state_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/" + "x" * 150)
    one, other = (runtime_dir.socket_path(tmp_path / ("s" * 150) / name) for name in "ab")
    assert one != other
    assert max(len(os.fsencode(one)), len(os.fsencode(other))) < 100
    one.parent.rmdir()
    other.parent.rmdir()


def test_a_runtime_directory_that_is_not_ours_alone_is_refused(state_dir, tmp_path):
    place = runtime_dir.socket_path(state_dir).parent
    place.rmdir()
    place.symlink_to(tmp_path)
    try:
        with pytest.raises(RuntimeDirUnsafe, match="Somebody else made it"):
            runtime_dir.socket_path(state_dir)
    finally:
        place.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
def test_a_runtime_directory_of_another_user_is_refused(state_dir):
    place = runtime_dir.socket_path(state_dir).parent
    os.chown(place, 65534, 65534)
    try:
        with pytest.raises(RuntimeDirUnsafe):
            runtime_dir.socket_path(state_dir)
        assert not runtime_dir.is_private(place)
    finally:
        place.rmdir()


async def test_a_command_attaches_to_the_running_server_and_else_runs_its_own(state_dir):
    assert attach_url(state_dir) is None
    async with temporary(state_dir, log=LOG) as url:
        store = connect(url)
        await store.client.set("noted", "1")
        await store.close()
        assert attach_url(state_dir) is None  # it is about to stop

    async with running(state_dir) as (_, store):
        assert attach_url(state_dir) == f"unix://{json.loads((state_dir / 'valkey.json').read_text())['socket']}"
        assert await store.client.get("noted") == b"1"
        with pytest.raises(StateDirBusy):
            async with temporary(state_dir, log=LOG):
                pass


async def test_the_proxy_waits_for_a_command_to_finish(state_dir):
    async with temporary(state_dir, log=LOG):
        starting = asyncio.create_task(EmbeddedValkey(state_dir, log=LOG).start())
        await asyncio.sleep(0)
        assert not starting.done()
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
    async with running(state_dir) as (_, store):
        await store.ping()


async def test_a_damaged_file_is_reported_with_valkeys_log(state_dir):
    async with running(state_dir) as (_, store):
        await store.client.set("a", "1")
    (file,) = (state_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    file.write_bytes(b"rubbish" + file.read_bytes())

    with pytest.raises(EmbeddedFailed, match="Bad file format"):
        await EmbeddedValkey(state_dir, log=LOG).start()
    assert attach_url(state_dir) is None


async def test_a_half_written_last_record_is_dropped_and_the_rest_kept(state_dir):
    async with running(state_dir) as (_, store):
        await store.client.set("a", "1")
        await store.client.set("b", "2")
    (file,) = (state_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    file.write_bytes(file.read_bytes()[:-3])

    async with running(state_dir) as (_, store):
        assert await store.client.mget("a", "b") == [b"1", None]
