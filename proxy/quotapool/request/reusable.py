"""Requests that need not be made: their answer is in the cache, or on its way to another who asked the same.

    bypass     it is not looked up, because of what it is or because its client says so: upstream is asked as ever
    hit        the cache has its answer
    coalesced  another request for the same is under way in this process: both get that answer as it comes
    miss       it is made, for all who ask the same meanwhile

Those in other processes wait for the entry. Whoever holds the lease makes the call; if that one dies, the lease runs
out, and one of those that wait makes it. What the proxy itself refuses (no room, no budget) is never shared: the next
one who waits asks for itself. An error of upstream's is shared with those waiting, and kept for nobody else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import structlog

from quotapool.cache.entry import Cost, Entry
from quotapool.cache.recording import End, Reader, Recording
from quotapool.cache.store import CacheStore, Found, Led
from quotapool.domain.request_record import RequestRecord, Saved
from quotapool.ledger.grants import Hold
from quotapool.money.price_list import PriceList
from quotapool.openai import replies
from quotapool.openai.facts import Canonical
from quotapool.openai.head import Header
from quotapool.openai.refusal import Refusal
from quotapool.openai.replay import EVENT_STREAM, Form, Kind, Replay, whole
from quotapool.openai.storable import MALFORMED, unstorable
from quotapool.request.by_item import ByItem
from quotapool.request.cache_control import CacheControl
from quotapool.request.client_request import ClientRequest
from quotapool.request.conversion import Conversion
from quotapool.request.part_payment import PartPayment
from quotapool.request.recorder import HEADER, Recorder
from quotapool.request.relay import Downstream
from quotapool.settings import Client
from quotapool.settings.cache import Cache

_log = structlog.get_logger()
Ask = Callable[[Downstream, ClientRequest], Awaitable[None]]


class Shared(Protocol):
    """What the requests of one process have in common (`reuse.py`)."""

    under_way: dict[bytes, Recording]
    payment: PartPayment
    prices: Callable[[], PriceList | None]


class Reusable:
    """One request that may do without upstream. `serve` it, once."""

    __slots__ = (
        *("_asked", "_by_item", "_cache", "_client", "_control", "_down", "_kind", "_name", "_named", "_record"),
        *("_request", "_shared", "_store", "_strips"),
    )

    def __init__(
        self,
        shared: Shared,
        store: CacheStore,
        cache: Cache,
        named: Callable[[bytes], bytes],
        control: CacheControl,
        asked: Canonical,
        request: ClientRequest,
        down: Downstream,
        client: Client | None,
        record: RequestRecord,
    ) -> None:
        self._shared = shared
        self._store = store
        self._cache = cache
        self._named = named
        self._name = named(asked.text)
        self._control = control
        self._asked = asked
        self._request = request
        self._down = down
        self._client = client
        self._record = record
        estimate = request.endpoint.estimate
        self._kind: Kind | None = estimate if estimate is not None and estimate != "embeddings" else None
        self._by_item = estimate == "embeddings" and request.text is request.body  # what came encoded goes on so
        self._strips = request.strip_usage

    async def serve(self, ask: Ask) -> None:
        """Answer it, by `ask` only if that is needed. Raises what `ask` raises, and Refusal (403, 429, 503, 504)."""
        control = self._control
        if control.only_if_cached:
            if self._by_item:
                recorder = Recorder(self._down, "miss", None, None)
                await self._items(recorder).serve(self._store, self._named, control.max_age_s, None)
            elif not await self._look_up():
                raise Refusal(replies.NOT_CACHED)
            return
        self._request.strip_usage = False  # what is recorded has it; this client's part is made of that
        if not control.looks_up:
            self._record.kept = "no_cache"
            await self._ask(ask, Recording(self._cache.max_entry), "bypass", shared=False)
        elif not self._may_be_shared():
            if not await self._look_up():
                await self._ask(ask, Recording(self._cache.max_entry), "miss", shared=False)
        else:
            under_way, tried = self._shared.under_way, None
            while (recording := under_way.get(self._name)) is not tried and recording and recording.takes_readers:
                if await self._follow(recording):
                    return
                tried = recording
            if tried is not None and tried.is_long:
                await self._ask(ask, Recording(self._cache.max_entry), "miss", shared=False)
            else:
                await self._lead(ask)

    def _may_be_shared(self) -> bool:
        """Its stream could end with a word to this client alone, or lack the usage that others ask for."""
        client, request = self._client, self._request
        if not self._cache.coalesce or (client is not None and client.on_stream_overrun == "cut"):
            return False
        return self._strips or self._asked.asked_usage or not request.streamed or request.endpoint.dialect != "chat"

    async def _look_up(self) -> bool:
        found = await self._store.look_up(self._name, max_age_s=self._control.max_age_s, lead=False)
        return isinstance(found, Found) and await self._hit(found)

    # ---- the one who asks

    async def _lead(self, ask: Ask) -> None:
        """Find the answer for all who ask the same from now on."""
        recording, under_way = Recording(self._cache.max_entry, self._sender), self._shared.under_way
        under_way[self._name] = recording
        recording.too_long = partial(self._store.release, self._name)  # it will not be kept: nobody is to wait for it
        try:
            found = await self._store.look_up(self._name, max_age_s=self._control.max_age_s, lead=True)
            if isinstance(found, Led):
                began = time.monotonic()
                found = await self._store.wait(self._name, max_age_s=self._control.max_age_s)
                self._record.upstream_s += time.monotonic() - began
            if isinstance(found, Found):
                recording.found = found
                recording.end(End.ABANDONED)
                if not await self._hit(found):
                    await self._ask(ask, Recording(self._cache.max_entry), "miss", shared=False)
                return
            await self._ask(ask, recording, "miss", shared=True)
        finally:
            recording.end(End.ABANDONED)
            if under_way.get(self._name) is recording:
                del under_way[self._name]

    async def _ask(self, ask: Ask, recording: Recording, result: str, *, shared: bool) -> None:
        """Make the call, and keep its answer if it may be kept."""
        self._record.cache, self._request.waited_s = result, self._record.upstream_s
        replay = Replay(self._kind, Form.EVENTS, streamed=True, usage=False) if self._kind and self._strips else None
        recorder = Recorder(self._down, result, recording, replay)
        try:
            if shared:
                await self._ask_for_all(ask, recorder, recording)
            else:
                await self._ask_upstream(ask, recorder)
        finally:
            recording.cost = _cost_of(self._record)
            self._record.kept = self._keep(recorder, recording, leads=shared) or self._record.kept
            if recorder.is_whole:
                recording.end(End.WHOLE)
        await recorder.finished()

    async def _ask_for_all(self, ask: Ask, recorder: Recorder, recording: Recording) -> None:
        """That its client leaves does not end it, as long as others read along."""
        task = asyncio.ensure_future(self._ask_upstream(ask, recorder))
        ended = asyncio.get_running_loop().create_future()  # `asyncio.shield` takes twice as long
        task.add_done_callback(partial(_tell, ended))
        was_cancelled = False
        try:
            await ended
        except asyncio.CancelledError:
            was_cancelled = True
        if was_cancelled:  # raised outside of `except`: compiled, what it caught is lost while it waits
            had_all, recorder.left = recorder.is_whole, True
            if recording.readers:
                recording.deserted = task.cancel
            elif not had_all:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # cancelled again, it cancels the task
            if not had_all:
                raise asyncio.CancelledError
        task.result()

    def _ask_upstream(self, ask: Ask, recorder: Recorder) -> Awaitable[None]:
        return self._ask_by_item(ask, recorder) if self._by_item else ask(recorder, self._request)

    async def _ask_by_item(self, ask: Ask, recorder: Recorder) -> None:
        """Ask for those inputs only that nobody knows, and put the answer together."""
        max_age_s = self._control.max_age_s if self._control.looks_up else 0.0
        word = await self._items(recorder).serve(self._store, self._named, max_age_s, ask)
        self._record.kept = word or self._record.kept

    def _items(self, recorder: Recorder) -> ByItem:
        record, prices = self._record, self._shared.prices()
        return ByItem(self._request, recorder, record, cache=self._cache, prices=prices, pay=self._pay)

    def _keep(self, recorder: Recorder, recording: Recording, *, leads: bool) -> str:
        """Put the answer into the cache; a word: why not. `leads`: the lease is to be given back."""
        is_whole = recorder.started and not self._by_item  # else its inputs are kept
        word = ""
        if is_whole:
            try:
                word = self._unkept(recorder, recording)
            except Exception:  # noqa: BLE001 - a bug in here must neither take the answer from anybody nor keep the lease
                _log.exception("an answer could not be judged", request_id=self._record.id)
                word = MALFORMED
        if is_whole and not word:
            client, body = self._client, recording.body()
            entry = Entry(recording.form, body, recording.content_type, self._request.model, recording.cost)
            self._store.put(self._name, entry, ttl_s=self._cache.ttl, client="" if client is None else client.id)
        elif leads and not recording.is_long:
            self._store.release(self._name)
        return word

    def _unkept(self, recorder: Recorder, recording: Recording) -> str:
        if not recorder.is_whole or recording.ended is End.CUT:
            return "cut"
        if recording.status != 200:
            return "error"
        if recording.is_long:
            return "too_large"
        if recorder.encoded:
            return "encoded"
        body = recording.body()
        text = body if recording.form is Form.JSON else whole(self._kind, body) if self._kind else None
        if text is None:
            return "cut"
        return unstorable(self._request.endpoint, self._asked, text, tools=self._cache.tools)

    # ---- those who need not ask

    async def _hit(self, found: Found) -> bool:
        """Answer from an entry. False: it cannot be made into what was asked for, and nothing was sent. Raises Refusal
        (403, 429, 503)."""
        entry, down = found.entry, self._down
        conversion = Conversion(self._kind, self._asked, entry.form, entry.content_type)
        if (body := await conversion.all(entry.body)) is None:
            return False
        saved = _saved(entry.cost)
        await self._pay(saved)
        headers = [(b"age", b"%d" % max(0, int(found.age_s))), *_headers(b"hit", conversion.content_type)]
        self._note("hit", saved)
        length = None if conversion.content_type == EVENT_STREAM else len(body)
        if (full := down.reply(200, "", headers, length, body)) is not None:
            await full
        return True

    async def _follow(self, recording: Recording) -> bool:
        """Answer from what another gets. False: that came to nothing, and nothing was sent. Raises Refusal (403, 429,
        503)."""
        reader, began = recording.reader(), time.monotonic()
        try:
            if not await reader.begins():
                found, most = recording.found, self._control.max_age_s
                return found is not None and (most is None or found.age_s <= most) and await self._hit(found)
            if recording.status != 200:
                return await self._follow_error(recording, reader)
            return await self._follow_for_pay(recording, reader)
        finally:
            reader.close()
            self._record.upstream_s += time.monotonic() - began

    async def _follow_for_pay(self, recording: Recording, reader: Reader) -> bool:
        hold = await self._hold(None)
        try:
            return await self._follow_answer(recording, reader)
        finally:
            if self._down.started:  # who leaves before the end pays, too
                recording.afterwards(lambda: self._settle(hold, _shared_of(recording)))
            else:
                self._settle(hold, None)

    async def _follow_error(self, recording: Recording, reader: Reader) -> bool:
        """It may be about what does not shape an answer, or about its client: it is for who sent the very same."""
        if recording.sender != self._sender or (body := await reader.whole()) is None:
            return False
        self._note("coalesced", Saved(), recording.status)
        headers = [*recording.headers, *_headers(b"coalesced", recording.content_type)]
        if (full := self._down.reply(recording.status, "", headers, len(body), body)) is not None:
            await full
        return True

    async def _follow_answer(self, recording: Recording, reader: Reader) -> bool:
        """False: there was none, and nothing was sent."""
        down, record = self._down, self._record
        conversion = Conversion(self._kind, self._asked, recording.form, recording.content_type)
        headers = _headers(b"coalesced", conversion.content_type)
        if conversion.content_type != EVENT_STREAM or recording.form is Form.JSON:
            text = await reader.whole()
            if text is None or (body := await conversion.all(text)) is None:
                return False
            self._note("coalesced", _saved(recording.cost))
            length = None if conversion.content_type == EVENT_STREAM else len(body)
            if (full := down.reply(200, "", headers, length, body)) is not None:
                await full
            return True
        self._note("coalesced", Saved())
        await down.start(200, "", headers, None)
        while piece := await reader.piece():
            await down.write(conversion.feed(piece))
        rest = conversion.finish()
        if recording.ended is not End.WHOLE or rest is None:
            record.cut = True
            down.cut()
            return True
        record.saved = _saved(recording.cost)
        await down.write(rest)
        await down.finish()
        return True

    async def _pay(self, saved: Saved) -> None:
        """Raises Refusal (403, 429, 503)."""
        self._settle(await self._hold(saved), saved)

    async def _hold(self, saved: Saved | None) -> Hold | None:
        """Raises Refusal (403, 429, 503)."""
        return await self._shared.payment.hold(self._request, self._record, self._cache.client_pays, saved)

    def _settle(self, hold: Hold | None, saved: Saved | None) -> None:
        self._shared.payment.settle(hold, self._cache.client_pays, saved)

    @property
    def _sender(self) -> tuple[str, bytes]:
        return self._record.client, self._request.text

    def _note(self, result: str, saved: Saved, status: int = 200) -> None:
        record = self._record
        record.status, record.source, record.cache, record.saved = status, "cache", result, saved


def _tell(ended: asyncio.Future[None], _task: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _headers(result: bytes, content_type: str) -> list[Header]:
    headers = [
        (b"content-type", content_type.encode("latin-1")),
        (b"x-quotapool-source", b"cache"),
        (HEADER, result),
    ]
    if content_type == EVENT_STREAM:
        headers.append((b"x-accel-buffering", b"no"))  # else nginx and its like collect the events first
    return headers


def _saved(cost: Cost) -> Saved:
    return Saved(1, cost.prompt, cost.completion, cost.pico)


def _shared_of(recording: Recording) -> Saved | None:
    return _saved(recording.cost) if recording.ended is End.WHOLE else None


def _cost_of(record: RequestRecord) -> Cost:
    """What the answer cost, or would have: the attempt that delivered it, and what of it was known."""
    usage = record.attempts[-1].usage if record.attempts else None
    known = record.saved or Saved()
    prompt, completion = (0, 0) if usage is None else (usage.prompt, usage.completion)
    pico = None if record.pico is None or known.pico is None else record.pico + known.pico
    return Cost(prompt + known.prompt, completion + known.completion, pico)
