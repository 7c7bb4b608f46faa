"""What is compared: no proxy, other proxies, and Quotapool in several configurations. A target knows how it starts."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .processes import HERE, Running, cores, free_port

ROOT = HERE.parents[1]
CLIENT_KEY = "qp-client-bench-0123456789abcdef"
RULES = {  # four, that never refuse
    "limits": {"rpm": "1B", "concurrent": "1M"},
    "budgets": [{"usd": 1_000_000, "per": "month"}, {"tokens": "1000B", "per": "day"}],
}
REFERENCE = "aiohttp"


class Skipped(Exception):
    """This machine lacks what the target needs; the message says what, and how to get it."""


@dataclass(frozen=True)
class Rig:
    """What all targets share. `rolter`, `litellm`: their programs, None where they are not installed."""

    directory: Path
    upstream: int
    upstream_tls: int
    ca_file: Path
    store_port: int
    store_pid: int
    rolter: Path | None = None
    litellm: Path | None = None


@dataclass(frozen=True)
class Target:
    """`start(rig, directory, port)`. `holds`: also measured with many streams open. `keys`: so many must have been used
    once before a figure means anything, since an account's first request makes its bucket and its metrics' series.
    `unique`: it is asked nothing twice."""

    name: str
    note: str
    start: Callable[[Rig, Path, int], Running] | None
    key: str = "sk-any"
    holds: bool = False
    keys: int = 10
    unique: bool = False


def nginx(rig: Rig, directory: Path, port: int) -> Running:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise Skipped("nginx is not installed here; Debian's package is called nginx")
    config = directory / "nginx.conf"
    places = "".join(
        f"{kind}_temp_path {directory}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(f"""
worker_processes 1; daemon off; pid {directory}/pid; error_log {directory}/error.log warn; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; {places}
  keepalive_requests 100000000; keepalive_timeout 300s; tcp_nodelay on;
  upstream openai {{ server 127.0.0.1:{rig.upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    client_max_body_size 64m; client_body_buffer_size 64k;
    location / {{
      proxy_pass http://openai; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_set_header Authorization "Bearer sk-upstream-0"; proxy_read_timeout 600s;
    }}
  }}
}}
""")
    return Running.start(
        [program, "-c", str(config), "-e", str(directory / "error.log")], cores()[0], directory / "log"
    )


def aiohttp(rig: Rig, directory: Path, port: int) -> Running:
    command = [sys.executable, str(HERE / "passthrough.py"), str(port), f"http://127.0.0.1:{rig.upstream}"]
    return Running.start(command, cores()[0], directory / "log")


def rolter(rig: Rig, directory: Path, port: int) -> Running:
    if rig.rolter is None or not rig.rolter.exists():
        raise Skipped("rolter is not installed; `make bench` does it where its package exists for this machine")
    config = directory / "rolter.toml"
    providers = "".join(
        f'[[providers]]\nname = "up{i}"\nkind = "openai_compatible"\n'
        f'api_base = "http://127.0.0.1:{rig.upstream}"\napi_key_env = "UP_KEY_{i}"\n'
        for i in range(8)
    )
    places = "".join(f'[[routes.targets]]\nprovider = "up{i}"\nmodel = "gpt-4o-mini"\n' for i in range(8))
    config.write_text(
        f'[server]\nhost = "127.0.0.1"\nport = {port}\n{providers}'
        f'[[routes]]\nmodel = "gpt-4o-mini"\nstrategy = "round_robin"\n{places}'
        f'[[virtual_keys]]\nkey = "{CLIENT_KEY}"\nname = "bench"\nmodels = []\ndisabled = false\n'
        "[queue]\nenabled = true\ncapacity = 4096\nworkers = 1024\n"
    )
    env = {f"UP_KEY_{i}": f"sk-upstream-{i}" for i in range(8)} | {
        "ROLTER_REDIS_URL": f"redis://127.0.0.1:{rig.store_port}/1",
        "ROLTER_KEY_PEPPER": "benchmark" * 5,
        "RUST_LOG": "error",
        "TOKIO_WORKER_THREADS": "1",
    }
    return Running.start([str(rig.rolter), "gateway", "-c", str(config)], cores()[0], directory / "log", env)


def litellm(rig: Rig, directory: Path, port: int) -> Running:
    """Its own way of sharing budgets: usage-based routing over eight keys, with Redis; without its database."""
    if rig.litellm is None or not rig.litellm.exists():
        raise Skipped('LiteLLM is not installed; `make bench BENCH="--only all-on-tcp,litellm"` does it')
    key = f"sk-{CLIENT_KEY}"
    place = {"model": "openai/gpt-4o-mini", "api_base": f"http://127.0.0.1:{rig.upstream}/v1"}
    limits = {"rpm": 10**7, "tpm": 2 * 10**9}
    config = {
        "model_list": [
            {"model_name": "gpt-4o-mini", "litellm_params": {**place, **limits, "api_key": f"sk-upstream-{i}"}}
            for i in range(8)
        ],
        "router_settings": {
            "routing_strategy": "usage-based-routing-v2",
            "redis_host": "127.0.0.1",
            "redis_port": rig.store_port,
        },
        "litellm_settings": {"telemetry": False, "num_retries": 0},
        "general_settings": {"disable_spend_logs": True, "master_key": key},
    }
    (directory / "litellm.yaml").write_text(yaml.safe_dump(config))
    command = [str(rig.litellm), "--config", str(directory / "litellm.yaml"), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    running = Running.start(command, cores()[0], directory / "log", env)
    running.stores = [rig.store_pid]
    return running


def quotapool(
    *,
    keys: int = 10,
    clients: bool = False,
    log: str = "warning",
    tcp: bool = False,
    workers: int = 1,
    tls: bool = False,
    rules: bool = False,
    cache: bool = False,
) -> Callable[[Rig, Path, int], Running]:
    """As a user starts it. Limits are written far above the load: budgets are kept, and nobody waits for one."""

    def start(rig: Rig, directory: Path, port: int) -> Running:
        (directory / "keys.txt").write_text("".join(f"sk-benchmark-{i:032d}\n" for i in range(keys)))
        config: dict[str, Any] = {
            "listen": f"127.0.0.1:{port}",
            "admin_listen": f"127.0.0.1:{free_port()}",
            "upstream": f"https://127.0.0.1:{rig.upstream_tls}" if tls else f"http://127.0.0.1:{rig.upstream}",
            "keys_file": str(directory / "keys.txt"),
            "limits": {"default": {"rpm": 10**8, "tpm": 10**11}},
            "state_dir": str(directory / "state"),
            "drain_timeout": "1s",
            "workers": workers,
            "log": {"level": log, "format": "json"},
        }
        config |= {"clients": [{"id": "bench", "key": CLIENT_KEY, **(RULES if rules else {})}]} if clients else {}
        if cache:
            (directory / "master-key").write_text("of a benchmark, and as long as one must be")
            config |= {"cache": {"models": ["*"]}, "master_key_file": str(directory / "master-key")}
        config |= {"ca_file": str(rig.ca_file)} if tls else {}
        config |= {"redis": f"redis://127.0.0.1:{rig.store_port}/0", "pool": directory.name} if tcp else {}
        (directory / "quotapool.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "quotapool", "serve", "--config", str(directory / "quotapool.yaml")]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        on = cores()[0] if workers == 1 else os.sched_getaffinity(0)
        running = Running.start(command, on, directory / "log", {"PYTHONPATH": path})
        running.stores = [rig.store_pid] if tcp else []
        return running

    return start


def full(**options: Any) -> Callable[[Rig, Path, int], Running]:
    """Everything on: client keys, budgets in the store, metrics, a log line for each request."""
    return quotapool(clients=True, log="info", **options)


ALL = (
    Target("direct", "no proxy", None),
    Target("nginx", "proxy_pass, keep-alive, buffering off, one worker", nginx, holds=True),
    Target(REFERENCE, "the reference: benchmarks/rig/passthrough.py, aiohttp on uvloop", aiohttp, holds=True),
    Target("rolter", "Rust; a client key, round robin over 8 keys, no budgets", rolter, key=CLIENT_KEY, holds=True),
    Target("litellm", "LiteLLM; 8 keys, usage-based routing v2, Redis", litellm, key=f"sk-{CLIENT_KEY}", holds=True),
    Target("bare", "Quotapool: no client keys, no log lines; budgets in the embedded store", quotapool()),
    Target("clients", "bare, with client keys", quotapool(clients=True), key=CLIENT_KEY),
    Target("logs", "bare, with a log line for each request", quotapool(log="info")),
    Target("all-on", "client keys, budgets, metrics, log lines; 10 keys", full(), key=CLIENT_KEY, holds=True),
    Target("all-on-tcp", "all on, the store over TCP", full(tcp=True), key=CLIENT_KEY),
    Target(
        "all-on-rules", "all on, the client with four limits and budgets", full(tcp=True, rules=True), key=CLIENT_KEY
    ),
    Target(
        "cache-misses", "all on TCP, a cache that never hits", full(tcp=True, cache=True), key=CLIENT_KEY, unique=True
    ),
    Target("cache-hits", "all on TCP, a cache that always hits", full(tcp=True, cache=True), key=CLIENT_KEY),
    Target("all-on-1000", "all on, 1,000 keys", full(keys=1_000), key=CLIENT_KEY, keys=1_000),
    Target("all-on-10000", "all on, 10,000 keys", full(keys=10_000), key=CLIENT_KEY, keys=10_000),
    Target("all-on-2w", "all on, two workers on all cores", full(workers=2), key=CLIENT_KEY),
    Target("all-on-tls", "all on, TLS to upstream", full(tls=True), key=CLIENT_KEY),
)
