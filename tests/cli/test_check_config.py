"""`serve --check-config` refuses what `serve` would refuse, asks the store as it does, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from quotapool.cli.check_config import run
from quotapool.ledger.clients import ClientStore
from quotapool.settings import Settings, load

from tests.fakes.connect import connect
from tests.fakes.valkey import free_port


@pytest.fixture
def opened(tmp_path):
    """A configuration whose port other machines can reach, with more lines."""

    def of(more: str = "") -> Settings:
        file = tmp_path / "quotapool.yaml"
        file.write_text(f"listen: 0.0.0.0:8080\nstate_dir: state\n{more}")
        return load(file, env={"OPENAI_API_KEYS": "sk-proj-one", "HOME": "/home/op"})

    return of


async def _make_a_client(url: str) -> None:
    store = connect(url)
    await ClientStore(store, "default").add("app", "0" * 64)
    await store.close()


def test_an_open_port_is_refused_by_place_with_three_remedies(opened, tmp_path, capsys):
    assert run(opened()) == 2
    assert capsys.readouterr().err.replace(f"{tmp_path}/", "") == (
        "quotapool: quotapool.yaml:1:1: listen: 0.0.0.0:8080 can be reached from other machines, and there is no "
        "client key: anyone who finds the port could spend the pool's money.\n"
        "Make a key (`quotapool clients add NAME`, or clients:), or listen: 127.0.0.1:8080, "
        "or, on a network that you trust, allow_anonymous: true\n"
    )
    assert not Path(tmp_path / "state").exists()


def test_an_open_port_is_fine_once_the_store_has_a_client(opened, valkey_url, capsys):
    settings = opened(f"redis: {valkey_url}")
    assert run(settings) == 2
    asyncio.run(_make_a_client(valkey_url))
    assert run(settings) == 0
    assert capsys.readouterr().out == "ok: 1 key in 1 account, 0 clients\n"


def test_a_store_that_does_not_answer_leaves_it_open_and_says_so(opened, capsys):
    assert run(opened(f"redis: redis://:secret@127.0.0.1:{free_port()}/0")) == 0
    told = capsys.readouterr().err
    assert told.startswith("warning: listen: 0.0.0.0:8080 can be reached from other machines, and clients: is empty; ")
    assert "the store cannot be asked now" in told
    assert "secret" not in told


@pytest.mark.parametrize("more", ["allow_anonymous: true", "clients: [{id: a, key: a-client-key-ours}]"])
def test_an_open_port_is_fine_with_a_clear_wish(opened, more):
    assert run(opened(more)) == 0


def test_warnings_come_before_the_verdict(opened, capsys):
    assert run(opened("allow_anonymous: true\nlimits: {models: {gpt4o: {rpm: 5}}}")) == 0
    assert capsys.readouterr().err.startswith("warning: ")
