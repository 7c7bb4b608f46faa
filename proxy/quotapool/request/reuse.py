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
from collections.abc import Awaitable, Callable
from typing import Final

from quotapool.cache.entry import Cost, Entry
from quotapool.cache.recording import End, Reader, Recording
from quotapool.cache.store import CacheStore, Found, Led
from quotapool.domain.request_record import RequestRecord, Saved
from quotapool.ledger.grants import Hold
from quotapool.openai import replies
from quotapool.openai.cacheable import canonical
from quotapool.openai.facts import Canonical
from quotapool.openai.head import Header
from quotapool.openai.own_members import OwnMembers
from quotapool.openai.refusal import Refusal
from quotapool.openai.replay import EVENT_STREAM, JSON, Form, Kind, Replay, whole
from quotapool.openai.storable import unstorable
from quotapool.pool.configuration import Configuration
from quotapool.request.cache_control import CacheControl, cache_control
from quotapool.request.client_request import ClientRequest
from quotapool.request.part_payment import PartPayment
from quotapool.request.recorder import HEADER, Recorder
from quotapool.request.relay import Downstream
from quotapool.settings import Client
from quotapool.settings.cache import Cache

Ask = Callable[[Downstream], Awaitable[None]]
_MOST_MODELS: Final = 1_000  # that clients named, for which it is known whether they match


class Reuse:
    """One process's part. `store` None: there is no cache.

    `since`: when a client of this name was made (Unix seconds), so that the next one of the name is another; 0 for those
    of the configuration.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        since: Callable[[str], float],
        payment: PartPayment,
    ) -> None:
        self.store: CacheStore | None = None
        self.payment = payment
        self.under_way: dict[bytes, Recording] = {}
        self._configuration = configuration
        self._since = since
        self._kept: tuple[Cache, dict[str, bool]] = Cache(), {}

    def of(
        self, down: Downstream, request: ClientRequest, client: Client | None, record: RequestRecord
    ) -> Reusable | None:
        """How this request can do without upstream; None: there is no cache for it."""
        cache, store = self._configuration.now.settings.cache, self.store
        if store is None or not cache.models:
            return None
        if not cache.serves(None if client is None else client.cache) or not self._keeps(cache, request):
            return None
        control = cache_control(down.headers)
        found = _canonical(request, down, control, cache)
        if isinstance(found, str):
            record.cache, record.kept = "bypass", found
            return Reusable(self, store, cache, b"", control, None, request, down, client, record)
        scope, beta = self._scope(cache, client), down.headers.get("openai-beta", "")
        where = request.endpoint.path if not beta else f"{request.endpoint.path} {beta}"
        name = store.secrets.name(scope, where, found.text)
        return Reusable(self, store, cache, name, control, found, request, down, client, record)

    def _keeps(self, cache: Cache, request: ClientRequest) -> bool:
        if request.endpoint.name == "models":
            return True
        if self._kept[0] is not cache or len(self._kept[1]) > _MOST_MODELS:
            self._kept = cache, {}
        known, model = self._kept[1], request.model
        keeps = known.get(model)
        if keeps is None:
            keeps = known[model] = model != "" and cache.keeps(model)
        return keeps

    def _scope(self, cache: Cache, client: Client | None) -> str:
        if cache.scope == "pool":
            return "pool"
        if client is None:
            return "anonymous"
        if cache.scope == "team" and client.team is not None:
            return f"team {client.team}"
        return f"client {client.id} {self._since(client.id)}"


def _canonical(request: ClientRequest, down: Downstream, control: CacheControl, cache: Cache) -> Canonical | str:
    """A word: why it is not looked up."""
    if control.no_store:
        return "no_store"
    if request.placement is not None:
        return "stored_objects"
    if request.stream is not None:
        return "form"
    found = canonical(request.endpoint, down.method, down.target, request.text)
    if isinstance(found, str):
        return found
    return found if found.temperature <= cache.max_temperature or control.asks else "temperature"


class Reusable:
    """One request that may do without upstream. `serve` it, once."""

    __slots__ = (
        *("_cache", "_canonical", "_client", "_control", "_down", "_kind", "_name", "_record"),
        *("_request", "_reuse", "_store", "_strips"),
    )

    def __init__(
        self,
        reuse: Reuse,
        store: CacheStore,
        cache: Cache,
        name: bytes,
        control: CacheControl,
        found: Canonical | None,
        request: ClientRequest,
        down: Downstream,
        client: Client | None,
        record: RequestRecord,
    ) -> None:
        self._reuse = reuse
        self._store = store
        self._cache = cache
        self._name = name
        self._control = control
        self._canonical = found
        self._request = request
        self._down = down
        self._client = client
        self._record = record
        estimate = request.endpoint.estimate
        self._kind: Kind | None = estimate if estimate is not None and estimate != "embeddings" else None
        self._strips = request.strip_usage

    async def serve(self, ask: Ask) -> None:
        """Answer it, by `ask` only if that is needed. Raises what `ask` raises, and Refusal (504)."""
        control, record = self._control, self._record
        if self._canonical is None:
            await ask(Recorder(self._down, b"bypass", None, None))
            return
        if control.only_if_cached:
            found = await self._store.look_up(self._name, max_age_s=control.max_age_s, lead=False)
            if not isinstance(found, Found) or not await self._hit(found):
                raise Refusal(replies.NOT_CACHED)
            return
        self._request.strip_usage = False  # what is recorded has it; this client's part is made of that
        if not control.looks_up:
            record.cache, record.kept = "bypass", "no_cache"
            await self._ask(ask, Recording(self._cache.max_entry), b"bypass", shared=False)
        elif not self._may_be_shared():
            found = await self._store.look_up(self._name, max_age_s=control.max_age_s, lead=False)
            if not isinstance(found, Found) or not await self._hit(found):
                record.cache = "miss"
                await self._ask(ask, Recording(self._cache.max_entry), b"miss", shared=False)
        else:
            under_way = self._reuse.under_way
            while (recording := under_way.get(self._name)) is not None and recording.takes_readers:
                if await self._follow(recording):
                    return
            await self._lead(ask)

    def _may_be_shared(self) -> bool:
        """Its stream could end with a word to this client alone, or lack the usage that others ask for."""
        client, request = self._client, self._request
        if not self._cache.coalesce or (client is not None and client.on_stream_overrun == "cut"):
            return False
        if not request.streamed or request.endpoint.dialect != "chat":
            return True
        return self._strips or (self._canonical is not None and self._canonical.asked_usage)

    # ---- the one who asks

    async def _lead(self, ask: Ask) -> None:
        """Find the answer for all who ask the same from now on."""
        recording, under_way = Recording(self._cache.max_entry), self._reuse.under_way
        under_way[self._name] = recording
        try:
            found = await self._store.look_up(self._name, max_age_s=self._control.max_age_s, lead=True)
            if isinstance(found, Led):
                found = await self._store.wait(self._name, max_age_s=self._control.max_age_s)
            if isinstance(found, Found):
                recording.found = found
                recording.end(End.ABANDONED)
                if not await self._hit(found):
                    self._record.cache = "miss"
                    await self._ask(ask, Recording(self._cache.max_entry), b"miss", shared=False)
                return
            self._record.cache = "miss"
            await self._ask(ask, recording, b"miss", shared=True)
        finally:
            recording.end(End.ABANDONED)
            if under_way.get(self._name) is recording:
                del under_way[self._name]

    async def _ask(self, ask: Ask, recording: Recording, result: bytes, *, shared: bool) -> None:
        """Make the call, and keep its answer if it may be kept."""
        replay = Replay(self._kind, Form.EVENTS, streamed=True, usage=False) if self._kind and self._strips else None
        recorder = Recorder(self._down, result, recording, replay)
        try:
            if shared:
                await self._ask_for_all(ask, recorder, recording)
            else:
                await ask(recorder)
        finally:
            recording.cost = _cost_of(self._record)
            self._record.kept = self._keep(recorder, recording) or self._record.kept
            if recorder.is_whole:
                recording.end(End.WHOLE)
        await recorder.finished()

    async def _ask_for_all(self, ask: Ask, recorder: Recorder, recording: Recording) -> None:
        """That its client leaves does not end it, as long as others read along."""
        task = asyncio.ensure_future(ask(recorder))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                raise
            recorder.left = True
            if recording.readers:
                recording.deserted = task.cancel
            else:
                task.cancel()
            try:
                await asyncio.wait({task})
            finally:
                task.cancel()
            raise

    def _keep(self, recorder: Recorder, recording: Recording) -> str:
        """Put the answer into the cache; a word: why not."""
        word = self._unkept(recorder, recording) if recorder.started else ""
        if word or not recorder.started:
            self._store.release(self._name)
            return word
        client, body = self._client, recording.body()
        entry = Entry(recording.form, body, recording.content_type, self._request.model, recording.cost)
        self._store.put(self._name, entry, ttl_s=self._cache.ttl, client="" if client is None else client.id)
        return ""

    def _unkept(self, recorder: Recorder, recording: Recording) -> str:
        if not recorder.is_whole or recording.ended is End.CUT:
            return "cut"
        if recording.status != 200:
            return "error"
        if recording.is_long:
            return "too_large"
        if recorder.encoded:
            return "encoded"
        if self._canonical is None:
            return "bypass"
        body = recording.body()
        text = body if recording.form is Form.JSON else whole(self._kind, body) if self._kind else None
        if text is None:
            return "cut"
        return unstorable(self._request.endpoint, self._canonical, text, tools=self._cache.tools)

    # ---- those who need not ask

    async def _hit(self, found: Found) -> bool:
        """Answer from an entry. False: it cannot be made into what was asked for, and nothing was sent. Raises Refusal
        (403, 429, 503)."""
        entry, down = found.entry, self._down
        conversion = self._conversion(entry.form, entry.content_type)
        body, rest = conversion.feed(entry.body), conversion.finish()
        if rest is None:
            return False
        body += rest
        saved = _saved(entry.cost)
        self._settle(await self._hold(saved), saved)
        headers = [(b"age", b"%d" % max(0, int(found.age_s))), *_headers(b"hit", conversion.content_type)]
        self._note("hit", saved)
        length = None if conversion.content_type == EVENT_STREAM else len(body)
        if (full := down.reply(200, "", headers, length, body)) is not None:
            await full
        return True

    async def _follow(self, recording: Recording) -> bool:
        """Answer from what another gets. False: that came to nothing, and nothing was sent. Raises Refusal (403, 429,
        503)."""
        reader, hold, saved = recording.reader(), None, None
        try:
            if not await reader.begins():
                found, most = recording.found, self._control.max_age_s
                return found is not None and (most is None or found.age_s <= most) and await self._hit(found)
            if recording.status != 200:
                return await self._follow_error(recording, reader)
            hold = await self._hold(None)
            saved = await self._follow_answer(recording, reader)
            return saved is not None
        finally:
            reader.close()
            self._settle(hold, saved)

    async def _follow_error(self, recording: Recording, reader: Reader) -> bool:
        body = await reader.rest()
        if recording.ended is not End.WHOLE:
            return False
        self._note("coalesced", Saved(), recording.status)
        headers = [*recording.headers, *_headers(b"coalesced", recording.content_type)]
        if (full := self._down.reply(recording.status, "", headers, len(body), body)) is not None:
            await full
        return True

    async def _follow_answer(self, recording: Recording, reader: Reader) -> Saved | None:
        """None: there was none, and nothing was sent."""
        down, record = self._down, self._record
        conversion = self._conversion(recording.form, recording.content_type)
        headers = _headers(b"coalesced", conversion.content_type)
        if conversion.content_type != EVENT_STREAM or recording.form is Form.JSON:
            body = conversion.feed(await reader.rest())
            rest = conversion.finish()
            if recording.ended is not End.WHOLE or rest is None:
                return None
            body += rest
            saved = _saved(recording.cost)
            self._note("coalesced", saved)
            length = None if conversion.content_type == EVENT_STREAM else len(body)
            if (full := down.reply(200, "", headers, length, body)) is not None:
                await full
            return saved
        self._note("coalesced", Saved())
        await down.start(200, "", headers, None)
        while piece := await reader.piece():
            await down.write(conversion.feed(piece))
        rest = conversion.finish()
        if recording.ended is not End.WHOLE or rest is None:
            record.cut = True
            down.cut()
            return Saved()
        record.saved = saved = _saved(recording.cost)
        await down.write(rest)
        await down.finish()
        return saved

    async def _hold(self, saved: Saved | None) -> Hold | None:
        """Raises Refusal (403, 429, 503)."""
        return await self._reuse.payment.hold(self._record.client, self._request, self._cache.client_pays, saved)

    def _settle(self, hold: Hold | None, saved: Saved | None) -> None:
        self._reuse.payment.settle(hold, self._cache.client_pays, saved)

    def _conversion(self, form: Form, content_type: str) -> _Conversion:
        kind, asked = self._kind, self._canonical
        if kind is None or asked is None:
            return _Conversion(content_type, None, None)
        streamed = self._request.streamed
        own = OwnMembers(asked.own, streamed=streamed) if kind == "responses" else None
        replay = Replay(kind, form, streamed=streamed, usage=asked.asked_usage)
        return _Conversion(EVENT_STREAM if streamed else JSON, replay, own)

    def _note(self, result: str, saved: Saved, status: int = 200) -> None:
        record = self._record
        record.status, record.source, record.cache, record.saved = status, "cache", result, saved


class _Conversion:
    """Makes what a client asked for of what was recorded for another one."""

    __slots__ = ("_own", "_replay", "content_type")

    def __init__(self, content_type: str, replay: Replay | None, own: OwnMembers | None) -> None:
        self.content_type = content_type
        self._replay = replay
        self._own = own

    def feed(self, piece: bytes) -> bytes:
        part = piece if self._replay is None else self._replay.feed(piece)
        return part if self._own is None or not part else self._own.feed(part)

    def finish(self) -> bytes | None:
        """None: it cannot be made."""
        rest = b"" if self._replay is None else self._replay.finish()
        if rest is None or self._own is None:
            return rest
        return (self._own.feed(rest) if rest else b"") + self._own.finish()


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


def _cost_of(record: RequestRecord) -> Cost:
    """What the answer cost: of the attempt that delivered it."""
    usage = record.attempts[-1].usage if record.attempts else None
    return Cost(0, 0, record.pico) if usage is None else Cost(usage.prompt, usage.completion, record.pico)
