"""Streams whose clients have left, read on for the usage that comes at their end (`finish_cut_streams`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from quotapool.openai.sse import StreamRelay
from quotapool.upstream.interface import Answer, UpstreamFailure

_LONGEST_S: Final = 60.0


class ReadingOn:
    """Those of one process. `close` lets go of them."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, answer: Answer, watch: StreamRelay, end: Callable[[], None]) -> None:
        """Read the rest of `answer` into `watch`, then call `end`, even if this is cancelled before it began."""

        def over(task: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
            end()

        task = asyncio.get_running_loop().create_task(_read(answer, watch))
        self.tasks.add(task)
        task.add_done_callback(over)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _read(answer: Answer, watch: StreamRelay) -> None:
    try:
        async with asyncio.timeout(_LONGEST_S):
            while chunk := await answer.chunk():
                watch.feed(chunk)
    except (TimeoutError, UpstreamFailure):
        pass  # what was seen until then counts
