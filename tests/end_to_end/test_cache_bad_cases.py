"""The cache when its store is full, its entries are damaged, it is cleared, or its configuration or key changes."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis
import yaml
from quotapool.simulator import simulated_secret

from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.fakes.running import RawAnswer, post_json, reset, running_replicas, running_simulator
from tests.scenarios.bookkeeping import refused_upstream

KEYS: Final = {name: f"{name}-client-key-0123456789" for name in ("ann", "bob", "few", "now")}
SCARCE: Final = "gpt-4.1"
ENTRIES: Final = "qp:{default:cache}:e:*"
_serial = itertools.count()


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """With plenty of every model but `SCARCE`, of which there are 60 requests a minute."""
    limits = {"rpm": 100_000, "tpm": 100_000_000, "models": {SCARCE: {"rpm": 60}}}
    file = tmp_path_factory.mktemp("upstream") / "upstream.yaml"
    file.write_text(yaml.safe_dump({"accounts": [{"id": "one", "keys": [simulated_secret(0)], **limits}]}))
    with running_simulator(1, "--answers", "by_call", "--config", str(file)) as running:
        yield running


@pytest.fixture(scope="module")
def master_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("master") / "master-key"
    file.write_text("a-master-key-of-32-characters-01\n")
    return file


@pytest.fixture(scope="module")
def pool(
    simulator: Simulator, master_key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningProxy, redis.Redis]]:
    config = pool_config(
        simulator,
        master_key_file=str(master_key_file),
        workers=2,
        cache={"models": ["*"]},
        clients=[
            {"id": "ann", "key": KEYS["ann"]},
            {"id": "bob", "key": KEYS["bob"]},
            {"id": "few", "key": KEYS["few"], "budgets": [{"requests": 6, "per": "total"}], "max_wait": 0},
            {"id": "now", "key": KEYS["now"], "max_wait": 0},
        ],
        queue={"max_wait": 20},
    )
    with running_replicas(tmp_path_factory.mktemp("bad"), config, number=1) as ([proxy], store):
        yield proxy, store


@pytest.fixture
def proxy(pool: tuple[RunningProxy, redis.Redis], simulator: Simulator) -> RunningProxy:
    reset(simulator)
    return pool[0]


@pytest.fixture
def store(pool: tuple[RunningProxy, redis.Redis]) -> redis.Redis:
    return pool[1]


def fresh(**more: Any) -> dict[str, Any]:
    """A chat that nobody has had before."""
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": f"question {next(_serial)}"}], **more}


def ask(proxy: RunningProxy, body: dict[str, Any], client: str = "ann", **headers: str) -> RawAnswer:
    sent = {"Authorization": f"Bearer {KEYS[client]}", **headers}
    return post_json(proxy.base_url, "/v1/chat/completions", body, sent)


def result(proxy: RunningProxy, body: dict[str, Any], client: str = "ann") -> str | None:
    answer = ask(proxy, body, client)
    assert answer.status == 200, answer
    return answer.header("x-quotapool-cache")


def keep(proxy: RunningProxy, body: dict[str, Any], client: str = "ann") -> bytes:
    """Have the answer kept; what it is."""
    made = ask(proxy, body, client)
    assert made.header("x-quotapool-cache") == "miss", made
    only = {"Cache-Control": "only-if-cached"}
    wait_until(lambda: ask(proxy, body, client, **only).status == 200, "the answer is kept", 20)
    return made.body


def calls(simulator: Simulator) -> int:
    return int(sum(count for path, count in simulator.stats()["calls"].items() if path.startswith("POST")))


def failures(proxy: RunningProxy, reason: str) -> float:
    return proxy.total("quotapool_cache_failures_total", reason=reason)


# ---- the store is full


def test_while_the_store_is_full_requests_are_served_as_misses_and_budgets_hold(proxy, store, simulator):
    before = fresh()
    told = keep(proxy, before)
    assert result(proxy, fresh(), "few") == "miss"
    assert {ask(proxy, fresh(model=SCARCE)).status for _ in range(8)} == {200}
    full, away = failures(proxy, "full"), proxy.total("quotapool_reservations_total", result="granted_local")
    store.config_set("maxmemory", 1)
    try:
        asked = fresh()
        assert "hit" not in {result(proxy, asked) for _ in range(3)}
        assert ask(proxy, before).body == told  # what is there is served
        wait_until(lambda: failures(proxy, "full") > full, "it is counted", 15)
        # Of the client's budget, and of what the pool has of the model, no more than the rest is sold.
        spent = [ask(proxy, fresh(), "few") for _ in range(20)]
        assert {answer.error["code"] for answer in spent if answer.status != 200} == {"client_budget_exhausted"}
        assert 0 < [answer.status for answer in spent].count(200) <= 5
        sold = [ask(proxy, fresh(model=SCARCE), "now").status for _ in range(80)]
        assert set(sold) == {200, 429}
        assert refused_upstream(simulator) == 0
        wait_until(
            lambda: proxy.total("quotapool_reservations_total", result="granted_local") > away, "without the store", 5
        )
    finally:
        store.config_set("maxmemory", 0)
    reset(simulator)
    wait_until(lambda: result(proxy, asked) == "hit", "answers are kept again", 20)
    spent += [ask(proxy, fresh(), "few") for _ in range(10)]
    assert [answer.status for answer in spent].count(200) <= 5


# ---- an entry is damaged


@pytest.mark.parametrize("where", [0, 1, 20, -1])
def test_a_damaged_entry_is_a_miss_that_is_counted_and_deleted(where, proxy, store, simulator):
    before, body = set(store.keys(ENTRIES)), fresh()
    keep(proxy, body)
    (key,) = set(store.keys(ENTRIES)) - before
    raw = bytearray(store.get(key))
    raw[where] ^= 0x40
    store.set(key, bytes(raw), keepttl=True)
    damaged = failures(proxy, "damaged")
    refused = ask(proxy, body, **{"Cache-Control": "only-if-cached"})
    assert (refused.status, refused.error["code"]) == (504, "not_cached")
    wait_until(lambda: failures(proxy, "damaged") == damaged + 1, "it is counted", 15)
    wait_until(lambda: store.exists(key) == 0, "it is deleted", 15)
    assert calls(simulator) == 1
    told = keep(proxy, body)
    assert ask(proxy, body).body == told


# ---- it is cleared


def test_what_is_cleared_is_asked_for_again_and_nothing_else(proxy):
    def kept() -> dict[tuple[str, str], bool]:
        only = {"Cache-Control": "only-if-cached"}
        return {of: ask(proxy, body, of[0], **only).status == 200 for of, body in bodies.items()}

    bodies = {(client, model): fresh(model=model) for client in ("ann", "bob") for model in ("gpt-4o", "gpt-4o-mini")}
    for (client, _), body in bodies.items():
        keep(proxy, body, client)
    gone = set()
    for words, cleared in (
        (("--client", "ann", "--model", "gpt-4o"), {("ann", "gpt-4o")}),
        (("--model", "gpt-4o"), {("bob", "gpt-4o")}),
        (("--client", "bob"), {("bob", "gpt-4o-mini")}),
        ((), {("ann", "gpt-4o-mini")}),
    ):
        done = proxy.command("cache", "clear", *words)
        assert done.returncode == 0, done.stderr
        gone |= cleared
        assert kept() == {of: of not in gone for of in bodies}, words


# ---- its configuration changes


@contextlib.contextmanager
def changed(proxy: RunningProxy, **options: Any) -> Iterator[None]:
    """With other options, after a reload; as before at the end."""
    _reload(proxy, options)
    try:
        yield
    finally:
        _reload(proxy, {})


def _reload(proxy: RunningProxy, options: dict[str, Any]) -> None:
    before = proxy.total("quotapool_config_reloads_total", result="ok")
    proxy.config_file.write_text(yaml.safe_dump({**proxy.config, **options}))
    proxy.process.send_signal(signal.SIGHUP)
    wait_until(lambda: proxy.total("quotapool_config_reloads_total", result="ok") > before, "it is reloaded", 20)


def test_turned_off_nothing_is_served_or_kept_and_turned_on_what_was_kept_is_there(proxy, store, simulator):
    body, other = fresh(), fresh()
    told = keep(proxy, body)
    with changed(proxy, cache={"models": []}):
        kept = set(store.keys(ENTRIES))
        wait_until(lambda: result(proxy, body) is None and result(proxy, body) is None, "it is off", 10)
        for _ in range(8):  # by either worker
            assert result(proxy, body) is None
            assert result(proxy, other) is None
        assert set(store.keys(ENTRIES)) == kept
    wait_until(lambda: result(proxy, body) == "hit", "it is on", 10)
    assert ask(proxy, body).body == told


def test_another_scope_has_other_entries(proxy, simulator):
    body = fresh()
    told = keep(proxy, body)
    with changed(proxy, cache={"models": ["*"], "scope": "pool"}):
        together = keep(proxy, body, "bob")
        assert together != told
        for _ in range(4):
            assert {ask(proxy, body, client).body for client in ("ann", "bob")} == {together}
    for _ in range(4):
        assert ask(proxy, body).body == told
    assert result(proxy, body, "bob") == "miss"  # of its own


def test_models_that_are_not_named_any_more_are_not_served(proxy):
    body = fresh()
    keep(proxy, body)
    with changed(proxy, cache={"models": ["gpt-5*"]}):
        assert {result(proxy, body) for _ in range(6)} == {None}
    assert result(proxy, body) == "hit"


# ---- another master key


def test_with_another_master_key_old_entries_are_misses(proxy, store, master_key_file):
    body, text = fresh(), master_key_file.read_text()
    told = keep(proxy, body)
    old = set(store.keys(ENTRIES))
    damaged = failures(proxy, "damaged")
    master_key_file.write_text("another-master-key-of-32-chars-2\n" + text)
    with changed(proxy, log={"level": "warning", "format": "json"}):
        again = keep(proxy, body)
        assert again != told
        assert len(set(store.keys(ENTRIES)) - old) == 1
        assert old <= set(store.keys(ENTRIES))
        for _ in range(4):
            assert ask(proxy, body).body == again
        master_key_file.write_text(text)
    for _ in range(4):
        assert ask(proxy, body).body == told
    assert failures(proxy, "damaged") == damaged  # nobody else's entry was even found
