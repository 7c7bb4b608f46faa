"""What Quotapool must be allowed to do in the store: checked at the start, by a script that does all of it once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import quotapool
from quotapool.store.store import StoreError, StoreLost, StoreRefused

from tests.fakes.connect import connect
from tests.fakes.store import ledger_on
from tests.fakes.valkey import running_valkey

CODE = Path(quotapool.__file__).parent
PAGE = Path(__file__).parents[2] / "docs/managed-redis.md"
NOT_ON_KEYS = {"INFO", "PING", "PIPELINE", "INITIALIZE", "ACLOSE", "EXECUTE", "EXECUTE_COMMAND", "ID"}


def acl_line() -> list[str]:
    """The rules of the documented user, without its name and password."""
    (line,) = re.findall(r"^ACL SETUSER pool-user (.*)$", PAGE.read_text(), re.MULTILINE)
    return [rule for rule in line.split() if not rule.startswith(">")]


def commands(text: str) -> set[str]:
    found = re.findall(r"redis\.call\('([A-Z]+)'", text)
    found += re.findall(r"(?:store\.client|\bclient|\bpipe)\.([a-z]+)(?=[(,])", text)
    found += re.findall(r"\[?\(\"(h(?:set|del|get|mget)[a-z]*)\", ", text)  # of a pipeline, in objects/owners.py
    return {{"DELETE": "DEL"}.get(name.upper(), name.upper()) for name in found}


def test_every_command_that_is_used_is_tried_at_the_start():
    used = set[str]()
    for file in [*CODE.rglob("*.py"), *CODE.rglob("*.lua")]:
        text = file.read_text()
        if file.suffix == ".lua" or "quotapool.store.store" in text:
            used |= commands(text)
    tried = commands((CODE / "ledger/lua/rights.lua").read_text())
    assert len(used) > 25
    assert used - tried <= NOT_ON_KEYS


async def test_the_documented_rights_suffice(tmp_path):
    with running_valkey(tmp_path) as url:
        admin = connect(url)
        await admin.client.execute_command("ACL", "SETUSER", "quotapool", ">secret", *acl_line())
        store = connect(url.replace("unix://", "unix://quotapool:secret@"))
        await ledger_on(store).check_rights()
        assert await admin.client.keys("*:rights:*") == []
        with pytest.raises(StoreError):  # and no more than needed
            await store.guard(store.client.execute_command("CONFIG", "GET", "*"))
        with pytest.raises(StoreError):
            await store.guard(store.client.set("other", "1"))
        await store.close()
        await admin.close()


@pytest.mark.parametrize("missing", ["eval", "evalsha", "hset", "zadd", "xadd", "mget", "time", "hsetnx"])
async def test_a_missing_right_is_named_by_the_store(tmp_path, missing):
    with running_valkey(tmp_path) as url:
        admin = connect(url)
        await admin.client.execute_command("ACL", "SETUSER", "quotapool", ">secret", *acl_line(), f"-{missing}")
        store = connect(url.replace("unix://", "unix://quotapool:secret@"))
        with pytest.raises((StoreLost, StoreRefused), match=missing) as error:
            await ledger_on(store).check_rights()
        assert "secret" not in str(error.value)
        await store.close()
        await admin.close()


async def test_a_pool_outside_the_users_keys_is_refused(tmp_path):
    with running_valkey(tmp_path) as url:
        admin = connect(url)
        rules = [rule for rule in acl_line() if not rule.startswith("~")]
        await admin.client.execute_command("ACL", "SETUSER", "quotapool", ">secret", *rules, "~other:*")
        store = connect(url.replace("unix://", "unix://quotapool:secret@"))
        with pytest.raises(StoreLost, match="key") as lost:
            await ledger_on(store).check_rights()
        assert lost.value.is_lasting
        await store.close()
        await admin.close()


async def test_a_store_without_scripts_is_refused(tmp_path):
    with running_valkey(tmp_path, "--rename-command", "EVALSHA", "", "--rename-command", "EVAL", "") as url:
        store = connect(url)
        with pytest.raises(StoreRefused, match="unknown command 'EVAL"):
            await ledger_on(store).check_rights()
        await store.close()
