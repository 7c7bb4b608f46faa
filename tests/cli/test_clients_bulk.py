"""Commands about many clients: what is said of one that was cut short."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from quotapool.cli.clients_bulk import Choice, work
from quotapool.settings import Settings
from quotapool.store.store import StoreLost

from tests.fakes.connect import connect


@pytest.mark.parametrize(
    ("action", "names", "rest"),
    [
        ("suspend", ["a", "b", "c"], "the same command does the rest"),
        ("revoke", [], "the same command does the rest"),
        ("revoke", ["a", "b", "c"], "the rest is as it was"),  # it would name clients that are gone
    ],
)
async def test_work_that_the_store_ends_says_how_far_it_came(valkey_url, tmp_path, capsys, action, names, rest):
    async def rows() -> list[dict[str, object]]:
        return [{"id": name, "team": None} for name in "abc"]

    async def act(name: str) -> str:
        if name == "c":
            raise StoreLost("timeout", sent=True)
        return "is done"

    choice = Choice(names, None, None if names else "*")
    store = connect(valkey_url)
    with pytest.raises(StoreLost):
        await work(Settings(state_dir=tmp_path), store, SimpleNamespace(rows=rows), action, choice, act, yes=True)
    await store.close()
    assert capsys.readouterr().err == f"quotapool: at least 2 of 3 clients are done; {rest}\n"
