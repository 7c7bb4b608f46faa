"""A store that cannot be used ends the start at once: exit code 2, the server's or OpenSSL's words, no traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from tests.fakes.processes import fetch, start_proxy_process, wait_until
from tests.fakes.valkey import free_port, start_valkey, stop_valkey

SOON_S = 14.0  # below the 15 s that a start waits for a server, however busy the machine is
KEYS = [{"id": "a", "secret": "sk-a-0123456789"}]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]) -> Iterator[tuple[Path, int, int]]:
    """(directory with cert.pem and key.pem, TLS port that asks for a certificate, plain port) of a redis-server."""
    folder, tls, plain = tmp_path_factory.mktemp("redis"), free_port(), free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    process = subprocess.Popen(
        [
            *(program("redis-server"), "--port", str(plain), "--tls-port", str(tls), "--bind", "127.0.0.1"),
            *("--tls-cert-file", str(folder / "cert.pem"), "--tls-key-file", str(folder / "key.pem")),
            *("--tls-ca-cert-file", str(folder / "cert.pem"), "--save", "", "--dir", str(folder)),
        ],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=plain)
    wait_until(lambda: process.poll() is not None or _answers(client), "redis-server answers")
    for name, rules in {"lim": "~qp:* +@read +@write +ping +info", "noscript": "~* +@all -@scripting"}.items():
        client.execute_command("ACL", "SETUSER", name, "on", ">pw", *rules.split())
    yield folder, tls, plain
    stop_valkey(process)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("rediss://127.0.0.1:{tls}", "CERTIFICATE_VERIFY_FAILED"),  # signed by an authority we do not know
        ("rediss://127.0.0.1:{tls}?ssl_ca_certs={dir}/cert.pem", "CERTIFICATE_REQUIRED"),
        ("rediss://127.0.0.1:{tls}?ssl_ca_certs={dir}/key.pem", "NO_CERTIFICATE_OR_CRL_FOUND"),
        ("rediss://127.0.0.1:{tls}?ssl_ca_certs={dir}/none.pem", "No such file or directory"),
        ("rediss+cluster://127.0.0.1:{tls}?ssl_ca_certs={dir}/cert.pem", "CERTIFICATE_REQUIRED"),
        ("redis://no-such-host.invalid:6379", "Name or service not known"),
        ("redis+cluster://no-such-host.invalid:6379", "Name or service not known"),
        ("redis+sentinel://no-such-host.invalid:26379/main", "Name or service not known"),
        ("redis://:hunter2@127.0.0.1:{plain}", "AUTH <password> called without any password configured"),
        ("redis://nobody:hunter2@127.0.0.1:{plain}", "invalid username-password pair"),
        ("redis://lim:pw@127.0.0.1:{plain}", "has no permissions to run the 'eval"),
        ("redis://noscript:pw@127.0.0.1:{plain}", "has no permissions to run the 'eval"),
    ],
)
def test_what_is_wrong_is_said_at_once_in_the_words_of_who_knows(servers, tmp_path, url, words):
    folder, tls, plain = servers
    config = {
        "listen": f"127.0.0.1:{free_port()}",
        "admin_listen": f"127.0.0.1:{free_port()}",
        "state_dir": str(tmp_path / "state"),
        "redis": url.format(dir=folder, tls=tls, plain=plain),
        "keys": KEYS,
    }
    file = tmp_path / "quotapool.yaml"
    file.write_text(yaml.safe_dump(config))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "quotapool", "serve", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert words in done.stderr
    assert "Traceback" not in said
    assert "hunter2" not in said
    assert len(done.stderr) < 600, done.stderr
    assert time.monotonic() - started < SOON_S, said


def test_a_start_that_waits_for_a_hung_store_obeys_sigterm_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as hung:
        hung.settimeout(60)
        url = f"redis://127.0.0.1:{hung.getsockname()[1]}"
        proxy = start_proxy_process(tmp_path / "proxy", {"redis": url, "keys": KEYS}, wait=False)
        asked, _ = hung.accept()
        with asked:
            started = time.monotonic()
            assert proxy.stop() == 0
            assert time.monotonic() - started < SOON_S
    assert "Traceback" not in proxy.log()


def test_a_stop_while_the_store_hangs_takes_no_longer_than_its_last_words_need(tmp_path):
    store, url = start_valkey(tmp_path)
    try:
        proxy = start_proxy_process(tmp_path / "proxy", {"redis": url, "keys": KEYS})
        os.kill(store.pid, signal.SIGSTOP)
        started = time.monotonic()
        assert proxy.stop() == 0
        assert time.monotonic() - started < SOON_S, proxy.log()
    finally:
        stop_valkey(store)


def test_a_stop_while_workers_start_is_obeyed_at_once(tmp_path):
    proxy = start_proxy_process(tmp_path / "proxy", {"workers": 6, "keys": KEYS}, wait=False)
    wait_until(proxy.worker_pids, "workers start")
    started = time.monotonic()
    assert proxy.stop() == 0
    assert time.monotonic() - started < SOON_S, proxy.log()
    assert "Traceback" not in proxy.log()


def test_more_workers_than_any_machine_can_use_are_refused(tmp_path):
    config: dict[str, Any] = {"workers": 9999, "keys": KEYS, "state_dir": str(tmp_path / "state")}
    proxy = start_proxy_process(tmp_path / "proxy", config, wait=False)
    assert proxy.process.wait(30) == 2
    assert "workers" in proxy.log()
    assert "256" in proxy.log()


def test_a_worker_that_hangs_is_seen_and_when_it_goes_on_so_is_that(tmp_path):
    proxy = start_proxy_process(tmp_path / "proxy", {"keys": KEYS})
    (worker,) = proxy.worker_pids()

    def answers() -> list[int]:
        return [fetch(f"{proxy.admin_url}{path}")[0] for path in ("/readyz", "/healthz")]

    try:
        assert answers() == [200, 200]
        os.kill(worker, signal.SIGSTOP)
        wait_until(lambda: answers() == [503, 503], "the hung worker is seen", 15)
        assert proxy.total("quotapool_workers") == 0
        os.kill(worker, signal.SIGCONT)
        wait_until(lambda: answers() == [200, 200], "it is seen to go on", 15)
        assert proxy.worker_pids() == [worker]
    finally:
        os.kill(worker, signal.SIGCONT)
        proxy.stop()
