"""Commands about many keys: what is left of one that was cut short."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import nullcontext

import pytest
from quotapool.cli.cut_short import how_far_if_cut
from quotapool.cli.keys_bulk import kept_if_cut
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import Vault
from quotapool.observe.redaction import Redactor
from quotapool.operators.keys import KeyConflict, KeyOperations
from quotapool.operators.overview import Overview
from quotapool.settings import Settings
from quotapool.store.store import StoreLost

from tests.fakes.connect import connect
from tests.fakes.store import ledger_on


@pytest.fixture
async def keys(valkey_url, tmp_path) -> AsyncIterator[KeyOperations]:
    store = connect(valkey_url)
    settings = Settings(state_dir=tmp_path)
    yield KeyOperations(
        Overview(settings, ledger_on(store, "default")), KeySources(Vault(store, "default"), settings), Redactor()
    )
    await store.close()


async def cut_by(keys: KeyOperations, error: BaseException | None, done: int) -> list[dict[str, object]]:
    """The changes that are recorded of `disable` for 5 keys, which `error` ends after `done`."""
    with nullcontext() if error is None else pytest.raises(type(error)):
        async with kept_if_cut(keys, "disable_keys", 5, "keys", lambda: (done, {"done": [None, done]})):
            if error is not None:
                raise error
    store = keys.overview.ledger.store
    events = await store.client.xrange(f"{keys.overview.ledger.prefix}:events")
    assert {fields[b"action"] for _, fields in events} <= {b"disable_keys"}
    return [json.loads(fields[b"changes"]) for _, fields in events]


@pytest.mark.parametrize("error", [StoreLost("timeout", sent=True), asyncio.CancelledError()])
async def test_work_that_is_cut_short_says_how_far_it_came_and_is_recorded(keys, error, capsys):
    assert await cut_by(keys, error, 2) == [{"done": [None, 2]}]
    assert capsys.readouterr().err == "quotapool: at least 2 of 5 keys are done; the same command does the rest\n"


@pytest.mark.parametrize(
    ("error", "done"), [(None, 5), (KeyConflict("it is configured"), 0), (asyncio.CancelledError(), 0)]
)
async def test_otherwise_nothing_is_said_and_what_was_done_is_recorded(keys, error, done, capsys):
    assert await cut_by(keys, error, done) == ([{"done": [None, done]}] if done else [])
    assert capsys.readouterr().err == ""


def test_what_names_keys_that_are_gone_is_not_said_to_do_the_rest(capsys):
    with pytest.raises(StoreLost), how_far_if_cut(5, "keys", lambda: 2, again=False):
        raise StoreLost("timeout", sent=True)
    assert capsys.readouterr().err == "quotapool: at least 2 of 5 keys are done; the rest is as it was\n"
