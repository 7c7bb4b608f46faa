"""How a command reaches the store: the configured one, the running proxy's embedded one, or one of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from quotapool.settings import Settings
from quotapool.store.embedded import StateDirBusy, attach_url, temporary
from quotapool.store.runtime_dir import RuntimeDirUnsafe
from quotapool.store.store import Store, StoreError, connect
from quotapool.store.valkey_process import EmbeddedFailed


@asynccontextmanager
async def store_of(settings: Settings) -> AsyncIterator[Store]:
    """The pool's store for the length of one command."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    ca_file = str(settings.ca_file) if settings.ca_file else None
    url = settings.redis.get_secret_value() if settings.redis else attach_url(settings.state_dir)
    if url is not None:
        store = connect(url, timeout_s=2.0, ca_file=ca_file)
        try:
            yield store
        finally:
            await store.close()
        return
    async with temporary(settings.state_dir, log=structlog.get_logger()) as own:
        store = connect(own, timeout_s=2.0)
        try:
            yield store
        finally:
            await store.close()


def run_with_store(settings: Settings, command: Callable[[Store], Awaitable[int]]) -> int:
    """Run `command`; its exit code, or 2 with a message where the store cannot be reached."""

    async def main() -> int:
        async with store_of(settings) as store:
            return await command(store)

    try:
        return asyncio.run(main())
    except (StoreError, StateDirBusy, EmbeddedFailed, RuntimeDirUnsafe) as error:
        sys.stderr.write(f"quotapool: {error}\n")
    except OSError as error:
        sys.stderr.write(f"quotapool: {settings.state_dir}: {error.strerror or error}\n")
    return 2
