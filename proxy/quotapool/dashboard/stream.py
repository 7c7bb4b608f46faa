"""What the open pages of the dashboard are told while something changes: server-sent events, from one reading for all.

    now       a Now, every 2 seconds
    requests  {"requests": [...], "skipped": n}: those that ended, at most 100 a second, the others are counted
    events    {"events": [...]}: changes of states, as they come

The store is read while a page listens, and once for all pages. A page that does not keep up loses its stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from quotapool.admin.access import STILL_VALID
from quotapool.admin.http import error_response
from quotapool.admin.routes import PREFIX, ApiError
from quotapool.observe.request_store import RequestStore
from quotapool.shapes.general import Event
from quotapool.shapes.requests import row_of
from quotapool.store.store import Store, StoreError, text_of

_log = structlog.get_logger()
MOST_PAGES: Final = 50
_MOST_WAITING: Final = 32  # messages for a page that does not read: some ten seconds of them
_MOST_ROWS: Final = 100
_MOST_EVENTS: Final = 200  # in one message
_NOW_EVERY_S: Final = 2.0  # requests are read twice as often, events four times
_PLACES_S: Final = 1.0  # how long a new page waits for the store
_BEAT_S: Final = 10.0
_BEAT: Final = b": still here\n\n"
_AGAIN_MS: Final = b"retry: 3000\n\n"  # when a browser connects again
_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold it back
}

ReadNow = Callable[[], Awaitable[msgspec.Struct]]

_encode: Final = msgspec.json.Encoder().encode


class _Page:
    """One open stream. `lost`: it did not keep up."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(_MOST_WAITING)
        self.ended = asyncio.Event()

    def put(self, message: bytes) -> None:
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            self.ended.set()


class Stream:
    """The hub of one supervisor. `now`: reads how the pool stands, None: nobody can. Whether a page may still listen is
    asked with each beat. To be closed."""

    def __init__(
        self,
        store: Store,
        pool: str,
        now: ReadNow | None = None,
        *,
        every_s: float = _NOW_EVERY_S,
        beat_s: float = _BEAT_S,
    ) -> None:
        self._store = store
        self._events = f"qp:{{{pool}}}:events"
        self._requests = RequestStore(store, pool)
        self._now = now
        self._every_s = every_s
        self._beat_s = beat_s
        self._places: dict[str, str] = {}  # by key of the store: what was read last
        self._placed = asyncio.Event()
        self._pages: set[_Page] = set()
        self._reading: list[asyncio.Task[None]] = []
        self._last_now = 0.0, b""  # monotonic seconds, message
        self._closing = False

    def __repr__(self) -> str:
        return f"<Stream pages={len(self._pages)} reading={bool(self._reading)}>"

    def add_to(self, app: web.Application) -> None:
        """`GET /admin/stream`."""
        app.router.add_get(f"{PREFIX}/stream", self.serve, allow_head=False)

    async def close(self) -> None:
        """End all streams, at once."""
        self._closing = True
        for page in self._pages:
            page.ended.set()
        await self._stop_reading()

    # ---- a page

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One page, until it leaves, does not keep up, or may no longer listen."""
        if self._closing or len(self._pages) >= MOST_PAGES:
            return error_response(ApiError("too_many_streams", f"{MOST_PAGES} pages are listening; close one."))
        answer = web.StreamResponse(headers=_HEADERS)
        page = _Page()
        at, message = self._last_now
        if message and time.monotonic() - at < 2 * self._every_s:
            page.put(message)
        self._pages.add(page)
        try:
            await answer.prepare(request)
            self._begin_reading()
            with contextlib.suppress(TimeoutError):  # what a page asks for after its first bytes, and hears, has no gap
                async with asyncio.timeout(_PLACES_S):
                    await self._placed.wait()
            await answer.write(_AGAIN_MS)
            await self._write_all(request, answer, page)
        except ConnectionError:
            return answer  # it has left
        finally:
            self._pages.discard(page)
            if not self._pages:
                await self._stop_reading()
        if page.ended.is_set() and request.transport is not None and not self._closing:
            request.transport.abort()  # what it did not read is not waited for
        return answer

    async def _write_all(self, request: web.Request, answer: web.StreamResponse, page: _Page) -> None:
        """Raises ConnectionError."""
        ended = asyncio.create_task(page.ended.wait())
        writing = asyncio.create_task(self._write(request, answer, page))
        try:
            await asyncio.wait({ended, writing}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            for task in (ended, writing):
                task.cancel()
            await asyncio.wait({ended, writing})

    async def _write(self, request: web.Request, answer: web.StreamResponse, page: _Page) -> None:
        """Until it may no longer listen."""
        beat_at = time.monotonic() + self._beat_s
        while True:
            message = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, beat_at - time.monotonic())):
                    message = await page.queue.get()
            if message is not None:
                await answer.write(message)
            if time.monotonic() >= beat_at:
                if not await request.app[STILL_VALID](request):
                    return
                await answer.write(_BEAT)
                beat_at = time.monotonic() + self._beat_s

    def _tell(self, name: str, document: Any) -> bytes:
        message = b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(document))  # JSON has no line break
        for page in self._pages:
            page.put(message)
        return message

    # ---- reading for all of them

    def _begin_reading(self) -> None:
        if not self._reading:
            tasks = [self._read_events, self._read_requests, *([self._read_now] if self._now is not None else [])]
            self._reading = [asyncio.create_task(task()) for task in tasks]

    async def _stop_reading(self) -> None:
        tasks, self._reading = self._reading, []
        self._places.clear()
        self._placed.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _place(self, key: str, place: str) -> None:
        self._places[key] = place
        if len(self._places) == 2:
            self._placed.set()

    async def _read_events(self) -> None:
        async def read() -> None:
            client, guard = self._store.client, self._store.guard
            place = self._places.get(self._events)
            if place is None:
                last: Any = await guard(client.xrevrange(self._events, count=1))
                self._place(self._events, text_of(last[0][0]) if last else "0-0")
                return
            raw: Any = await guard(client.xrange(self._events, f"({place}", "+", count=_MOST_EVENTS))
            events = []
            for name, fields in raw or ():
                data = {text_of(key): text_of(value) for key, value in (fields or {}).items()}
                events.append(Event(text_of(name), data.pop("at", ""), data))
            if events:
                self._place(self._events, events[-1].id)
                self._tell("events", {"events": events})

        await _every(self._every_s / 4, read)

    async def _read_requests(self) -> None:
        ring = self._requests.prefix

        async def read() -> None:
            found, place = await self._requests.since(self._places.get(ring, ""))
            self._place(ring, place)
            if found:
                rows = [row_of(one) for one in found[-_MOST_ROWS:]]
                self._tell("requests", {"requests": rows, "skipped": len(found) - len(rows)})

        await _every(self._every_s / 2, read)

    async def _read_now(self) -> None:
        async def read() -> None:
            if self._now is not None:
                self._last_now = time.monotonic(), self._tell("now", await self._now())

        await _every(self._every_s, read)


async def _every(seconds: float, read: Callable[[], Awaitable[None]]) -> None:
    """Call it so often, for ever; what one call fails of, the next may not. A store that is away is reported
    elsewhere."""
    while True:
        try:
            await read()
        except StoreError:
            pass
        except Exception:  # noqa: BLE001 - whatever it is, pages have to hear of what comes next
            _log.exception("the dashboard's stream could not be read")
        await asyncio.sleep(seconds)
