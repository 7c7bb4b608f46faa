"""What the Helm chart renders, run by real processes: its store, and its files as the kubelet changes them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from quotapool.store.valkey_process import valkey_binary

from tests.fakes.helm import LEAST, Helm, Rendered, over
from tests.fakes.processes import RunningProxy, Simulator, wait_until
from tests.fakes.running import chat_body, post_json, running_proxy, running_simulator
from tests.fakes.valkey import free_port

PASSWORD = "0123456789abcdef0123456789abcdef"
CLIENT = "client-key-0123456789abcdef"
WITH_STORE = over(
    LEAST,
    {
        "replicaCount": 2,
        "valkey": {"enabled": True, "existingSecret": "quotapool-valkey"},
        "clients": {"existingSecret": "quotapool-clients"},
        "config": {"clients": [{"id": "app", "key": "${APP_KEY}"}], "log": {"format": "json"}},
    },
)


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> Rendered:
    return helm.template(WITH_STORE)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(2) as running:
        yield running


def swap(volume: Path, files: dict[str, str]) -> None:
    """Change a volume as the kubelet does: a new directory, and then one symlink at once leads to it."""
    volume.mkdir(exist_ok=True)
    before = (volume / "..data").resolve()
    fresh = Path(tempfile.mkdtemp(prefix="..revision_", dir=volume))
    for name, text in files.items():
        (fresh / name).write_text(text)
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(f"..data/{name}")
    (volume / "..data_tmp").symlink_to(fresh.name)
    (volume / "..data_tmp").replace(volume / "..data")
    shutil.rmtree(before, ignore_errors=True)


@contextlib.contextmanager
def charts_valkey(rendered: Rendered, place: Path) -> Iterator[int]:
    """The port of a Valkey that was started by the chart's own command, below `place` instead of /data."""
    (container,) = rendered.one("StatefulSet", "quotapool-valkey")["spec"]["template"]["spec"]["containers"]
    port = free_port()
    (script,) = container["args"]
    script = script.replace("dir /data", f"dir {place}\nport {port}\nbind 127.0.0.1")
    if not (place / "valkey-server").is_symlink():
        (place / "valkey-server").symlink_to(valkey_binary())
    env = {"PATH": f"{place}:/usr/bin:/bin", "REDISCLI_AUTH": PASSWORD}
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [*container["command"], script], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: b"Ready to accept" in (place / "log").read_bytes() or process.poll(), "the store is up", 20)
        command_line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert b"valkey-server" in command_line  # not the shell: this process gets SIGTERM
        assert PASSWORD.encode() not in command_line
        yield port
    finally:
        process.terminate()
        process.wait(10)


def test_the_charts_store_keeps_its_ledger_never_evicts_and_wants_its_password(rendered: Rendered, tmp_path: Path):
    with charts_valkey(rendered, tmp_path) as port:
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with redis.Redis(port=port, password=PASSWORD) as proxy:
            settings: Any = proxy.config_get("*")
            assert (settings["appendonly"], settings["maxmemory-policy"]) == ("yes", "noeviction")
            proxy.set("kept", "1")
    with charts_valkey(rendered, tmp_path) as port, redis.Redis(port=port, password=PASSWORD) as proxy:
        assert proxy.get("kept") == b"1"


@contextlib.contextmanager
def pod(rendered: Rendered, place: Path, simulator: Simulator, store: int) -> Iterator[tuple[RunningProxy, Path, Path]]:
    """(proxy, config volume, secret volume): `quotapool serve` as rendered, on volumes like the kubelet's."""
    config_volume, secret_volume = place / "etc", place / "secrets"
    swap(secret_volume, {"keys": f"{simulator.secrets[0]}\n"})
    swap(config_volume, {"quotapool.yaml": ""})
    config = rendered.config
    assert config["keys_file"] == "/run/secrets/quotapool/keys"
    assert config["redis"] == "redis://:${VALKEY_PASSWORD}@quotapool-valkey:6379/0"
    config |= {
        "keys_file": str(secret_volume / "keys"),
        "redis": config["redis"].replace("quotapool-valkey:6379", f"127.0.0.1:{store}"),
        "upstream": simulator.url,
        "state_dir": str(place / "state"),
    }
    env = {"VALKEY_PASSWORD": PASSWORD, "APP_KEY": CLIENT}
    # It writes the file through the symlinks, so into the volume.
    with running_proxy(config_volume, config, env=env) as proxy:
        assert proxy.config_file.is_symlink()
        yield proxy, config_volume, secret_volume


def ask(proxy: RunningProxy) -> int:
    headers = {"Authorization": f"Bearer {CLIENT}"}
    return post_json(proxy.base_url, "/v1/chat/completions", chat_body(), headers).status


def test_a_changed_config_map_and_a_changed_secret_are_served_without_a_restart(
    rendered: Rendered, simulator: Simulator, tmp_path: Path
):
    (tmp_path / "valkey").mkdir()
    with (
        charts_valkey(rendered, tmp_path / "valkey") as store,
        pod(rendered, tmp_path, simulator, store) as (proxy, config_volume, secret_volume),
    ):
        assert ask(proxy) == 200
        workers = proxy.worker_pids()

        swap(secret_volume, {"keys": "\n".join(simulator.secrets) + "\n"})
        wait_until(lambda: proxy.total("quotapool_keys", state="active") == 2, "the second key is there", 20)

        changed = yaml.safe_load(proxy.config_file.read_text()) | {"limits": {"default": {"rpm": 7}}}
        swap(config_volume, {"quotapool.yaml": yaml.safe_dump(changed)})
        wait_until(lambda: proxy.total("quotapool_config_reloads_total", result="ok") == 2, "the limits are taken", 20)

        swap(config_volume, {"quotapool.yaml": "limits: [wrong]\n"})
        wait_until(lambda: proxy.total("quotapool_config_reloads_total", result="refused") == 1, "it is refused", 20)

        assert ask(proxy) == 200
        assert proxy.worker_pids() == workers
        assert PASSWORD not in proxy.log()
