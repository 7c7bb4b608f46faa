"""Databases of other proxies, and an empty pool to move to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import Vault
from quotapool.ledger.clients import ClientRecord, ClientStore
from quotapool.ledger.teams import TeamRecord
from quotapool.migrate.apply import Migration, Moved
from quotapool.migrate.database import opened
from quotapool.migrate.program import Program
from quotapool.observe.redaction import Redactor
from quotapool.operators.keys import KeyOperations
from quotapool.operators.overview import Overview
from quotapool.settings import Settings, UpstreamKey
from quotapool.store.store import Store

from tests.conftest import missing
from tests.fakes import databases, peers
from tests.fakes.connect import connect
from tests.fakes.store import ledger_on


@pytest.fixture(scope="session")
def server() -> Iterator[Callable[[str], str]]:
    """`server("mysql")`: the URL of a real server, started when first asked for."""
    with contextlib.ExitStack() as stack:
        started: dict[str, str] = {}

        def url(kind: str) -> str:
            if kind not in started:
                started[kind] = stack.enter_context(databases.server(kind, missing))
            return started[kind]

        yield url


@dataclass
class Made:
    """A peer's database: its SQLAlchemy URL, and as a user of that peer names it."""

    url: str
    source: str


@pytest.fixture
def make(server, tmp_path) -> Callable[..., Made]:
    """`make("mysql", "one-api", rows)`."""

    def made(kind: str, peer: str, rows: dict[str, list[dict[str, Any]]]) -> Made:
        if kind == "sqlite":
            path = tmp_path / f"{peer}.db"
            peers.make(f"sqlite:///{path}", peer, rows)
            return Made(f"sqlite:///{path}", str(path))
        url = databases.new_database(server(kind), "peer")
        peers.make(url, peer, rows)
        host = url.rpartition("@")[2].partition("/")[0]
        if kind == "mysql":  # as Go's driver takes it, which is what these programs are configured with
            return Made(url, f"peer:{databases.PASSWORD}@tcp({host})/peer?charset=utf8mb4&parseTime=True")
        return Made(url, f"postgres://peer:p%40ss%2Fword%3A1@{host}/peer?sslmode=disable")

    return made


@dataclass
class Pool:
    """A pool without keys, and what is in it after a migration."""

    store: Store
    operations: Callable[[], Any]

    async def migrate(self, program: Callable[[Any], Program], source: str, **options: Any) -> Moved:
        """Without checks, unless `check`."""
        with opened(source) as database:
            return await self.run(program(database), **options)

    async def run(self, program: Program, *, dry_run: bool = False, check: bool = False) -> Moved:
        keys = await self.operations()
        return await Migration(keys, program, check=check, dry_run=dry_run).run(at_once=8, per_second=1_000)

    async def keys(self) -> dict[str, UpstreamKey]:
        """By secret."""
        keys: KeyOperations = await self.operations()
        return {key.secret.get_secret_value(): key for key in keys.settings.keys}

    async def accounts(self) -> dict[str, Any]:
        """Settings by secret of the account's key."""
        keys: KeyOperations = await self.operations()
        return {key.secret.get_secret_value(): keys.settings.accounts.get(key.account) for key in keys.settings.keys}

    async def states(self) -> dict[str, str]:
        """By secret."""
        keys: KeyOperations = await self.operations()
        await keys.overview.sync.refresh()
        rows = {row["id"]: row["state"] for row in await keys.rows()}
        return {secret: rows[key.id] for secret, key in (await self.keys()).items()}

    async def clients(self) -> dict[str, ClientRecord]:
        """By the SHA-256 of their keys."""
        return {record.hash: record for record in (await ClientStore(self.store, "default").all()).values()}

    async def suspended(self) -> dict[str, str]:
        return {name: s.reason for name, s in (await ClientStore(self.store, "default").suspended()).items()}

    async def ids(self) -> dict[str, str]:
        """SHA-256 -> id."""
        return {record.hash: name for name, record in (await ClientStore(self.store, "default").all()).items()}

    async def teams(self) -> dict[str, TeamRecord]:
        return await ClientStore(self.store, "default").teams.all()


@pytest.fixture
async def pool_at(valkey_url) -> AsyncIterator[Callable[[str], Pool]]:
    """`pool_at(upstream)`."""
    store = connect(valkey_url)

    def made(upstream: str = "https://api.openai.com") -> Pool:
        async def operations() -> KeyOperations:
            given = {"keys": [], "upstream": upstream, "master_key": "the-master-key-of-this-test-0001"}
            settings = Settings.model_validate(given)
            sources = KeySources(Vault(store, "default"), settings)
            await sources.read()
            return KeyOperations(Overview(sources.merged(), ledger_on(store)), sources, Redactor())

        return Pool(store, operations)

    yield made
    await store.close()


@pytest.fixture
def pool(pool_at) -> Pool:
    return pool_at()


def everything(moved: Moved) -> dict[str, dict[str, int]]:
    """What became of all, without what did not happen."""
    return {"keys": dict(moved.keys), "teams": dict(moved.teams), "clients": dict(moved.clients)}


def whys(moved: Moved, what: str) -> dict[str, str]:
    """From where -> why, of what was not taken."""
    return {one.origin: one.why for one in moved.not_taken if one.what == what}


def a_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path
