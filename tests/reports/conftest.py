"""Pools for reports."""

from __future__ import annotations

import pytest

from tests.fakes.supervised import Pool


@pytest.fixture
async def open_pool_of(valkey_url):
    opened: list[Pool] = []

    async def open_(keys: int, url: str = valkey_url, **options) -> Pool:
        pool = Pool(url, keys, **options)
        opened.append(pool)
        await pool.ledger.registry.begin_epoch(reseeded=False)
        await pool.overview.start()
        return pool

    yield open_
    for pool in opened:
        await pool.close()
