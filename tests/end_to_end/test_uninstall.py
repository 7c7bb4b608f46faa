"""docs/install.md says what remains on disk and in a store, and its commands remove that, and nothing of others."""

from __future__ import annotations

from pathlib import Path

import redis

from tests.fakes.documented import blocks, run
from tests.fakes.processes import fetch, pool_config
from tests.fakes.valkey import running_valkey

DISK, STORE = blocks("install.md", "Uninstall")[0].splitlines()
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


def left(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if "quotapool" in path.name)


def test_nothing_remains_on_disk(start_simulator, start_proxy, tmp_path):
    home = tmp_path / "home"
    runtime, temporary = home / "run", home / "tmp"
    runtime.mkdir(parents=True, mode=0o700)
    temporary.mkdir()
    paths = {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(temporary), "XDG_STATE_HOME": ""}
    state = home / ".local/state/quotapool"
    proxy = start_proxy({**pool_config(start_simulator(1)), "state_dir": str(state)}, env=paths)
    assert fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)[0] == 200
    proxy.stop()
    assert any(name.startswith(".local/state/quotapool") for name in left(home))
    run(DISK, tmp_path, **paths)
    assert left(home) == []


def test_nothing_of_the_pool_remains_in_a_shared_store_and_all_of_others(
    start_simulator, start_proxy, tmp_path, program
):
    program("redis-cli")
    with running_valkey(tmp_path, "--port", "0") as url, redis.Redis.from_url(url) as store:
        config = pool_config(start_simulator(1), redis=url)
        for pool in ("default", "default2"):
            proxy = start_proxy({**config, "pool": pool})
            assert fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)[0] == 200
            proxy.stop()
        keys = set(store.keys())
        mine = {key for key in keys if key.startswith((b"qp:{default}", b"qp:{default:"))}
        others = keys - mine
        assert mine
        assert others
        run(STORE.replace('-u "$STORE"', f"-s {url.removeprefix('unix://')}"), tmp_path)
        assert set(store.keys()) == others
