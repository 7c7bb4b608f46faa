"""No prompt, answer or scope is in what the store keeps: in memory, in a dump, in the append-only file, or in a log."""

from __future__ import annotations

import io
import logging
import zlib
from pathlib import Path

import pytest
import redis
import structlog
from quotapool.cache.entry import Cost, Entry, Form

from tests.fakes.caches import PREFIX, Process
from tests.fakes.connect import connect
from tests.fakes.valkey import running_valkey

PROMPT = "the canary's prompt: 7f3c29d1 sings at dawn"
ANSWER = "the canary's answer: 51be0a77 sleeps at noon"
SCOPE = "team:the-canary-team-90d2"
PARTS = [text[n : n + 12].encode() for text in (PROMPT, ANSWER, SCOPE) for n in range(0, len(text) - 12, 4)]


def entries() -> list[Entry]:
    """Short, compressed, and too long for a script."""
    body = ANSWER.encode()
    return [Entry(Form.JSON, body * n, "application/json", "gpt-4o", Cost(1, 2, 3)) for n in (1, 500, 100_000)]


async def test_nothing_is_in_plain(tmp_path, capfd):
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file := io.StringIO()))
    logged = logging.StreamHandler(text := io.StringIO())
    logging.getLogger().addHandler(logged)
    options = ("--appendonly", "yes", "--appendfsync", "always", "--rdbcompression", "no", "--loglevel", "debug")
    try:
        with running_valkey(tmp_path, *options) as url:
            store = connect(url)
            one = Process(store)
            for n, kept in enumerate(entries()):
                name = one.secrets.name(SCOPE, "/v1/chat/completions", b'{"n":%d,"prompt":"%b"}' % (n, PROMPT.encode()))
                await one.ask(name)
                await one.keep(name, kept, ttl_s=600, client="app")
                found = await one.ask(name)
                assert found.entry == kept
            await store.client.set(f"{PREFIX}:e:damaged", ANSWER[:3])  # and something goes wrong, which is logged
            await store.client.execute_command("SAVE")
            await store.client.set(f"{PREFIX}:about", "not a hash")
            await one.ask(name)
            assert one.failed == ["script"]
            await one.close()
            await store.close()
    finally:
        logging.getLogger().removeHandler(logged)
        structlog.reset_defaults()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    stored = {path.name: path.read_bytes() for path in files}
    assert any(name.endswith(".rdb") for name in stored)
    assert any("aof" in name and len(raw) > 1000 for name, raw in stored.items())
    everything = [
        *stored.values(),
        file.getvalue().encode(),
        text.getvalue().encode(),
        str(capfd.readouterr()).encode(),
    ]
    for raw in everything:
        assert [part for part in PARTS if part in raw] == []


@pytest.mark.parametrize("kept", entries(), ids=["short", "compressed", "long"])
async def test_nor_under_compression(tmp_path, kept):
    """I expect no stream of zlib at any place of what is stored."""
    with running_valkey(tmp_path) as url:
        store = connect(url)
        one = Process(store)
        await one.keep(b"n" * 16, kept)
        (key,) = await store.client.keys(f"{PREFIX}:e:*")
        raw = await store.client.get(key)
        assert ANSWER.encode() in kept.body
        for n in range(min(len(raw), 3_000)):
            try:
                found = zlib.decompressobj().decompress(raw[n:], 1_000)
            except zlib.error:
                continue
            assert not any(part in found for part in PARTS)
        await one.close()
        await store.close()


def test_the_scan_finds_what_is_in_plain(tmp_path: Path):
    with running_valkey(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as url:
        redis.Redis.from_url(url).set("a", ANSWER)
    assert any(part in path.read_bytes() for part in PARTS for path in tmp_path.rglob("*.aof"))
