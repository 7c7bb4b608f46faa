"""Looking over the shoulder of a real store: its clock, its buckets, its time moved on, its answers lost on the way.

Nothing here replaces our own code: `ClockedStore` notes what the server said, `Wire` stands on the network between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
from quotapool.domain.observer import Observer
from quotapool.domain.quantities import Limits
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.grants import Candidate, Granted, candidate_of, written_limits
from quotapool.ledger.messages import bucket_key
from quotapool.store.address import parse
from quotapool.store.store import Script, Store

from tests.fakes.connect import connect

unpack, pack = msgspec.msgpack.decode, msgspec.msgpack.encode


class StoreLog(Observer):
    """An observer that remembers what it learned about the store."""

    def __init__(self) -> None:
        self.batches: list[int] = []  # items of each answered batch
        self.failures: list[str] = []
        self.absences: list[bool] = []
        self.why = ""  # it was away last

    def store_answered(self, seconds: float, items: int) -> None:
        self.batches.append(items)

    def store_failed(self, reason: str) -> None:
        self.failures.append(reason)

    def store_away(self, *, away: bool, why: str = "") -> None:
        self.absences.append(away)
        self.why = why or self.why


class ClockedStore(Store):
    """A store that notes `now`, the server's time of the last batch."""

    now = 0.0

    @classmethod
    def at(cls, url: str, **options: Any) -> ClockedStore:
        plain = connect(url, **options)
        return cls(plain.client, parse(url), plain.timeout_s)

    async def evalsha_batch(self, script: Script, key: bytes | str, *args: bytes | str, **options: Any) -> bytes:
        answer = await super().evalsha_batch(script, key, *args, **options)
        self.now = unpack(answer)[2]
        return answer


def ledger_on(store: Store, pool: str = "test", *, patience_s: float = 2.0, **options: Any) -> Ledger:
    return Ledger(store, pool, patience_s=patience_s, observer=options.pop("observer", None) or StoreLog(), **options)


def candidate(account: str = "a", limits: Limits | None = None, *, key: str = "", burst_s: float = 60.0) -> Candidate:
    """A key `key` (by default the account's name and a 1) with `limits` as somebody wrote them."""
    key = key or f"{account}1"
    prints = {"account_fingerprint": f"fp-{account}", "key_fingerprint": f"fp-{key}"}
    written = written_limits(limits or Limits())
    return candidate_of(account=account, key=key, **prints, written=written, burst_s=burst_s)


async def granted(ledger: Ledger, *args: Any, **kwargs: Any) -> Granted:
    answer = await ledger.reserve(*args, **kwargs)
    assert isinstance(answer, Granted), answer
    return answer


async def move_time(ledger: Ledger, seconds: float) -> None:
    """Let `seconds` pass for every bucket, hint, claim and state of the pool, by making all that much older."""
    client, prefix = ledger.store.client, ledger.prefix
    names = [unpack(member) for member in await client.smembers(f"{prefix}:buckets")]
    for account, group in names:
        key = bucket_key(prefix, account, group)
        at, cool, lean, seen, *others = unpack(b"\xdc\x00\x36" + await client.get(key))
        at, cool, seen = at - seconds, cool and cool - seconds, seen and seen - seconds
        await client.set(key, b"".join(map(pack, [at, cool, lean, seen, *others])), keepttl=True)
    for group in {group for _, group in names}:
        hints = await client.zrange(f"{prefix}:next:{group}", 0, -1, withscores=True)
        if hints:
            await client.zadd(f"{prefix}:next:{group}", {account: score - seconds for account, score in hints})
        for account, raw in (await client.hgetall(f"{prefix}:claims:{group}")).items():
            owner, arrived, until = unpack(raw)
            await client.hset(f"{prefix}:claims:{group}", account, pack([owner, arrived - seconds, until - seconds]))
    for field, raw in (await client.hgetall(f"{prefix}:states")).items():
        record = unpack(raw)
        record["since"] -= seconds
        record["until"] -= seconds if record["until"] else 0
        await client.hset(f"{prefix}:states", field, pack(record))
    await client.incr(f"{prefix}:version")  # who has read the records reads them again
    epoch = await client.get(f"{prefix}:epoch")
    if epoch and epoch.startswith(b"r:"):
        await client.set(f"{prefix}:epoch", f"r:{float(epoch[2:]) - seconds}")


class Wire:
    """A Unix socket in front of the store's own. `lose(answers)` swallows so many coming answers of the store.

    `how`: "close" ends the connection in place of the answer, "hang" keeps silent; "down" takes no connection at all.
    """

    def __init__(self, store_path: str, path: Path) -> None:
        self.url = f"unix://{path}"
        self.lost: list[bytes] = []  # the answers that did not arrive
        self.answer_instead = b""  # once, to a script
        self._store_path, self._path = store_path, path
        self._to_lose, self._how = 0, "close"
        self._only: Callable[[bytes], bool] = lambda _: True
        self._writers: set[asyncio.StreamWriter] = set()

    def lose(self, answers: int = 1, how: str = "close", *, only: Callable[[bytes], bool] = lambda _: True) -> None:
        """Lose the next `answers` to commands for which `only` holds."""
        self._to_lose, self._how, self._only = answers, how, only

    def heal(self) -> None:
        self._to_lose, self._how = 0, "close"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._how == "down":
            writer.close()
            return
        store_reader, store_writer = await asyncio.open_unix_connection(self._store_path)
        self._writers |= {writer, store_writer}
        try:
            while command := await reader.read(2**20):
                if self.answer_instead and b"EVAL" in command:
                    writer.write(self.answer_instead)
                    self.answer_instead = b""
                    continue
                store_writer.write(command)
                answer = await store_reader.read(2**20)
                if self._how == "down":
                    return
                if self._to_lose and self._only(command):
                    self._to_lose -= 1
                    self.lost.append(answer)
                    if self._how == "close":
                        return
                    await reader.read()  # until the client gives up
                    return
                writer.write(answer)
        except ConnectionError:
            pass
        finally:
            writer.close()
            store_writer.close()
            self._writers -= {writer, store_writer}

    def cut(self) -> None:
        """Break the connections there are."""
        for writer in list(self._writers):
            writer.close()


@contextlib.asynccontextmanager
async def wire(store_url: str, directory: Path) -> AsyncIterator[Wire]:
    """A `Wire` in front of the store at `store_url` (`unix://`)."""
    path = directory / "wire.sock"
    between = Wire(store_url.removeprefix("unix://"), path)
    server = await asyncio.start_unix_server(between.serve, path)
    try:
        yield between
    finally:
        server.close()
        between.cut()
